"""A forecaster whose weights change over time: each origin uses weights that were fitted before it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from btcbt.config import time_text
from btcbt.forecasters.base import Forecaster, Part, origins_of
from btcbt.records import DataRange, FloatArray, ForecastBatch, IntArray, Refit, Window

_KEPT = 2  # sets of weights in memory: a batch may span two periods


@dataclass(frozen=True, slots=True)
class Served:
    """The refit that serves an origin, as a function that can be pickled for other processes.

    Attributes
    ----------
    refits : tuple of Refit
        In order of time.
    """

    refits: tuple[Refit, ...]

    def __call__(self, origin: int) -> Refit:
        """The refit of an origin (ms UTC).

        Raises
        ------
        ValueError
            If there is none.
        """
        row = bisect_right(self.refits, origin, key=lambda refit: refit.start) - 1
        if row < 0 or origin >= self.refits[row].end:
            raise ValueError(f"no refit serves {time_text(origin)}")
        return self.refits[row]


class Refitted(Forecaster):
    """Forecasts each origin like `base`, with the weights of its period.

    Random numbers are keyed by seed, origin and path, so the paths of an origin differ from those of `base` only by the
    weights.

    Parameters
    ----------
    base : Forecaster
        The forecaster that is refitted, with its starting weights.
    serving : callable
        Origin (ms UTC) to the refit that serves it.
    load : callable
        Refit to a forecaster that is like `base`, with its weights.
    schedule : mapping
        The `RefitConfig` as JSON values.
    """

    def __init__(
        self,
        base: Forecaster,
        serving: Callable[[int], Refit],
        load: Callable[[Refit], Forecaster],
        schedule: Mapping[str, object],
    ) -> None:
        super().__init__(context=base.context, horizon=base.horizon, n_paths=base.n_paths, seed=base.seed)
        self.frozen, self.serving, self.schedule = base, serving, dict(schedule)
        self.single_threaded = base.single_threaded
        self.paths_are = base.paths_are
        self.location_prior = base.location_prior
        self._load = load
        self._loaded: dict[str, Forecaster] = {}

    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        """Sample the H candles after each window, each with the weights of its period."""
        origins = origins_of(windows)
        if not len(windows):
            return self.frozen.forecast(windows)
        paths = np.empty((len(windows), self.n_paths, self.horizon, 6), dtype=np.float32)
        provenance: dict[str, str] = {}
        for rows, refit in self._groups(origins):
            batch = self._forecaster(refit).forecast([windows[row] for row in rows.tolist()])
            paths[rows] = batch.paths
            provenance = {**batch.provenance, "refit": refit.key}
        return ForecastBatch(origins, paths, provenance)

    def reconstruct(self, windows: Sequence[Window]) -> FloatArray | None:
        """The last closes as the tokenizer of each window's period gives them back, (B,)."""
        origins, closes = origins_of(windows), np.empty(len(windows))
        for rows, refit in self._groups(origins):
            part = self._forecaster(refit).reconstruct([windows[row] for row in rows.tolist()])
            if part is None:
                return None
            closes[rows] = part
        return closes

    def identity(self) -> Mapping[str, object]:
        """The base's identity and the schedule.

        The weights of each origin are not part of it; see `parts` and `btcbt.storage.forecasts.fitted_digests`.
        """
        return {"kind": "refitted", "version": 1, "base": dict(self.frozen.identity()), "refit": self.schedule}

    @property
    def batch_size(self) -> int:
        """That of the base."""
        return self.frozen.batch_size

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Data ranges of the starting weights; those of each period are in `parts`."""
        return self.frozen.data_ranges()

    def parts(self, origins: IntArray) -> Iterator[Part]:
        """One for each refit that serves any of the origins."""
        for rows, refit in self._groups(origins):
            yield Part(rows, refit.weights, refit.ranges)

    def refits(self, origins: IntArray) -> tuple[Refit, ...]:
        """The refits that serve the origins, each once."""
        return tuple(dict.fromkeys(self.serving(origin) for origin in origins.tolist()))

    def _groups(self, origins: IntArray) -> Iterator[tuple[IntArray, Refit]]:
        groups: dict[Refit, list[int]] = {}
        for row, origin in enumerate(origins.tolist()):
            groups.setdefault(self.serving(origin), []).append(row)
        for refit, rows in groups.items():
            yield np.array(rows, dtype=np.int64), refit

    def _forecaster(self, refit: Refit) -> Forecaster:
        if refit.weights not in self._loaded:
            forecaster = self._load(refit)
            if len(self._loaded) == _KEPT:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[refit.weights] = forecaster
        return self._loaded[refit.weights]
