"""A panel of scores: one forecaster at every origin, step and channel.

Forecasts are scored batch by batch: a panel takes about 85 bytes for each origin, step and channel, and every score
of the table (`btcbt.metrics.table`) is computed from panels, by `btcbt.metrics.streaming`.

Scale-free units. Prices are also scored as log returns from the last known close, in basis points (1e-4);
volume, which may be zero, as a multiple of the context's mean volume, in the same 1e-4. Names with ``_bps``
are in those.

The naive forecast, the benchmark of MASE and R2, is no change: for open and close the last close,
for high, low and volume the last candle's value.

NaN policy. A path with a value that is not finite, or a price that is not positive, makes the scores of its
origin NaN at that step and channel; so does such an outcome. Means leave NaN out, and the share that could be
scored is reported as ``scored``, so that a forecaster cannot gain by failing to forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btcbt.metrics import distribution, ensembles
from btcbt.metrics.score import comparison_steps
from btcbt.metrics.volatility import realised_variance
from btcbt.randomness import uniforms
from btcbt.records import (
    CHANNELS,
    CLOSE,
    HIGH,
    IN_BPS,
    LOW,
    OPEN,
    VOLUME,
    Float32Array,
    FloatArray,
    IntArray,
    PathKind,
)

SCORED = CHANNELS[:5]
"""Channels that are scored: open, high, low, close, volume."""
SANITY = ("not_finite", "not_positive", "high_too_low", "low_too_high", "negative_volume")
"""Ways in which a sampled candle can be invalid; `LossPanel.insane` counts each."""

_CHUNK_BYTES = 2**22  # of float64 samples scored at once: their copies stay in the cache
# Key the randomised PIT and the signs of path noise apart from any forecaster's own seed.
_JITTER_SEED, _SIGN_SEED = 2**62 + 1957, 2**62 + 1981


@dataclass(frozen=True, slots=True, eq=False)
class LossPanel:
    """Scores of one forecaster at B origins, H steps and the C = 5 channels of `SCORED`.

    Attributes
    ----------
    origins : int64 (B,)
        Origins, ms UTC, increasing.
    interval_ms, n_paths : int
        Candle length, and paths of each origin.
    outcome : float64 (B, H, C)
        Realised values, in quote and base units.
    naive : float64 (B, C)
        No change, for every step.
    last_close, mean_volume, past_volatility : float64 (B,)
        Of the context: the last close, the mean volume, and the realised volatility of its hourly log returns
        in bps. All known at the origin.
    mean, mean_bps, crps, crps_bps, pit : float32 (B, H, C)
        Mean of the paths, mean of their log returns, CRPS in both units, and PIT.
    quantiles : float32 (B, H, C, Q)
        At `distribution.PROBABILITIES`, in quote and base units.
    covered : float32 (B, H, C, 4)
        Coverage of the central intervals of `distribution.LEVELS`, 0 to 1.
    energy_bps : float64 (B,)
        Energy score of the close path as a vector of H log returns from the origin.
    crps_noise : float64 (B, K)
        A draw of the error of the close's ``crps_bps`` at the K steps of `score.comparison_steps` that comes from the
        number of paths (`ensembles.crps_noise`); NaN for dependent paths, of which it is not known.
    energy_noise : float64 (B,)
        The same of `energy_bps`.
    variance, realised : float64 (B, H)
        Forecast and realised variance of the close from the origin to each step.
    insane : int64 (B, 5)
        Sampled candles, of S x H, that break each rule of `SANITY`.
    labels : str (B,)
        Contamination label of each origin; empty strings if none was given.
    """

    origins: IntArray
    interval_ms: int
    n_paths: int
    outcome: FloatArray
    naive: FloatArray
    last_close: FloatArray
    mean_volume: FloatArray
    past_volatility: FloatArray
    mean: Float32Array
    mean_bps: Float32Array
    crps: Float32Array
    crps_bps: Float32Array
    pit: Float32Array
    quantiles: Float32Array
    covered: Float32Array
    energy_bps: FloatArray
    crps_noise: FloatArray
    energy_noise: FloatArray
    variance: FloatArray
    realised: FloatArray
    insane: IntArray
    labels: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def horizon(self) -> int:
        """H, forecast steps."""
        return int(self.outcome.shape[1])

    @property
    def stride(self) -> int:
        """Candles between neighbouring origins (the smallest gap); 1 with a single origin."""
        gaps = np.diff(self.origins)
        return max(1, int(gaps.min()) // self.interval_ms) if len(gaps) else 1

    def overlap(self, step: int) -> int:
        """Origins, itself included, whose outcomes at `step` (1..H) share candles."""
        return -(-step // self.stride)

    def select(self, rows: ArrayLike) -> LossPanel:
        """The panel at some origins: a boolean mask or indices (in time order)."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _ARRAYS})

    @staticmethod
    def concatenate(panels: Sequence[LossPanel]) -> LossPanel:
        """Join panels of one forecaster and sort them by origin.

        Raises
        ------
        ValueError
            If there are none, an origin occurs twice, or horizons, intervals or numbers of paths differ.
        """
        if not panels:
            raise ValueError("no panels to join")
        shapes = {(p.horizon, p.interval_ms, p.n_paths) for p in panels}
        if len(shapes) > 1:
            raise ValueError(f"panels differ in (horizon, interval_ms, n_paths): {sorted(shapes)}")
        joined: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in panels]) for name in _ARRAYS}
        panel = replace(panels[0], **joined)
        if np.any(np.diff(panel.origins) <= 0):
            order = np.argsort(panel.origins, kind="stable")
            panel = panel.select(order)
            if np.any(np.diff(panel.origins) == 0):
                raise ValueError("an origin occurs in more than one panel")
        return panel

    def to_bps(self, values: ArrayLike) -> FloatArray:
        """Convert values (B, H, C) or (B, H, C, Q) in quote and base units to the scale-free units."""
        return _scale_free(np.asarray(values, dtype=np.float64), self.last_close, self.mean_volume)


_ARRAYS = tuple(f.name for f in fields(LossPanel) if f.name not in ("interval_ms", "n_paths"))


def score_batch(
    origins: IntArray,
    paths: Float32Array,
    outcomes: ArrayLike,
    context: FloatArray,
    *,
    interval_ms: int = 3_600_000,
    labels: ArrayLike | None = None,
    paths_are: PathKind = "independent",
) -> LossPanel:
    """Score the forecasts of some origins.

    Parameters
    ----------
    origins : int64 (B,)
        Origins, ms UTC, increasing.
    paths : float32 (B, S, H, 6)
        Sampled candles.
    outcomes : float64 (B, H, 6)
        The candles after each origin.
    context : float64 (B, T, 6)
        The candles up to each origin, newest last, T at least 2. They alone set the scales.
    interval_ms : int
        Candle length.
    labels : str or int (B,), optional
        Contamination label of each origin.
    paths_are : {"independent", "dependent"}
        How the paths of an origin were made: chooses the estimator of CRPS and energy score (`ensembles`).

    Returns
    -------
    LossPanel
    """
    outcomes = np.asarray(outcomes, dtype=np.float64)
    _check(origins, paths, outcomes, context)
    texts = np.full(len(origins), "") if labels is None else np.asarray(labels).astype(str)
    if texts.shape != (len(origins),):
        raise ValueError(f"labels {texts.shape} are not one for each of {len(origins)} origins")
    parts = []
    chunk = max(1, _CHUNK_BYTES // (8 * len(SCORED) * paths.shape[1] * paths.shape[2]))
    for start in range(0, len(origins), chunk):
        rows = slice(start, start + chunk)
        scores = _score_chunk(origins[rows], paths[rows], outcomes[rows], context[rows], paths_are)
        parts.append(LossPanel(interval_ms=interval_ms, n_paths=paths.shape[1], labels=texts[rows], **scores))
    return LossPanel.concatenate(parts)


def _check(origins: IntArray, paths: Float32Array, outcomes: FloatArray, context: FloatArray) -> None:
    if paths.ndim != 4 or paths.shape[3] != len(CHANNELS) or 0 in paths.shape:
        raise ValueError(f"paths {paths.shape} are not (B, S, H, 6) without empty axes")
    n, _, horizon, channels = paths.shape
    if np.shape(origins) != (n,) or outcomes.shape != (n, horizon, channels):
        raise ValueError(f"origins {np.shape(origins)} or outcomes {outcomes.shape} do not fit paths {paths.shape}")
    if context.ndim != 3 or context.shape[0] != n or context.shape[1] < 2 or context.shape[2] != channels:
        raise ValueError(f"context {context.shape} is not (B={n}, T >= 2, 6)")


def _score_chunk(
    origins: IntArray, paths: Float32Array, outcomes: FloatArray, context: FloatArray, paths_are: PathKind
) -> dict[str, Any]:
    """Scores of some origins, as the arrays of a panel."""
    horizon = paths.shape[2]
    n_scored = len(SCORED)
    last_close, mean_volume = context[:, -1, CLOSE], context[:, :, VOLUME].mean(axis=1)
    naive = context[:, -1, :n_scored].copy()
    naive[:, OPEN] = last_close

    samples = np.moveaxis(paths[..., :n_scored], 1, -1).astype(np.float64)  # (B, H, C, S)
    samples.sort(axis=-1)
    good = np.asarray(np.isfinite(samples).all(axis=-1))
    good[..., :VOLUME] &= samples[..., :VOLUME, 0] > 0.0
    samples[~good] = np.nan
    outcome = outcomes[..., :n_scored].copy()
    possible = np.isfinite(outcome)
    possible[..., :VOLUME] &= outcome[..., :VOLUME] > 0.0
    outcome[~possible] = np.nan

    scaled = _scale_free(samples, last_close, mean_volume)
    scaled_outcome = _scale_free(outcome, last_close, mean_volume)
    jitter = np.swapaxes(uniforms(_JITTER_SEED, origins, n_scored, horizon)[..., 0], 1, 2)
    covered = np.stack([distribution.interval_coverage(samples, outcome, v) for v in distribution.LEVELS], -1)
    close_paths = np.asarray(paths[..., CLOSE], dtype=np.float64)
    logs = _log_returns(close_paths, last_close[:, None])
    realised_logs = _log_returns(outcome[..., CLOSE], last_close)
    between = distribution.summed_distances(logs)
    return {
        "origins": np.asarray(origins, dtype=np.int64),
        "outcome": outcome,
        "naive": naive,
        "last_close": last_close.copy(),
        "mean_volume": mean_volume,
        "past_volatility": past_volatility(context[:, :, CLOSE]),
        "mean": samples.mean(axis=-1).astype(np.float32),
        "mean_bps": scaled.mean(axis=-1).astype(np.float32),
        "crps": ensembles.crps(samples, outcome, paths_are, is_sorted=True).astype(np.float32),
        "crps_bps": ensembles.crps(scaled, scaled_outcome, paths_are, is_sorted=True).astype(np.float32),
        "pit": distribution.probability_integral_transform(samples, outcome, jitter, is_sorted=True).astype(np.float32),
        "quantiles": distribution.sample_quantiles(samples).astype(np.float32),
        "covered": covered.astype(np.float32),
        "energy_bps": ensembles.energy_score(logs, realised_logs, paths_are, between),
        **_path_noise(origins, logs, realised_logs, paths_are, between),
        "variance": realised_variance(close_paths, last_close[:, None]).mean(axis=1),
        "realised": realised_variance(outcome[..., CLOSE], last_close),
        "insane": _count_insane(paths),
    }


def _path_noise(
    origins: IntArray, logs: FloatArray, realised: FloatArray, paths_are: PathKind, between: FloatArray
) -> dict[str, FloatArray]:
    """A draw of the noise of the close's losses that few paths make.

    From log returns (B, S, H) and (B, H), and the summed distances (B, S) of the former.
    """
    steps = np.array(comparison_steps(logs.shape[2])) - 1
    if paths_are == "dependent":
        return {"crps_noise": np.full((len(logs), len(steps)), np.nan), "energy_noise": np.full(len(logs), np.nan)}
    signs = _path_signs(origins, logs.shape[1])
    closes = np.moveaxis(logs[:, :, steps], 1, -1)
    return {
        "crps_noise": ensembles.crps_noise(closes, realised[:, steps], signs[:, None]),
        "energy_noise": ensembles.energy_noise(logs, realised, signs, between),
    }


def _path_signs(origins: IntArray, n_paths: int) -> FloatArray:
    """1 or -1 for each path of each origin, (B, S); path k has the same whatever S is."""
    steps = 32  # of the keyed numbers, two to a step: few keys are several times faster than one for each path
    numbers = uniforms(_SIGN_SEED, origins, -(-n_paths // (2 * steps)), steps).reshape(len(origins), -1)
    return np.where(numbers[:, :n_paths] < 0.5, -1.0, 1.0)


def _scale_free(values: FloatArray, last_close: FloatArray, mean_volume: FloatArray) -> FloatArray:
    """Log returns from the last close for prices, multiples of mean volume for volume; both in 1e-4."""
    out = np.empty_like(values)
    prices, volume = values[:, :, :VOLUME], values[:, :, VOLUME]
    # Samples that are not positive are NaN already, but outcomes of other callers may be zero.
    safe = np.where(prices > 0.0, prices, np.nan)
    out[:, :, :VOLUME] = IN_BPS * np.log(safe / _trailing(last_close, values.ndim))
    out[:, :, VOLUME] = IN_BPS * volume / _trailing(np.where(mean_volume > 0.0, mean_volume, np.nan), volume.ndim)
    return out


def _trailing(per_origin: FloatArray, ndim: int) -> FloatArray:
    """One number per origin (B,), reshaped to broadcast against `ndim` axes."""
    return per_origin.reshape(-1, *(1,) * (ndim - 1))


def _log_returns(close: FloatArray, last_close: FloatArray) -> FloatArray:
    """Log returns in bps from the last close (...) to each close (..., H); NaN for a close not positive."""
    return np.asarray(IN_BPS * np.log(np.where(close > 0.0, close, np.nan) / last_close[..., None]))


def past_volatility(close: FloatArray) -> FloatArray:
    """Root mean squared log return of the context's closes (B, T), bps per candle."""
    return np.asarray(IN_BPS * np.sqrt(np.mean(np.diff(np.log(close), axis=1) ** 2, axis=1)))


def _count_insane(paths: Float32Array) -> IntArray:
    """Sampled candles of each origin that break each rule of `SANITY`, (B, 5)."""
    opens, high, low, close = (paths[..., c] for c in (OPEN, HIGH, LOW, CLOSE))
    broken = (
        ~np.isfinite(paths[..., : len(SCORED)]).all(axis=-1),
        (paths[..., :VOLUME] <= 0.0).any(axis=-1),
        high < np.maximum(opens, close),
        low > np.minimum(opens, close),
        paths[..., VOLUME] < 0.0,
    )
    return np.stack([np.count_nonzero(rule, axis=(1, 2)) for rule in broken], axis=-1).astype(np.int64)
