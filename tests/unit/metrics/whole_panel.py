"""The slow twin of `btcbt.metrics.streaming`: every score of a whole panel at once, under its dotted key.

Written before and apart from the streamed version, with the errors of point forecasts as functions of whole arrays;
those are held against scikit-learn and pandas in `test_whole_panel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btcbt.metrics import accuracy, distribution, volatility
from btcbt.metrics.accuracy import Axis, nan_mean
from btcbt.metrics.inference import diebold_mariano
from btcbt.metrics.intervals import rate_interval
from btcbt.metrics.panel import SANITY, SCORED, LossPanel
from btcbt.metrics.streaming import REGIMES, volatility_regimes
from btcbt.records import CLOSE, FloatArray

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
    out = {"origins": float(len(panel)), "paths_dependent": 0.0, **_flatten(scores(panel), panel.horizon)}
    out.update(_flatten(_tests(panel), panel.horizon))
    for level in distribution.LEVELS:
        out[f"coverage{level}_attainable"] = distribution.attainable_level(panel.n_paths, level)
    out.update(_rates(panel))
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
    out["mae_bps"] = _by_step(mean_absolute_error, median_bps, outcome_bps)
    out["rmse_bps"] = _by_step(root_mean_squared_error, panel.mean_bps, outcome_bps)
    out["bias_bps"] = _by_step(bias, panel.mean_bps, outcome_bps)
    out["direction"] = _by_step(directional_accuracy, median_bps - naive_bps, outcome_bps - naive_bps)
    out["crps"] = _by_step(nan_mean, panel.crps)
    out["crps_bps"] = _by_step(nan_mean, panel.crps_bps)
    out.update(_interval_scores(panel))
    out["scored"] = _by_step(nan_mean, np.isfinite(panel.crps))
    out["qlike"] = _by_step(qlike, panel.variance, panel.realised)
    error = volatility.volatility_error(panel.variance, panel.realised)
    out["volatility_mae_bps"] = _by_step(nan_mean, np.abs(error))
    out["volatility_bias_bps"] = _by_step(nan_mean, error)
    out["energy_bps"] = nan_mean(panel.energy_bps)
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


def _point_scores(median: Any, mean: Any, outcome: FloatArray, naive: FloatArray) -> _Scores:
    return {
        "mae": _by_step(mean_absolute_error, median, outcome),
        "mape": _by_step(mean_absolute_percentage_error, median, outcome),
        "mase": _by_step(mean_absolute_scaled_error, median, outcome, naive),
        "rmse": _by_step(root_mean_squared_error, mean, outcome),
        "r2": _by_step(r2_out_of_sample, mean, outcome, naive),
        "bias": _by_step(bias, mean, outcome),
    }


def _interval_scores(panel: LossPanel) -> _Scores:
    out: _Scores = {}
    pinball = distribution.pinball_loss(panel.quantiles, panel.outcome[..., None], distribution.PROBABILITIES)
    out["pinball"] = _by_step(nan_mean, pinball.mean(axis=-1))
    for q, probability in enumerate(distribution.PROBABILITIES):
        out[f"pinball_q{1000 * probability:03.0f}"] = _by_step(nan_mean, pinball[..., q])
    del pinball
    quantiles_bps = panel.to_bps(panel.quantiles)
    for i, level in enumerate(distribution.LEVELS):
        out[f"coverage{level}"] = 100.0 * _by_step(nan_mean, panel.covered[..., i])
        lower, upper = distribution.interval(quantiles_bps, level)
        out[f"width{level}_bps"] = _by_step(nan_mean, upper - lower)
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


def _put(out: dict[str, float], name: str, loss: Any, reference: Any, overlap: int) -> None:
    """Add skill and Diebold-Mariano test of a loss."""
    loss, reference = np.asarray(loss, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    both = np.isfinite(loss) & np.isfinite(reference)
    test = diebold_mariano(loss, reference, overlap)
    scale = float(reference[both].mean()) if both.any() else 0.0
    out[f"{name}.skill"] = 1.0 - float(loss[both].mean()) / scale if scale > 0.0 else float("nan")
    out[f"{name}.dm"], out[f"{name}.dm_p"] = test.statistic, test.p_value


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


def bias(forecast: ArrayLike, outcome: ArrayLike, axis: Axis = 0) -> FloatArray:
    """Mean of forecast minus outcome, in the units of both: positive if the forecast is too high."""
    return nan_mean(_error(forecast, outcome), axis)


def mean_absolute_error(forecast: ArrayLike, outcome: ArrayLike, axis: Axis = 0) -> FloatArray:
    """MAE, in the units of both; at least 0, smaller is better."""
    return nan_mean(np.abs(_error(forecast, outcome)), axis)


def root_mean_squared_error(forecast: ArrayLike, outcome: ArrayLike, axis: Axis = 0) -> FloatArray:
    """RMSE, in the units of both; at least 0, smaller is better."""
    return np.sqrt(nan_mean(_error(forecast, outcome) ** 2, axis))


def mean_absolute_percentage_error(forecast: ArrayLike, outcome: ArrayLike, axis: Axis = 0) -> FloatArray:
    """MAPE in percent of the outcome; outcomes of zero (an hour without volume) are left out."""
    outcome = np.asarray(outcome, dtype=np.float64)
    size = np.where(outcome == 0.0, np.nan, np.abs(outcome))
    return 100.0 * nan_mean(np.abs(_error(forecast, outcome)) / size, axis)


def mean_absolute_scaled_error(forecast: ArrayLike, outcome: ArrayLike, naive: ArrayLike, axis: Axis = 0) -> FloatArray:
    """MASE: the MAE as a multiple of the MAE of no change at the same step and the same origins.

    Hyndman and Koehler (2006) scale by the in-sample error of a one-step naive forecast; here the scale is
    measured out of sample at the same step, so that 1 means "as good as the random walk" at every step. NaN
    if the naive forecast makes no error at all.
    """
    error, naive_error = _paired_errors(forecast, outcome, naive)
    scale = nan_mean(np.abs(naive_error), axis)
    return nan_mean(np.abs(error), axis) / np.where(scale == 0.0, np.nan, scale)


def r2_out_of_sample(forecast: ArrayLike, outcome: ArrayLike, naive: ArrayLike, axis: Axis = 0) -> FloatArray:
    """Out-of-sample R2 against no change, ``1 - SSE / SSE_naive`` (Campbell and Thompson, 2008).

    1 is perfect, 0 as good as the random walk, negative worse. NaN if the naive forecast makes no error.
    """
    error, naive_error = _paired_errors(forecast, outcome, naive)
    scale = nan_mean(naive_error**2, axis)
    return 1.0 - nan_mean(error**2, axis) / np.where(scale == 0.0, np.nan, scale)


def directional_accuracy(forecast: ArrayLike, outcome: ArrayLike, axis: Axis = 0) -> FloatArray:
    """Share of origins whose forecast change has the sign of the realised change.

    A change of exactly zero, forecast or realised, has no direction and is left out.
    """
    forecast, outcome = _directions(forecast, outcome)
    return nan_mean(np.where(np.isnan(forecast * outcome), np.nan, forecast == outcome), axis)


def qlike(forecast: ArrayLike, realised: ArrayLike, axis: Axis = 0) -> FloatArray:
    """Mean `qlike_loss` over what is not NaN."""
    return nan_mean(volatility.qlike_loss(forecast, realised), axis)


def _error(forecast: ArrayLike, outcome: ArrayLike) -> FloatArray:
    return np.asarray(np.asarray(forecast, dtype=np.float64) - np.asarray(outcome, dtype=np.float64))


def _paired_errors(forecast: ArrayLike, outcome: ArrayLike, naive: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both errors with NaN wherever either is NaN, so that a ratio compares the same places."""
    error, naive_error = np.broadcast_arrays(_error(forecast, outcome), _error(naive, outcome))
    missing = np.isnan(error) | np.isnan(naive_error)
    return np.where(missing, np.nan, error), np.where(missing, np.nan, naive_error)


def _directions(forecast: ArrayLike, outcome: ArrayLike) -> tuple[FloatArray, FloatArray]:
    signs = np.sign(np.asarray(forecast, dtype=np.float64)), np.sign(np.asarray(outcome, dtype=np.float64))
    return np.where(signs[0] == 0.0, np.nan, signs[0]), np.where(signs[1] == 0.0, np.nan, signs[1])


def _rates(panel: LossPanel) -> dict[str, float]:
    """Intervals of the close's direction and coverage at the steps where forecasters are compared."""
    overlap, change = (
        panel.overlap(panel.horizon),
        panel.to_bps(np.broadcast_to(panel.naive[:, None], panel.outcome.shape)),
    )
    median = np.sign(panel.to_bps(panel.quantiles[..., distribution.MEDIAN]) - change)[..., CLOSE]
    moved = np.sign(panel.to_bps(panel.outcome) - change)[..., CLOSE]
    right = np.where((median == 0) | (moved == 0) | np.isnan(median + moved), np.nan, median == moved)
    out = {}
    for step in {1, min(6, panel.horizon), panel.horizon}:
        sign, inside = right[:, step - 1], panel.covered[:, step - 1, CLOSE, distribution.LEVELS.index(90)]
        for name, hits, unit in (("direction", sign, 1.0), ("coverage90", inside, 100.0)):
            rate = rate_interval(hits, overlap)
            out[f"{name}_low.h{step}"], out[f"{name}_high.h{step}"] = unit * rate.low, unit * rate.high
    return out
