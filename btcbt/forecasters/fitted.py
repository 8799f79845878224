"""Cheap models that are refitted on months of candles during the walk-forward.

A window of ten days is too short for a profile by hour and weekday or for the coefficients of a regression, so these
are fitted on the candles before the origins served, and on nothing else: those of the symbol, or, with ``pool: true``,
those of all symbols of a panel in the same range. A fit takes milliseconds to seconds, so it is repeated when needed
instead of being stored; the digest of its inputs (model, parameters, candles) is its key, which stored forecasts
include.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from btcbt.config import WindowsConfig, interval_ms, time_ms, time_text
from btcbt.errors import CandleError, ConfigError
from btcbt.forecasters.base import Forecaster, Part, origins_of
from btcbt.forecasters.pooled import pooled
from btcbt.randomness import uniforms
from btcbt.records import Candles, DataRange, Float32Array, FloatArray, ForecastBatch, IntArray, PathKind, Window

State = TypeVar("State")

_PATH_STEPS_PER_BATCH = 64 * 30 * 24  # keeps temporary arrays in the cache, at some MB
_KEPT = 2  # states in memory: a batch may span two periods


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The windows of a batch as arrays.

    Attributes
    ----------
    values : float64 (B, T, 6)
    open_time : int64 (B, T)
        ms UTC.
    interval_ms : int
    """

    values: FloatArray
    open_time: IntArray
    interval_ms: int

    def future_open_time(self, horizon: int) -> IntArray:
        """Open times of the candles to forecast, (B, H)."""
        ahead = self.interval_ms * np.arange(1, horizon + 1, dtype=np.int64)
        return np.asarray(self.open_time[:, -1:] + ahead)


class FittedModel(ABC, Generic[State]):
    """Two pure functions: candles to a state, and a state with windows to paths."""

    kind: ClassVar[str]
    paths_are: ClassVar[PathKind] = "independent"
    """As of `Forecaster`."""
    version: ClassVar[int] = 1
    """Increased whenever the same candles, windows and seed give different numbers than before."""

    @property
    @abstractmethod
    def needed_context(self) -> int:
        """Fewest candles in a window."""

    @abstractmethod
    def fit(self, candles: Candles) -> State:
        """Fit on candles, which may have gaps; a pure function of them.

        Raises
        ------
        CandleError
            If there are too few candles.
        """

    @abstractmethod
    def sample(self, state: State, inputs: Inputs, numbers: FloatArray) -> Float32Array:
        """Paths (B, S, H, 6), independent given the window, from windows and uniforms (B, S, H, 2)."""

    def parameters(self) -> Mapping[str, object]:
        """Everything that fits and forecasts depend on besides candles and seed, as JSON values."""
        return {}


@dataclass(frozen=True, slots=True)
class FitSchedule:
    """When a model is fitted, and on which candles.

    Attributes
    ----------
    every : int or None
        Length of the period that a fit serves, ms; None for one fit that serves all origins.
    window : int
        Length of the training range, ms.
    embargo : int
        Time between the end of the training range and the first origin served, ms. No training outcome reaches
        beyond the range, so 0 is clean.
    """

    every: int | None
    window: int
    embargo: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class FitPeriod:
    """Origins that one fit serves, and its training candles.

    Attributes
    ----------
    start, end : int
        The fit serves origins in [start, end), ms UTC.
    train : tuple of int
        Open times of the candles to fit on, [start, end); the end is `start` minus the embargo, or earlier.
    candles : Candles
        The candles of this range and no others.
    others : tuple of Candles
        Those of other symbols in the same range, if the fit is on all symbols of a panel.
    """

    start: int
    end: int
    train: tuple[int, int]
    candles: Candles
    others: tuple[Candles, ...] = ()


def plan_fits(candles: Candles, first: int, stop: int, schedule: FitSchedule) -> tuple[FitPeriod, ...]:
    """The periods of a schedule, from the first origin of the range on: a later end keeps the earlier periods.

    Parameters
    ----------
    candles : Candles
        The history.
    first, stop : int
        Origins lie in [first, stop), ms UTC.
    schedule : FitSchedule

    Raises
    ------
    CandleError
        If the history starts after the first training range.
    """
    candles = candles.observed  # a filled gap is no outcome to fit on
    every = stop - first if schedule.every is None else schedule.every
    periods = []
    for start in range(first, stop, every):
        train = (start - schedule.embargo - schedule.window, start - schedule.embargo)
        periods.append(FitPeriod(start, start + every, train, _part(candles, train)))
    if periods and (not len(candles) or candles.open_time[0] > periods[0].train[0]):
        begins = time_text(int(candles.open_time[0])) if len(candles) else "later"
        raise CandleError(
            f"candles {candles.source}: the fit for {time_text(first)} needs candles from "
            f"{time_text(periods[0].train[0])} on, but they start {begins}; shorten fit.window, or move windows.start"
        )
    return tuple(periods)


def with_others(periods: Sequence[FitPeriod], others: Sequence[Candles]) -> tuple[FitPeriod, ...]:
    """The same periods with the candles of other symbols in the training range of each."""
    observed = [other.observed for other in others]
    return tuple(
        replace(period, others=tuple(part for one in observed if len(part := _part(one, period.train))))
        for period in periods
    )


def _part(candles: Candles, span: tuple[int, int]) -> Candles:
    """The candles that open in [start, end); the last of them closes at the end or earlier."""
    rows = slice(*np.searchsorted(candles.open_time, span).tolist())
    open_time, values = candles.open_time[rows], candles.values[rows]
    return Candles(open_time, values, candles.interval_ms, candles.source, candles.sha256)


class Fitted(Forecaster, Generic[State]):
    """Forecasts each origin with the state that was fitted for its period.

    Without a history it has no periods: it has an identity, but cannot forecast; see `on_history`.

    Parameters
    ----------
    model : FittedModel
    periods : sequence of FitPeriod
        In order of time, as from `plan_fits`.
    schedule : FitSchedule
        The schedule of the periods.
    until : int, optional
        Origins after this one (ms UTC) use its fit, since later fits may use candles after it. For the audit.
    pool : bool
        Whether it is fitted on all symbols of a panel (`btcbt.forecasters.pooled`).
    context, horizon, n_paths, seed, batch_size
        As in `Baseline`.

    Raises
    ------
    ConfigError
        If the context is too short for the model.
    """

    def __init__(
        self,
        model: FittedModel[State],
        periods: Sequence[FitPeriod],
        schedule: FitSchedule,
        *,
        context: int,
        horizon: int,
        n_paths: int,
        seed: int,
        batch_size: int | None = None,
        until: int | None = None,
        pool: bool = False,
    ) -> None:
        super().__init__(context=context, horizon=horizon, n_paths=n_paths, seed=seed)
        if context < model.needed_context:
            raise ConfigError(
                f"forecaster of kind '{model.kind}': windows.context is {context}, expected {model.needed_context} or "
                "more; lengthen windows.context"
            )
        self.paths_are = model.paths_are
        self.model, self.periods, self.schedule, self.until = model, tuple(periods), schedule, until
        self.pool = pool
        self._batch_size = batch_size or max(1, min(64, _PATH_STEPS_PER_BATCH // (n_paths * horizon)))
        self._keys: dict[int, str] = {}
        self._states: dict[int, State] = {}

    @classmethod
    def from_config(cls, config: Any, windows: WindowsConfig, seed: int, base: Forecaster | None = None) -> Self:
        """Build what a `FittedConfig` describes; see `Forecaster.from_config`."""
        module, _, name = config.model.partition(":")
        model: FittedModel[State] = getattr(import_module(module), name)(**config.model_parameters)
        every, window, embargo = (
            None if length is None else interval_ms(length)
            for length in (config.fit.every, config.fit.window, config.fit.embargo)
        )
        return cls(
            model,
            (),
            FitSchedule(every, window or 0, embargo or 0),
            context=windows.context,
            horizon=windows.horizon,
            n_paths=config.n_paths,
            seed=seed,
            batch_size=None if config.batch_size == "auto" else config.batch_size,
            pool=config.pool,
        )

    def on_history(
        self, candles: Candles, windows: WindowsConfig, until: int | None = None, others: Sequence[Candles] = ()
    ) -> Fitted[State]:
        """The same model with the periods of a walk-forward over a history.

        Raises
        ------
        CandleError
            If the history starts after the first training range.
        ConfigError
            If it is fitted on all symbols of a panel, and there are no others.
        """
        if self.pool and not others:
            raise ConfigError(
                f"forecaster of kind '{self.model.kind}': pool is true, expected an experiment on several symbols "
                "(candles.symbols), on all of which it is fitted; remove 'pool'"
            )
        step = windows.stride * candles.interval_ms
        first = -(-time_ms(windows.start) // step) * step
        periods = plan_fits(candles, first, time_ms(windows.end), self.schedule)
        return type(self)(
            self.model,
            with_others(periods, others) if self.pool else periods,
            self.schedule,
            context=self.context,
            horizon=self.horizon,
            n_paths=self.n_paths,
            seed=self.seed,
            batch_size=self._batch_size,
            until=until,
            pool=self.pool,
        )

    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        """Sample the H candles after each window, each with the state of its period.

        Parameters
        ----------
        windows : sequence of Window
            B windows of T candles each.

        Returns
        -------
        ForecastBatch
            ``paths`` float32 (B, S, H, 6).

        Raises
        ------
        CandleError
            If there are too few candles.
        ValueError
            If a window does not have `context` candles, or no period serves it.
        """
        origins = origins_of(windows)
        paths = np.empty((len(windows), self.n_paths, self.horizon, 6), dtype=np.float32)
        provenance = {"forecaster": self.model.kind}
        for rows, number in self._groups(origins):
            inputs = self._inputs([windows[row] for row in rows.tolist()])
            numbers = uniforms(self.seed, origins[rows], self.n_paths, self.horizon)
            paths[rows] = self.model.sample(self.state(number), inputs, numbers)
            provenance["fit"] = self.key(number)
        return ForecastBatch(origins, paths, provenance)

    def identity(self) -> Mapping[str, object]:
        """Kind, numerical version, seed, shape of the paths, parameters and schedule.

        The candles of each fit are not part of it; see `parts`.
        """
        return {
            "kind": self.model.kind,
            "version": self.model.version,
            "context": self.context,
            "horizon": self.horizon,
            "n_paths": self.n_paths,
            "seed": self.seed,
            "fit": asdict(self.schedule),
            **({"pool": True} if self.pool else {}),
            **self.model.parameters(),
        }

    @property
    def batch_size(self) -> int:
        """Number of origins per call; it affects only speed and memory."""
        return self._batch_size

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Training ranges of all fits; those of each period are in `parts`."""
        return tuple(dict.fromkeys(one for number in range(len(self.periods)) for one in self.ranges(number)))

    def parts(self, origins: IntArray) -> Iterator[Part]:
        """One for each fit that serves any of the origins, with its key."""
        for rows, number in self._groups(origins):
            yield Part(rows, self.key(number), self.ranges(number))

    def ranges(self, number: int) -> tuple[DataRange, ...]:
        """The training range of a period, and what it used of each other symbol."""
        period = self.periods[number]
        spans = [(int(one.open_time[0]), int(one.open_time[-1]) + one.interval_ms) for one in period.others]
        return tuple(dict.fromkeys(DataRange("fit", *span) for span in (period.train, *spans)))

    def number(self, origin: int) -> int:
        """Number of the period that serves an origin (ms UTC).

        Raises
        ------
        ValueError
            If there is none.
        """
        asked = origin if self.until is None else min(origin, self.until)
        number = bisect_right(self.periods, asked, key=lambda period: period.start) - 1
        if number < 0 or asked >= self.periods[number].end:
            raise ValueError(f"no fit serves {time_text(origin)}")
        return number

    def key(self, number: int) -> str:
        """SHA-256 (hex) of the inputs of a period's fit: model, parameters and candles."""
        if number not in self._keys:
            period = self.periods[number]
            made_by = {"kind": self.model.kind, "version": self.model.version, **self.model.parameters()}
            digest = hashlib.sha256(json.dumps([made_by, period.candles.interval_ms], sort_keys=True).encode())
            for candles in (period.candles, *period.others):
                for array in (candles.open_time, candles.values):
                    digest.update(np.ascontiguousarray(array).tobytes())
            self._keys[number] = digest.hexdigest()
        return self._keys[number]

    def state(self, number: int) -> State:
        """The fitted state of a period; the last few are kept in memory."""
        if number not in self._states:
            period = self.periods[number]
            state = self.model.fit(pooled(period.candles, period.others, self.model.needed_context))
            if len(self._states) == _KEPT:
                self._states.pop(next(iter(self._states)))
            self._states[number] = state
        return self._states[number]

    def _inputs(self, windows: Sequence[Window]) -> Inputs:
        open_time = np.stack([window.open_time for window in windows])
        return Inputs(self.history(windows), open_time, windows[0].interval_ms)

    def _groups(self, origins: IntArray) -> Iterator[tuple[IntArray, int]]:
        """Rows of the origins that each period serves, and its number."""
        numbers = np.array([self.number(origin) for origin in origins.tolist()], dtype=np.int64)
        for number in np.unique(numbers).tolist():
            yield np.flatnonzero(numbers == number), number
