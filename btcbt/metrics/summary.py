"""Panels to flat dictionaries of numbers.

Keys are dotted: ``score.channel.step``, where the step is ``h1`` .. ``hH`` or ``all`` (every step pooled),
say ``crps_bps.close.h24`` or ``mae.volume.all``. Scores of the close path alone have no channel
(``qlike.h24``), scores of a whole forecast neither (``energy_bps``). Splits put the group in front:
``by_month.2019-06.mae_bps.close.h1``, ``by_volatility.high...``, ``by_label.clean...``; the number of origins
in a group is ``by_month.2019-06.origins``. Callers put the forecaster in front of all that
(``forecast.kronos.crps_bps.close.h24``).

=====================  ================================================================================
score                  meaning (unit: that of the channel; ``_bps``: scale-free, see `panel`)
=====================  ================================================================================
mae, mape, mase        absolute error of the median; percent of the outcome; multiple of no change
rmse, r2, bias         error of the mean; out-of-sample R2 against no change; mean of forecast - outcome
crps, pinball          CRPS; mean pinball loss over the quantiles of `distribution.PROBABILITIES`
coverage50 .. 95       percent of outcomes in the central interval; ``_attainable``: if calibrated, with so few paths
width50_bps .. 95      mean width of that interval
direction              share of right signs of the median's change from the naive forecast
ic, rank_ic            correlation over time of forecast and realised change
pit_p, direction_p     p-values: PIT uniform; signs right by chance (one-sided)
ic_t, rank_ic_t        overlap-aware t-statistics
qlike, volatility_*    realised variance and volatility of the close from the origin to the step
energy_bps             energy score of the close path
insane_*               share of sampled candles that break a rule of a candle
scored                 share of origins that could be scored
=====================  ================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btcbt.metrics import accuracy, distribution, volatility
from btcbt.metrics.comparison import model_confidence_set
from btcbt.metrics.inference import MeanTest, diebold_mariano
from btcbt.metrics.panel import SANITY, SCORED, LossPanel
from btcbt.records import CLOSE, FloatArray

REGIMES = ("low", "middle", "high")
_Scores = dict[str, FloatArray]


def summarise(panel: LossPanel, reference: LossPanel | None = None, *, splits: bool = True) -> dict[str, float]:
    """Every score of a panel as one flat dictionary.

    Parameters
    ----------
    panel : LossPanel
        B origins.
    reference : LossPanel, optional
        The random walk, say, at any origins; adds what `compare` gives on the shared ones.
    splits : bool
        Also split the scores by calendar month (UTC, of the origin), volatility regime and label, at the
        first step, the last, and all pooled.

    Returns
    -------
    dict of str to float
        Dotted keys; NaN where a score is not defined. ``origins`` is B.
    """
    if len(panel) == 0:
        raise ValueError("a panel without origins has no scores")
    out = {"origins": float(len(panel)), **_flatten(scores(panel), panel.horizon)}
    out.update(_flatten(_tests(panel), panel.horizon))
    for level in distribution.LEVELS:
        out[f"coverage{level}_attainable"] = distribution.attainable_level(panel.n_paths, level)
    if splits:
        ends = {1, panel.horizon}
        thresholds, groups = _splits(panel)
        out.update(thresholds)
        for name, rows in groups:
            part = panel.select(rows)
            out[f"{name}.origins"] = float(len(part))
            out.update({f"{name}.{k}": v for k, v in _flatten(scores(part), panel.horizon, ends).items()})
    if reference is not None:
        out.update({f"versus.{key}": value for key, value in compare(panel, reference).items()})
    return out


def scores(panel: LossPanel) -> dict[str, FloatArray]:
    """Scores by step and channel, in the order of the table above.

    Returns
    -------
    dict of str to float64
        ``(H + 1, C)`` for scores of channels, ``(H + 1,)`` for scores of the close path, ``()`` for scores of
        whole forecasts. Row ``H`` pools all steps. NaN policy: `panel`.
    """
    naive = panel.naive[:, None, :]
    median = panel.quantiles[..., distribution.MEDIAN]
    out = _point_scores(median, panel.mean, panel.outcome, np.broadcast_to(naive, panel.outcome.shape))
    median_bps, outcome_bps = panel.to_bps(median), panel.to_bps(panel.outcome)
    naive_bps = panel.to_bps(np.broadcast_to(naive, panel.outcome.shape))
    out["mae_bps"] = _by_step(accuracy.mean_absolute_error, median_bps, outcome_bps)
    out["rmse_bps"] = _by_step(accuracy.root_mean_squared_error, panel.mean_bps, outcome_bps)
    out["bias_bps"] = _by_step(accuracy.bias, panel.mean_bps, outcome_bps)
    out["direction"] = _by_step(accuracy.directional_accuracy, median_bps - naive_bps, outcome_bps - naive_bps)
    out["crps"] = _by_step(accuracy.nan_mean, panel.crps)
    out["crps_bps"] = _by_step(accuracy.nan_mean, panel.crps_bps)
    out.update(_interval_scores(panel))
    out["scored"] = _by_step(accuracy.nan_mean, np.isfinite(panel.crps))
    out["qlike"] = _by_step(volatility.qlike, panel.variance, panel.realised)
    error = volatility.volatility_error(panel.variance, panel.realised)
    out["volatility_mae_bps"] = _by_step(accuracy.nan_mean, np.abs(error))
    out["volatility_bias_bps"] = _by_step(accuracy.nan_mean, error)
    out["energy_bps"] = accuracy.nan_mean(panel.energy_bps)
    candles = len(panel) * panel.n_paths * panel.horizon
    for name, count in zip(SANITY, panel.insane.sum(axis=0), strict=True):
        out[f"insane_{name}"] = np.asarray(count / candles)
    return out


def compare(panel: LossPanel, reference: LossPanel) -> dict[str, float]:
    """Paired comparison of a forecaster with a reference at the origins that both have.

    Losses: ``crps_bps`` and ``abs_bps`` (absolute error of the median) for each channel and step,
    ``energy_bps`` of the close path and ``qlike`` of its last step. For each: ``.skill`` (one minus the ratio
    of mean losses, positive if the forecaster is better), ``.dm`` (Diebold-Mariano statistic, negative if it
    is better) and ``.dm_p`` (two-sided, cosine long-run variance over the overlap; see
    `inference.diebold_mariano`). For the close's CRPS at the last step also ``.hln`` and ``.hln_p``, the
    Harvey-Leybourne-Newbold version. Origins where either is NaN are left out of a loss, and the rest of the
    p-values are not adjusted for their number.

    Raises
    ------
    ValueError
        If no origin is shared, or horizons differ.
    """
    if panel.horizon != reference.horizon:
        raise ValueError(f"horizons differ: {panel.horizon} and {reference.horizon}")
    shared, rows, other = np.intersect1d(panel.origins, reference.origins, return_indices=True)
    if len(shared) == 0:
        raise ValueError("the panels share no origin")
    a, b = panel.select(rows), reference.select(other)
    out = {"origins": float(len(shared))}
    abs_a, abs_b = _absolute_error(a), _absolute_error(b)
    for step in range(1, a.horizon + 1):
        for c, channel in enumerate(SCORED):
            where = f"{channel}.h{step}"
            overlap = a.overlap(step)
            _put(out, f"crps_bps.{where}", a.crps_bps[:, step - 1, c], b.crps_bps[:, step - 1, c], overlap)
            _put(out, f"abs_bps.{where}", abs_a[:, step - 1, c], abs_b[:, step - 1, c], overlap)
    last, overlap = a.horizon, a.overlap(a.horizon)
    _put(out, "energy_bps", a.energy_bps, b.energy_bps, overlap)
    ours, theirs = (volatility.qlike_loss(p.variance[:, -1], p.realised[:, -1]) for p in (a, b))
    _put(out, f"qlike.h{last}", ours, theirs, overlap)
    test = diebold_mariano(a.crps_bps[:, -1, CLOSE], b.crps_bps[:, -1, CLOSE], overlap, "hln")
    out[f"crps_bps.close.h{last}.hln"], out[f"crps_bps.close.h{last}.hln_p"] = test.statistic, test.p_value
    return out


def confidence_sets(
    losses: Mapping[str, Mapping[str, tuple[int, FloatArray]]], *, reps: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Model confidence sets over forecasters at the same origins.

    Parameters
    ----------
    losses : mapping of str to mapping
        By forecaster, what `ScoreStream.losses` gives: by score, how many origins overlap, and losses (B,).
    reps, seed : int
        Of the bootstrap.

    Returns
    -------
    dict of str to float
        Keys are ``score.name``, say ``crps_bps.close.h24.kronos``: the p-value with which a forecaster stays in the
        set (see `comparison.model_confidence_set`).
    """
    out: dict[str, float] = {}
    for score, (overlap, _) in next(iter(losses.values())).items():
        table = np.column_stack([series[score][1] for series in losses.values()])
        p_values = model_confidence_set(table, list(losses), overlap, reps=reps, seed=seed)
        out.update({f"{score}.{name}": p_value for name, p_value in p_values.items()})
    return out


def against(losses: Mapping[str, Mapping[str, tuple[int, FloatArray]]]) -> dict[str, float]:
    """Paired tests of every forecaster against each of those before it, at the same origins.

    Parameters
    ----------
    losses : mapping of str to mapping
        As for `confidence_sets`.

    Returns
    -------
    dict of str to float
        Keys are ``name.against.other.score``, then ``.skill``, ``.dm`` and ``.dm_p`` as `compare` has them, and
        ``.difference``, ``.low`` and ``.high``: the mean loss of the first minus that of the other, in the loss's
        unit, and its 95 % interval (`inference.MeanTest.interval`). P-values are not adjusted for their number.
    """
    out: dict[str, float] = {}
    for other, name in combinations(losses, 2):
        for score, (overlap, loss) in losses[name].items():
            key, reference = f"{name}.against.{other}.{score}", losses[other][score][1]
            test = _put(out, key, loss, reference, overlap)
            out[f"{key}.difference"] = test.mean
            out[f"{key}.low"], out[f"{key}.high"] = test.interval()
    return out


def volatility_regimes(past_volatility: ArrayLike) -> tuple[NDArray[np.int64], tuple[float, float]]:
    """Terciles of the context's volatility: regime 0, 1 or 2 of each origin, and the two thresholds.

    The volatility of an origin is known there; the thresholds are terciles over all origins of the run, so
    that the regimes hold equally many and their scores are equally precise. No decision is made with them,
    but they need the whole run: a strategy may use thresholds from an earlier run only, which is why they are
    reported. NaN volatility falls into regime 2. Origins at a threshold belong below it.
    """
    x = np.asarray(past_volatility, dtype=np.float64)
    low, high = (float(q) for q in np.nanquantile(x, [1.0 / 3.0, 2.0 / 3.0]))
    return np.where(x <= low, 0, np.where(x <= high, 1, 2)).astype(np.int64), (low, high)


def _point_scores(median: Any, mean: Any, outcome: FloatArray, naive: FloatArray) -> _Scores:
    return {
        "mae": _by_step(accuracy.mean_absolute_error, median, outcome),
        "mape": _by_step(accuracy.mean_absolute_percentage_error, median, outcome),
        "mase": _by_step(accuracy.mean_absolute_scaled_error, median, outcome, naive),
        "rmse": _by_step(accuracy.root_mean_squared_error, mean, outcome),
        "r2": _by_step(accuracy.r2_out_of_sample, mean, outcome, naive),
        "bias": _by_step(accuracy.bias, mean, outcome),
    }


def _interval_scores(panel: LossPanel) -> _Scores:
    out: _Scores = {}
    pinball = distribution.pinball_loss(panel.quantiles, panel.outcome[..., None], distribution.PROBABILITIES)
    out["pinball"] = _by_step(accuracy.nan_mean, pinball.mean(axis=-1))
    for q, probability in enumerate(distribution.PROBABILITIES):
        out[f"pinball_q{1000 * probability:03.0f}"] = _by_step(accuracy.nan_mean, pinball[..., q])
    del pinball
    quantiles_bps = panel.to_bps(panel.quantiles)
    for i, level in enumerate(distribution.LEVELS):
        out[f"coverage{level}"] = 100.0 * _by_step(accuracy.nan_mean, panel.covered[..., i])
        lower, upper = distribution.interval(quantiles_bps, level)
        out[f"width{level}_bps"] = _by_step(accuracy.nan_mean, upper - lower)
    return out


def _tests(panel: LossPanel) -> _Scores:
    """Statistics and p-values by step and channel, (H, C): tests of the whole panel only."""
    names = ("pit_p", "direction_p", "ic", "ic_t", "rank_ic", "rank_ic_t")
    out = {name: np.full((panel.horizon, len(SCORED)), np.nan) for name in names}
    naive = panel.to_bps(np.broadcast_to(panel.naive[:, None, :], panel.outcome.shape))
    median = panel.to_bps(panel.quantiles[..., distribution.MEDIAN]) - naive
    mean, change = panel.mean_bps - naive, panel.to_bps(panel.outcome) - naive
    for h in range(panel.horizon):
        overlap = panel.overlap(h + 1)
        for c in range(len(SCORED)):
            out["pit_p"][h, c] = distribution.uniformity_test(panel.pit[:, h, c], overlap).p_value
            test = accuracy.pesaran_timmermann(median[:, h, c], change[:, h, c], overlap)
            out["direction_p"][h, c] = test.p_value
            for name, rank in (("ic", False), ("rank_ic", True)):
                ic = accuracy.information_coefficient(mean[:, h, c], change[:, h, c], overlap, rank=rank)
                out[name][h, c], out[f"{name}_t"][h, c] = ic.mean, ic.statistic
    return out


def _absolute_error(panel: LossPanel) -> FloatArray:
    median = panel.quantiles[..., distribution.MEDIAN]
    return np.abs(panel.to_bps(median) - panel.to_bps(panel.outcome))


def _put(out: dict[str, float], name: str, loss: Any, reference: Any, overlap: int) -> MeanTest:
    """Add skill and Diebold-Mariano test of a loss, and give the test."""
    loss, reference = np.asarray(loss, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    both = np.isfinite(loss) & np.isfinite(reference)
    test = diebold_mariano(loss, reference, overlap)
    scale = float(reference[both].mean()) if both.any() else 0.0
    out[f"{name}.skill"] = 1.0 - float(loss[both].mean()) / scale if scale > 0.0 else float("nan")
    out[f"{name}.dm"], out[f"{name}.dm_p"] = test.statistic, test.p_value
    return test


def _splits(panel: LossPanel) -> tuple[dict[str, float], list[tuple[str, NDArray[np.bool_]]]]:
    """The thresholds of the regimes, and each group's key and mask."""
    months = panel.origins.astype("datetime64[ms]").astype("datetime64[M]").astype(str)
    regimes, thresholds = volatility_regimes(panel.past_volatility)
    groups = [(f"by_month.{month}", months == month) for month in np.unique(months)]
    groups += [(f"by_volatility.{REGIMES[r]}", regimes == r) for r in np.unique(regimes)]
    groups += [(f"by_label.{label}", panel.labels == label) for label in np.unique(panel.labels) if label]
    keys = ("by_volatility.low_up_to_bps", "by_volatility.middle_up_to_bps")
    return dict(zip(keys, thresholds, strict=True)), groups


def _by_step(score: Callable[..., FloatArray], *arrays: Any) -> FloatArray:
    """A score of arrays (B, H, ...) at each step, and pooled over steps in the last row."""
    steps = score(*arrays, axis=0)
    pooled = score(*arrays, axis=(0, 1))
    return np.concatenate([np.atleast_1d(steps), np.asarray(pooled)[None]], axis=0)


def _flatten(table: _Scores, horizon: int, steps: set[int] | None = None) -> dict[str, float]:
    """Name the entries of `scores`; `steps` keeps some steps (and always ``all``)."""
    return {key: value for name, array in table.items() for key, value in _entries(name, array, horizon, steps)}


def _entries(name: str, array: FloatArray, horizon: int, steps: set[int] | None) -> Iterator[tuple[str, float]]:
    if array.ndim == 0:
        yield name, float(array)
        return
    rows = [(h, f"h{h + 1}" if h < horizon else "all") for h in range(len(array))]
    for row, step in rows:
        if steps is not None and row < horizon and row + 1 not in steps:
            continue
        if array.ndim == 1:
            yield f"{name}.{step}", float(array[row])
        else:
            for c, channel in enumerate(SCORED):
                yield f"{name}.{channel}.{step}", float(array[row, c])
