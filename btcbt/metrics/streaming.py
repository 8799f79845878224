"""Scores of a history of any length in the memory of a batch.

`ScoreStream` takes the panels of one forecaster batch by batch and gives what `summary.summarise` gives for all of
them joined. Means are kept as running sums for each group, step and channel. Tests need whole series; those lie in
a scratch file, one after another, and are read one at a time. What stays in memory grows by some 50 bytes an
origin.

Numbers agree with `summarise` up to rounding, for sums are taken batch by batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from btcbt.metrics import accuracy, distribution, volatility
from btcbt.metrics.inference import diebold_mariano
from btcbt.metrics.panel import SANITY, SCORED, LossPanel
from btcbt.metrics.summary import REGIMES, _entries, _put, volatility_regimes
from btcbt.records import CLOSE, FloatArray, IntArray

SERIES = ("pit", "crps_bps", "abs_bps", "median_change", "mean_change", "change")
"""What the scratch file holds of each step and channel: (B,) float64 each."""
_Table = dict[str, FloatArray]
_Numbers = NDArray[np.int32]


class ScoreStream:
    """The scores of one forecaster, added up as its panels come.

    Parameters
    ----------
    origins : int64 (B,)
        All origins that will be scored, ms UTC, increasing.
    past_volatility : float64 (B,)
        As in `LossPanel`: known before any forecast is, and needed for the regimes.
    labels : str (B,)
        Contamination labels; empty strings if there are none.
    horizon, n_paths, interval_ms : int
        As in `LossPanel`.
    scratch : Path
        Folder for the scratch file, 48 bytes for each origin, step and channel; it goes with the stream.
    """

    def __init__(
        self,
        origins: IntArray,
        past_volatility: FloatArray,
        labels: NDArray[np.str_],
        *,
        horizon: int,
        n_paths: int,
        interval_ms: int,
        scratch: Path,
    ) -> None:
        if len(origins) == 0:
            raise ValueError("a panel without origins has no scores")
        self.origins, self.horizon, self.n_paths = origins, horizon, n_paths
        gaps = np.diff(origins)
        self._stride = max(1, int(gaps.min()) // interval_ms) if len(gaps) else 1
        regimes, self._thresholds = volatility_regimes(past_volatility)
        self._names, self._groups = _groups(origins, regimes, labels)
        self._sums: dict[str, FloatArray] = {}
        self._counts: dict[str, FloatArray] = {}
        self._insane = np.zeros((len(self._names), len(SANITY)))
        self._energy, self._variance, self._realised = (np.empty(len(origins)) for _ in range(3))
        self._done = 0
        scratch.mkdir(parents=True, exist_ok=True)
        # Unnamed where the system allows it, so that a killed process leaves nothing.
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by __exit__

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the scratch file; the stream cannot be used any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __len__(self) -> int:
        return len(self.origins)

    def overlap(self, step: int) -> int:
        """Origins, itself included, whose outcomes at `step` (1..H) share candles."""
        return -(-step // self._stride)

    def add(self, panel: LossPanel) -> None:
        """Take in the panel of the next origins.

        Raises
        ------
        ValueError
            If they are not the next ones, or horizon or number of paths differ.
        """
        rows = slice(self._done, self._done + len(panel))
        if not np.array_equal(self.origins[rows], panel.origins):
            raise ValueError("these are not the next origins of the stream")
        if (panel.horizon, panel.n_paths) != (self.horizon, self.n_paths):
            raise ValueError("the panel has another horizon or number of paths than the stream")
        places = _changes(panel)
        groups = [column[rows] for column in self._groups]
        for name, values in _elements(panel, places).items():
            self._add_up(name, values, groups)
        for column in groups:
            np.add.at(self._insane, column[column >= 0], panel.insane[column >= 0])
        self._energy[rows] = panel.energy_bps
        self._variance[rows], self._realised[rows] = panel.variance[:, -1], panel.realised[:, -1]
        self._write(rows.start, {"pit": panel.pit, "crps_bps": panel.crps_bps, **places})
        self._done = rows.stop

    def _add_up(self, name: str, values: FloatArray, groups: Sequence[_Numbers]) -> None:
        shape = (len(self._names), *values.shape[1:])
        sums = self._sums.setdefault(name, np.zeros(shape))
        counts = self._counts.setdefault(name, np.zeros(shape))
        known = ~np.isnan(values)
        values = np.where(known, values, 0.0)
        for column in groups:
            for group in np.unique(column[column >= 0]):
                here = column == group
                sums[group] += values[here].sum(axis=0)
                counts[group] += known[here].sum(axis=0)

    def _write(self, start: int, arrays: dict[str, Any]) -> None:
        for field, name in enumerate(SERIES):
            columns = np.ascontiguousarray(np.moveaxis(arrays[name].astype("<f8"), 0, -1))
            for h in range(self.horizon):
                for c in range(len(SCORED)):
                    self._file.seek(self._at(field, h, c) + 8 * start)
                    self._file.write(columns[h, c].data)

    def _at(self, field: int, h: int, c: int) -> int:
        return 8 * len(self) * ((field * self.horizon + h) * len(SCORED) + c)

    def series(self, name: str, step: int, channel: int) -> FloatArray:
        """One of `SERIES` at a step (1..H) and channel, (B,) float64."""
        self._file.seek(self._at(SERIES.index(name), step - 1, channel))
        return np.frombuffer(self._file.read(8 * len(self)), dtype="<f8")

    def losses(self) -> dict[str, tuple[int, FloatArray]]:
        """What forecasters are compared by, all at once: how many origins overlap, and the loss (B,) of each.

        The CRPS of the close at the first and the last step, and the energy score of its path.
        """
        ends = sorted({1, self.horizon})
        crps = {f"crps_bps.close.h{h}": (self.overlap(h), self.series("crps_bps", h, CLOSE)) for h in ends}
        return {**crps, "energy_bps": (self.overlap(self.horizon), self._energy)}

    def summarise(self, reference: ScoreStream | None = None) -> dict[str, float]:
        """What `summary.summarise` gives for the joined panels; see there for the keys.

        Raises
        ------
        ValueError
            If panels are still to come.
        """
        return dict(self.items(reference))

    def items(self, reference: ScoreStream | None = None) -> Iterator[tuple[str, float]]:
        """Key by key what `summarise` gives: with many months there are tens of thousands."""
        if self._done != len(self):
            raise ValueError(f"{self._done} of {len(self)} origins have been added")
        yield "origins", float(len(self))
        for name, array in (self._scores(0) | self._tests()).items():
            yield from _entries(name, array, self.horizon, None)
        for level in distribution.LEVELS:
            yield f"coverage{level}_attainable", distribution.attainable_level(self.n_paths, level)
        yield "by_volatility.low_up_to_bps", self._thresholds[0]
        yield "by_volatility.middle_up_to_bps", self._thresholds[1]
        for group, key in enumerate(self._names[1:], start=1):
            yield f"{key}.origins", float(sum(np.count_nonzero(column == group) for column in self._groups))
            for name, array in self._scores(group).items():
                for entry, value in _entries(name, array, self.horizon, {1, self.horizon}):
                    yield f"{key}.{entry}", value
        if reference is not None:
            yield from ((f"versus.{key}", value) for key, value in self._compare(reference).items())

    def _scores(self, group: int) -> _Table:
        means = {name: _mean(self._sums[name][group], self._counts[name][group]) for name in self._sums}
        for kind in ("mase", "r2"):
            scale = means.pop(f"{kind}_scale")
            ratio = means[kind] / np.where(scale == 0.0, np.nan, scale)
            means[kind] = ratio if kind == "mase" else 1.0 - ratio
        for name in ("rmse", "rmse_bps"):
            means[name] = np.sqrt(means[name])
        origins = sum(np.count_nonzero(column == group) for column in self._groups)
        for name, count in zip(SANITY, self._insane[group], strict=True):
            means[f"insane_{name}"] = np.asarray(count / (origins * self.n_paths * self.horizon))
        return means

    def _tests(self) -> _Table:
        names = ("pit_p", "direction_p", "ic", "ic_t", "rank_ic", "rank_ic_t")
        out = {name: np.full((self.horizon, len(SCORED)), np.nan) for name in names}
        for step, c in self._columns():
            overlap, at = self.overlap(step), (step - 1, c)
            out["pit_p"][at] = distribution.uniformity_test(self.series("pit", step, c), overlap).p_value
            change, mean = self.series("change", step, c), self.series("mean_change", step, c)
            median = self.series("median_change", step, c)
            out["direction_p"][at] = accuracy.pesaran_timmermann(median, change, overlap).p_value
            for name, rank in (("ic", False), ("rank_ic", True)):
                ic = accuracy.information_coefficient(mean, change, overlap, rank=rank)
                out[name][at], out[f"{name}_t"][at] = ic.mean, ic.statistic
        return out

    def _compare(self, reference: ScoreStream) -> dict[str, float]:
        if self.horizon != reference.horizon:
            raise ValueError(f"horizons differ: {self.horizon} and {reference.horizon}")
        shared, ours, theirs = np.intersect1d(self.origins, reference.origins, return_indices=True)
        if len(shared) == 0:
            raise ValueError("the panels share no origin")
        out = {"origins": float(len(shared))}
        for step, c in self._columns():
            for score in ("crps_bps", "abs_bps"):
                pair = self.series(score, step, c)[ours], reference.series(score, step, c)[theirs]
                _put(out, f"{score}.{SCORED[c]}.h{step}", *pair, self.overlap(step))
        last, overlap = self.horizon, self.overlap(self.horizon)
        _put(out, "energy_bps", self._energy[ours], reference._energy[theirs], overlap)
        a, b = (volatility.qlike_loss(s._variance, s._realised) for s in (self, reference))
        _put(out, f"qlike.h{last}", a[ours], b[theirs], overlap)
        a, b = (s.series("crps_bps", last, CLOSE) for s in (self, reference))
        test = diebold_mariano(a[ours], b[theirs], overlap, "hln")
        out[f"crps_bps.close.h{last}.hln"], out[f"crps_bps.close.h{last}.hln_p"] = test.statistic, test.p_value
        return out

    def _columns(self) -> Iterator[tuple[int, int]]:
        return ((step, c) for step in range(1, self.horizon + 1) for c in range(len(SCORED)))


def _groups(origins: IntArray, regimes: IntArray, labels: NDArray[np.str_]) -> tuple[list[str], list[_Numbers]]:
    """The groups' keys, and the number of the group of each origin in each way to split them, -1 for none.

    Group 0 is all origins.
    """
    names: list[str] = [""]
    columns: list[_Numbers] = [np.zeros(len(origins), dtype=np.int32)]
    months = origins.astype("datetime64[ms]").astype("datetime64[M]")
    for kind, values in (("by_month", months), ("by_volatility", regimes), ("by_label", np.asarray(labels))):
        found, which = np.unique(values, return_inverse=True)
        if kind == "by_label" and found[0] == "":
            found, which = found[1:], which - 1
        texts = [REGIMES[int(value)] if kind == "by_volatility" else str(value) for value in found]
        columns.append(np.where(which < 0, -1, which + len(names)).astype(np.int32))
        names += [f"{kind}.{text}" for text in texts]
    return names, columns


def _changes(panel: LossPanel) -> dict[str, FloatArray]:
    """Forecast and realised changes from the naive forecast, and the median's error, scale-free (B, H, C)."""
    naive = panel.to_bps(np.broadcast_to(panel.naive[:, None, :], panel.outcome.shape))
    median, outcome = panel.to_bps(panel.quantiles[..., distribution.MEDIAN]), panel.to_bps(panel.outcome)
    return {
        "median_change": median - naive,
        "mean_change": panel.mean_bps - naive,
        "change": outcome - naive,
        "abs_bps": np.abs(median - outcome),
    }


def _elements(panel: LossPanel, places: dict[str, FloatArray]) -> _Table:
    """What each score is the mean of, in the order of `summary.scores`; NaN where it leaves a place out."""
    outcome, naive = panel.outcome, np.broadcast_to(panel.naive[:, None, :], panel.outcome.shape)
    median = panel.quantiles[..., distribution.MEDIAN].astype(np.float64)
    error, error_of_mean = median - outcome, panel.mean.astype(np.float64) - outcome
    paired = [np.where(np.isnan(e) | np.isnan(naive - outcome), np.nan, e) for e in (error, error_of_mean)]
    scale = [np.where(np.isnan(e), np.nan, naive - outcome) for e in paired]
    error_bps = places["mean_change"] - places["change"]
    signs = [np.where(x == 0.0, np.nan, np.sign(x)) for x in (places["median_change"], places["change"])]
    difference = volatility.volatility_error(panel.variance, panel.realised)
    return {
        "mae": np.abs(error),
        "mape": 100.0 * np.abs(error) / np.where(outcome == 0.0, np.nan, np.abs(outcome)),
        "mase": np.abs(paired[0]),
        "mase_scale": np.abs(scale[0]),
        "rmse": error_of_mean**2,
        "r2": paired[1] ** 2,
        "r2_scale": scale[1] ** 2,
        "bias": error_of_mean,
        "mae_bps": places["abs_bps"],
        "rmse_bps": error_bps**2,
        "bias_bps": error_bps,
        "direction": np.where(np.isnan(signs[0] * signs[1]), np.nan, signs[0] == signs[1]),
        "crps": panel.crps.astype(np.float64),
        "crps_bps": panel.crps_bps.astype(np.float64),
        **_interval_elements(panel),
        "scored": np.isfinite(panel.crps).astype(np.float64),
        "qlike": volatility.qlike_loss(panel.variance, panel.realised),
        "volatility_mae_bps": np.abs(difference),
        "volatility_bias_bps": difference,
        "energy_bps": panel.energy_bps,
    }


def _interval_elements(panel: LossPanel) -> _Table:
    pinball = distribution.pinball_loss(panel.quantiles, panel.outcome[..., None], distribution.PROBABILITIES)
    out = {"pinball": pinball.mean(axis=-1)}
    for q, probability in enumerate(distribution.PROBABILITIES):
        out[f"pinball_q{1000 * probability:03.0f}"] = pinball[..., q]
    quantiles_bps = panel.to_bps(panel.quantiles)
    for i, level in enumerate(distribution.LEVELS):
        out[f"coverage{level}"] = 100.0 * panel.covered[..., i].astype(np.float64)
        lower, upper = distribution.interval(quantiles_bps, level)
        out[f"width{level}_bps"] = upper - lower
    return out


def _mean(sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Means by step, and pooled over steps in the last row; those of whole forecasts have no steps."""
    if sums.ndim:
        sums = np.concatenate([sums, sums.sum(axis=0, keepdims=True)])
        counts = np.concatenate([counts, counts.sum(axis=0, keepdims=True)])
    return np.asarray(sums / np.where(counts == 0.0, np.nan, counts))
