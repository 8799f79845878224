"""The scores of a history of any length, in the memory of one batch.

`ScoreStream` takes the panels of one forecaster batch by batch. Means are kept as running sums for each group, step
and channel. Tests need whole series; those are written to a temporary file and read one at a time. Memory grows by
110 bytes per origin. The scores are defined in `btcbt.metrics.forecast_scores`; the tests hold a second version
that takes all panels at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btcbt.metrics import distribution, volatility
from btcbt.metrics.forecast_scores import MEANS, TESTS, Mean, PanelStatistics, Series
from btcbt.metrics.intervals import direction_hits, rate_interval
from btcbt.metrics.pairs import hln_rows, pair_rows
from btcbt.metrics.panel import SCORED, LossPanel
from btcbt.metrics.score import ALL, POOLED, Row, comparison_steps
from btcbt.metrics.versus import Losses
from btcbt.records import CHANNELS, CLOSE, FloatArray, IntArray, PathKind

REGIMES = ("low", "middle", "high")
SERIES = ("pit", "crps_bps", "abs_bps", "median_change", "mean_change", "change")
"""Series in the temporary file for each step and channel, (B,) float64 each."""
_Groups = NDArray[np.int32]


class ScoreStream:
    """The scores of one forecaster, accumulated panel by panel.

    Parameters
    ----------
    origins : int64 (B,)
        All origins that will be scored, ms UTC, increasing.
    past_volatility : float64 (B,)
        As in `LossPanel`; needed in advance for the regimes.
    labels : str (B,)
        Contamination labels; empty strings if there are none.
    horizon, n_paths, interval_ms : int
        As in `LossPanel`.
    scratch : Path
        Folder for the temporary file, 48 bytes for each origin, step and channel; deleted with the stream.
    paths_are : {"independent", "dependent"}
        As in `score_batch`.

    Raises
    ------
    ValueError
        If there are no origins.
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
        paths_are: PathKind = "independent",
    ) -> None:
        if len(origins) == 0:
            raise ValueError("a panel without origins has no scores")
        self.origins, self.horizon, self.n_paths, self._paths_are = origins, horizon, n_paths, paths_are
        gaps = np.diff(origins)
        self._stride = max(1, int(gaps.min()) // interval_ms) if len(gaps) else 1
        regimes, self._thresholds = volatility_regimes(past_volatility)
        self._names, self._groups = _groups(origins, regimes, labels)
        self._sums: dict[tuple[str, str], tuple[FloatArray, FloatArray]] = {}
        self._energy, self._energy_noise, self._variance, self._realised = (np.empty(len(origins)) for _ in range(4))
        self._noise, self._inside = (np.empty((len(origins), len(comparison_steps(horizon)))) for _ in range(2))
        self._done = 0
        scratch.mkdir(parents=True, exist_ok=True)
        # Unnamed where the system allows it, so that a killed process leaves no file.
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by __exit__

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the temporary file; the stream cannot be used afterwards."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __len__(self) -> int:
        return len(self.origins)

    def overlap(self, step: int) -> int:
        """Origins, itself included, whose outcomes at `step` (1..H) share candles."""
        return -(-step // self._stride)

    def add(self, panel: LossPanel) -> None:
        """Add the panel of the next origins.

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
        batch, groups = PanelStatistics(panel), [column[rows] for column in self._groups]
        for score in MEANS:
            self._add_up((score.name, "of"), score.of(batch), groups)
            if score.over is not None:
                self._add_up((score.name, "over"), score.over(batch), groups)
        self._energy[rows], self._energy_noise[rows] = panel.energy_bps, panel.energy_noise
        self._noise[rows] = panel.crps_noise
        steps = np.array(comparison_steps(self.horizon)) - 1
        self._inside[rows] = panel.covered[:, steps, CLOSE, distribution.LEVELS.index(90)]
        self._variance[rows], self._realised[rows] = panel.variance[:, -1], panel.realised[:, -1]
        self._write(rows.start, {"pit": panel.pit, "crps_bps": panel.crps_bps, **batch.changes})
        self._done = rows.stop

    def _add_up(self, key: tuple[str, str], values: FloatArray, groups: Sequence[_Groups]) -> None:
        shape = (len(self._names), *values.shape[1:])
        sums, counts = self._sums.setdefault(key, (np.zeros(shape), np.zeros(shape)))
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

    def losses(self) -> dict[tuple[str, int], tuple[int, FloatArray]]:
        """Losses for comparisons of all forecasters, by loss and step: the overlap, and the series (B,).

        The CRPS of the close at the first and the last step, and the energy score of its path.
        """
        ends = sorted({1, self.horizon})
        crps = {("crps_bps", h): (self.overlap(h), self.series("crps_bps", h, CLOSE)) for h in ends}
        return {**crps, ("energy_bps", POOLED): (self.overlap(self.horizon), self._energy)}

    def compared(self) -> dict[tuple[str, int], Losses]:
        """What forecasters are compared with the opponent by, by loss and step; see `versus`."""
        steps = enumerate(comparison_steps(self.horizon))
        crps = {("crps_bps", h): Losses(self.series("crps_bps", h, CLOSE), self._noise[:, k]) for k, h in steps}
        return {**crps, ("energy_bps", POOLED): Losses(self._energy, self._energy_noise)}

    def rows(self) -> Iterator[Row]:
        """Yield every score; with many months there are tens of thousands.

        Raises
        ------
        ValueError
            If panels are missing.
        """
        if self._done != len(self):
            raise ValueError(f"{self._done} of {len(self)} origins have been added")
        yield Row(ALL, POOLED, ALL, "origins", float(len(self)))
        yield Row(ALL, POOLED, ALL, "paths_dependent", float(self._paths_are == "dependent"))
        for score in MEANS:
            yield from self._mean_rows(score, 0, range(1, self.horizon + 1))
        yield from self._test_rows()
        yield from self._rate_rows()
        for level in distribution.LEVELS:
            attainable = distribution.attainable_level(self.n_paths, level)
            yield Row(ALL, POOLED, ALL, f"coverage{level}_attainable", attainable)
        for regime, threshold in zip(REGIMES, self._thresholds, strict=False):
            yield Row(ALL, POOLED, f"regime={regime}", "up_to_bps", threshold)
        for group, name in enumerate(self._names[1:], start=1):
            yield Row(ALL, POOLED, name, "origins", float(self._count(group)))
            for score in MEANS:
                yield from self._mean_rows(score, group, sorted({1, self.horizon}))

    def comparison(self, reference: ScoreStream, name: str) -> Iterator[Row]:
        """Paired comparison with a reference at shared origins.

        For each channel and step the losses ``crps_bps`` and ``abs_bps`` (absolute error of the median), and for the
        close's path ``energy_bps`` and ``qlike`` of the last step; see `pairs.pair_rows`. For the close's CRPS at the
        last step also the version of Harvey, Leybourne and Newbold.

        Parameters
        ----------
        reference : ScoreStream
            Usually the random walk; its origins may differ.
        name : str
            Its name in the group of the rows.

        Raises
        ------
        ValueError
            If no origin is shared, or horizons differ.
        """
        if self.horizon != reference.horizon:
            raise ValueError(f"horizons differ: {self.horizon} and {reference.horizon}")
        shared, ours, theirs = np.intersect1d(self.origins, reference.origins, return_indices=True)
        if len(shared) == 0:
            raise ValueError("the panels share no origin")
        group, last, overlap = f"against={name}", self.horizon, self.overlap(self.horizon)
        yield Row(ALL, POOLED, group, "origins", float(len(shared)))
        for step, c in self._columns():
            for loss in ("crps_bps", "abs_bps"):
                pair = self.series(loss, step, c)[ours], reference.series(loss, step, c)[theirs]
                yield from pair_rows(SCORED[c], step, group, loss, *pair, self.overlap(step))
        close = CHANNELS[CLOSE]
        energy = self._energy[ours], reference._energy[theirs]
        yield from pair_rows(close, POOLED, group, "energy_bps", *energy, overlap)
        a, b = (volatility.qlike_loss(s._variance, s._realised) for s in (self, reference))
        yield from pair_rows(close, last, group, "qlike", a[ours], b[theirs], overlap)
        a, b = (s.series("crps_bps", last, CLOSE) for s in (self, reference))
        yield from hln_rows(close, last, group, "crps_bps", a[ours], b[theirs], overlap)

    def _mean_rows(self, score: Mean, group: int, steps: Sequence[int]) -> Iterator[Row]:
        value, name = self._value(score, group), self._names[group]
        if "step" not in score.per:
            channel = ALL if score.each_candle else CHANNELS[CLOSE]
            yield Row(channel, POOLED, name, score.name, float(value))
            return
        for step in (*steps, POOLED):
            row = value[step - 1]  # the last row pools all steps
            if "channel" not in score.per:
                yield Row(CHANNELS[CLOSE], step, name, score.name, float(row))
                continue
            for channel, number in zip(SCORED, row, strict=True):
                yield Row(channel, step, name, score.name, float(number))

    def _value(self, score: Mean, group: int) -> FloatArray:
        """A score of a group by step and channel, all steps pooled in the last row."""
        weight = self.n_paths * self.horizon if score.each_candle else 1
        value = _mean(*self._sums[score.name, "of"], group, weight)
        if score.over is not None:
            scale = _mean(*self._sums[score.name, "over"], group)
            value = value / np.where(scale == 0.0, np.nan, scale)
        return score.then(value)

    def _test_rows(self) -> Iterator[Row]:
        for step, c in self._columns():
            series = Series(lambda name, step=step, c=c: self.series(name, step, c), self.overlap(step))  # type: ignore[misc]
            for test in TESTS:
                yield Row(SCORED[c], step, ALL, test.name, test.of(series))

    def _rate_rows(self) -> Iterator[Row]:
        """Intervals of coverage and direction of the close; regimes are those of the longest overlap at every step."""
        overlap = self.overlap(self.horizon)
        for k, step in enumerate(comparison_steps(self.horizon)):
            changes = (self.series(name, step, CLOSE) for name in ("median_change", "change"))
            for name, hits, unit in (
                ("direction", direction_hits(*changes), 1.0),
                ("coverage90", self._inside[:, k], 100.0),
            ):
                rate = rate_interval(hits, overlap)
                yield Row(CHANNELS[CLOSE], step, ALL, f"{name}_low", unit * rate.low)
                yield Row(CHANNELS[CLOSE], step, ALL, f"{name}_high", unit * rate.high)

    def _count(self, group: int) -> int:
        return sum(int(np.count_nonzero(column == group)) for column in self._groups)

    def _columns(self) -> Iterator[tuple[int, int]]:
        return ((step, c) for step in range(1, self.horizon + 1) for c in range(len(SCORED)))


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


def _groups(origins: IntArray, regimes: IntArray, labels: NDArray[np.str_]) -> tuple[list[str], list[_Groups]]:
    """Names of the groups, and the group of each origin in each breakdown (-1 for none).

    Group 0 is all origins.
    """
    names: list[str] = [ALL]
    columns: list[_Groups] = [np.zeros(len(origins), dtype=np.int32)]
    months = origins.astype("datetime64[ms]").astype("datetime64[M]")
    for kind, values in (("month", months), ("regime", regimes), ("label", np.asarray(labels))):
        found, which = np.unique(values, return_inverse=True)
        if kind == "label" and found[0] == "":
            found, which = found[1:], which - 1
        texts = [REGIMES[int(value)] if kind == "regime" else str(value) for value in found]
        columns.append(np.where(which < 0, -1, which + len(names)).astype(np.int32))
        names += [f"{kind}={text}" for text in texts]
    return names, columns


def _mean(sums: FloatArray, counts: FloatArray, group: int, weight: int = 1) -> FloatArray:
    """Means by step, and pooled over steps in the last row; scores of whole forecasts have no steps."""
    total, count = sums[group], counts[group]
    if total.ndim:
        total = np.concatenate([total, total.sum(axis=0, keepdims=True)])
        count = np.concatenate([count, count.sum(axis=0, keepdims=True)])
    return np.asarray(total / np.where(count == 0.0, np.nan, weight * count))
