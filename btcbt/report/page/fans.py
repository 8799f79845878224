"""Quantiles of every forecast for the browser of the page, and what the same pass over the forecasts tells of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from btcbt.config import interval_ms
from btcbt.metrics.distribution import LEVELS as COVERED
from btcbt.metrics.distribution import (
    interval_coverage,
    probability_integral_transform,
    sample_quantiles,
)
from btcbt.metrics.intervals import rate_interval
from btcbt.records import CLOSE, IN_BPS, FloatArray
from btcbt.report.figures import milliseconds
from btcbt.report.page.blobs import pack
from btcbt.report.page.series import pit_shares
from btcbt.storage.runs import Run

LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
"""The median and the ends of the central 50, 80 and 95 %."""
MEDIAN = LEVELS.index(0.5)
PRECISION = 16.0
"""Steps of rounding in half the width of the central 50 % of a long run's fans."""


class Closes(NamedTuple):
    """Closes of a run: of the candle before each origin, and the next ones of origins that are scored."""

    close: NDArray[np.float64]
    times: NDArray[np.int64]
    origins: NDArray[np.int64]
    scored: NDArray[np.bool_]
    interval: int

    @classmethod
    def of(cls, run: Run) -> Closes:
        """Read those of a run."""
        candles, origins = run.candles(), run.origins()
        return cls(
            candles["close"].to_numpy(dtype=np.float64),
            milliseconds(candles.index),
            milliseconds(origins.index),
            origins["scored"].to_numpy(dtype=np.bool_),
            interval_ms(run.config.candles.interval),
        )

    @property
    def last(self) -> FloatArray:
        """Close of the candle before each origin."""
        return np.asarray(self.close[np.searchsorted(self.times, self.origins) - 1])

    def after(self, part: slice, step: int) -> FloatArray:
        """Close of the candle so many steps after each origin; NaN where it is absent or the origin is not scored."""
        wanted = self.origins[part] + (step - 1) * self.interval
        at = np.minimum(np.searchsorted(self.times, wanted), len(self.times) - 1)
        return np.where((self.times[at] == wanted) & self.scored[part], self.close[at], np.nan)


class Fans(NamedTuple):
    """What the page draws of one forecaster.

    Attributes
    ----------
    quantiles : int16 (M, H, 7)
        Against the last close, in units.
    units : float64 (H,)
        bps a unit, by step.
    pit : mapping of str to list of float
        Histogram of the close's PIT by step, the first and the last.
    coverage : list of mapping
        By level of `distribution.LEVELS`: share inside by step, %, and the ends of its 95 % interval.
    """

    quantiles: NDArray[np.int16]
    units: FloatArray
    pit: Mapping[str, list[float]]
    coverage: list[Mapping[str, Any]]


def read_fans(run: Run, name: str, closes: Closes, *, fine: bool) -> Fans:
    """Read the forecasts of a forecaster once.

    `fine`: quantiles are to 1 bps; otherwise to a share of the fan's own width at each step, which a chart cannot show.
    The quantiles are those that scores use, so that what is drawn is what is tested; coverage and its intervals are
    those of the scores, at every step.
    """
    horizon, count = run.config.windows.horizon, len(closes.origins)
    gains, done = np.empty((count, horizon, len(LEVELS)), dtype=np.float32), 0
    steps = sorted({1, horizon})
    pit = np.full((count, len(steps), 2), np.nan)
    inside = np.full((len(COVERED), horizon, count), np.nan)
    for batch in run.forecasts(name).batches():
        part = slice(done, done + len(batch.paths))
        samples = np.sort(batch.paths[..., CLOSE], axis=1).transpose(0, 2, 1)
        gains[part] = _gains(samples, closes.last[part])
        outcomes = np.stack([closes.after(part, step) for step in range(1, horizon + 1)], axis=1)
        for k, level in enumerate(COVERED):
            inside[k, :, part] = interval_coverage(samples, outcomes, level).T
        for k, step in enumerate(steps):
            for end in (0, 1):
                pit[part, k, end] = probability_integral_transform(
                    samples[:, step - 1], outcomes[:, step - 1], np.float64(end)
                )
        done = part.stop
    overlap = math.ceil(horizon / run.config.windows.stride)
    return Fans(
        *_in_units(gains, fine=fine),
        {str(step): pit_shares(*pit[:, k].T) for k, step in enumerate(steps)},
        [{"level": level} | _shares(inside[k], overlap) for k, level in enumerate(COVERED)],
    )


def read_quantiles(
    run: Run, name: str, closes: Closes, every: int, *, fine: bool
) -> tuple[NDArray[np.int16], FloatArray]:
    """The quantiles and units of `Fans` at every n-th origin."""
    gains, done = [], 0
    for batch in run.forecasts(name).batches():
        rows = np.arange(-done % every, len(batch.paths), every)
        samples = np.sort(batch.paths[rows][..., CLOSE], axis=1).transpose(0, 2, 1)
        gains.append(_gains(samples, closes.last[done + rows]).astype(np.float32))
        done += len(batch.paths)
    return _in_units(np.concatenate(gains), fine=fine)


def _gains(samples: NDArray[Any], last: FloatArray) -> FloatArray:
    """Quantiles (b, H, 7) of sorted closes (b, H, S) against the last close, bps."""
    return np.asarray(IN_BPS * (sample_quantiles(samples, LEVELS) / last[:, None, None] - 1.0))


def _in_units(gains: NDArray[np.float32], *, fine: bool) -> tuple[NDArray[np.int16], FloatArray]:
    """Quantiles in units, and the units by step."""
    units = np.ones(gains.shape[1]) if fine else _units(gains)
    return np.clip(np.rint(np.nan_to_num(gains / units[:, None])), -32767, 32767).astype(np.int16), units


def _units(gains: NDArray[np.float32]) -> FloatArray:
    """A sixteenth of half the width of the central 50 % at each step, at the median origin; at least 1 bps."""
    half = (gains[:, :, LEVELS.index(0.75)] - gains[:, :, LEVELS.index(0.25)]) / 2.0
    return np.asarray(
        np.maximum(1.0, np.round(np.nan_to_num(np.nanmedian(half, axis=0)).astype(np.float64) / PRECISION, 1))
    )


def pack_fans(quantiles: NDArray[np.int16], steps: Sequence[int]) -> str:
    """Quantiles (M, H, 7) in units at some steps, for the script."""
    return pack(quantile_steps(quantiles[:, np.array(steps) - 1]))


def fewer_steps(horizon: int) -> list[int]:
    """Every second step, and the first; those between are drawn as straight lines."""
    return sorted({1, *range(horizon, 1, -2)})


def _shares(inside: FloatArray, overlap: int) -> dict[str, list[float | None]]:
    """Coverage by step (H, M), %, with intervals."""
    rates = [rate_interval(hits, overlap) for hits in inside]
    return {key: [_percent(getattr(rate, key)) for rate in rates] for key in ("share", "low", "high")}


def _percent(share: float) -> float | None:
    return round(100.0 * share, 2) if math.isfinite(share) else None


def quantile_steps(quantiles: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Quantiles (M, H, 7) in units as bytes that compress well; exact, modulo 2**16.

    The median and the gaps between neighbouring quantiles, each as its change from the step before, change by change
    together, small values near zero (zigzag), first all low bytes and then all high bytes.
    """
    parts = np.diff(quantiles, axis=2, prepend=np.int16(0))
    parts[:, :, 0] = quantiles[:, :, MEDIAN]
    changes = np.diff(parts, axis=1, prepend=np.int16(0)).transpose(2, 1, 0)
    folded = np.ascontiguousarray(((changes << 1) ^ (changes >> 15)).astype("<u2"))
    return np.ascontiguousarray(folded.ravel().view(np.uint8).reshape(-1, 2).T)
