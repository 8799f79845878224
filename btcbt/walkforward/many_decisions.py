"""Decisions of one strategy with many parameters: as columns of arrays where it offers that, otherwise in processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from btcbt.config import time_text
from btcbt.errors import StrategyError
from btcbt.execution.local import on_processes
from btcbt.messages import user_code
from btcbt.progress import Advance
from btcbt.records import CHANNELS, Float32Array, FloatArray, Forecast, Forecasts, Holding, IntArray, Window
from btcbt.storage.forecasts import ForecastStore, ShardPlan
from btcbt.strategies import Strategy
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward.decisions import decide_all, decide_from, isolated_window
from btcbt.walkforward.members import READ_BATCH, Member
from btcbt.windows import Windows

CHECKED_COLUMNS, CHECKED_ORIGINS = 8, 25
"""How many parameters, and how many origins of each, `decide_many` is compared with `decide` at."""

Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The origins of a walk with the stored forecasts of one forecaster; light enough to be sent to a process.

    Attributes
    ----------
    windows : Windows
        M origins.
    store : ForecastStore or None
        Where its forecasts are; None for strategies that use none.
    plan : ShardPlan or None
    """

    windows: Windows
    store: ForecastStore | None = None
    plan: ShardPlan | None = None

    @classmethod
    def of(cls, windows: Windows, member: Member | None) -> Stream:
        """The origins of `windows` with the forecasts of a member, which has the same, or with none."""
        return cls(windows) if member is None else cls(windows, member.store, member.plan)

    def __iter__(self) -> Iterator[Forecasts]:
        """The forecasts of every origin in order, a few origins at once; read-only copies, as of `isolated`."""
        for windows, paths in self._batches():
            own = paths.copy()
            own.setflags(write=False)
            yield Forecasts([isolated_window(window) for window in windows], own)

    def singly(self) -> Iterator[Forecast]:
        """The same, one origin at a time; not copied, since whoever asks a strategy does that."""
        for windows, paths in self._batches():
            yield from map(Forecast, windows, paths)

    def _batches(self) -> Iterator[tuple[list[Window], Float32Array]]:
        at = 0
        for paths in self._paths():
            yield [self.windows[at + i] for i in range(len(paths))], paths
            at += len(paths)

    def _paths(self) -> Iterator[Float32Array]:
        if self.store is None or self.plan is None:
            none = np.empty((len(self.windows), 0, self.windows.horizon, len(CHANNELS)), dtype=np.float32)
            yield from np.array_split(none, range(READ_BATCH, len(none), READ_BATCH))
            return
        for batch in self.store.read(self.plan, self.windows.origins, min(READ_BATCH, self.store.most_rows)):
            yield batch.paths


def decide_parameters(
    use: str,
    parameters: Sequence[Parameters],
    stream: Stream,
    closed: IntArray | None,
    workers: int,
    advance: Advance,
) -> FloatArray:
    """Decisions of a strategy at every origin, for each of its parameters.

    Parameters
    ----------
    use : str
        The strategy, as in an experiment.
    parameters : sequence of mapping (K,)
        Its parameters.
    stream : Stream
        M origins, with the forecasts that it trades on.
    closed : int64 (M,), or None
        As of `btcbt.walkforward.decisions.decide_all`.
    workers : int
        Processes for a strategy that decides at one origin at a time only.
    advance : callable
        Called with the number of parameters that are done.

    Returns
    -------
    float64 (M, K)
        Targets.

    Raises
    ------
    StrategyError
        If a strategy fails, or its `decide_many` decides otherwise than its `decide`.
    """
    strategies = [load_strategy(use, one) for one in parameters]
    targets = decide_in_columns(strategies, stream, use, closed)
    if targets is not None:
        advance(len(parameters))
        return targets
    columns = []
    alone = partial(_decide_alone, use, stream, closed)
    for column in on_processes(alone, parameters, workers) if workers > 1 else map(alone, parameters):
        columns.append(column)
        advance(1)
    return np.column_stack(columns)


def decide_in_columns(
    strategies: Sequence[Strategy], stream: Stream, name: str, closed: IntArray | None = None
) -> FloatArray | None:
    """Decisions of one strategy with K parameters by `decide_many`, compared with `decide` at some origins.

    Parameters
    ----------
    strategies : sequence of Strategy (K,)
        One strategy with each of its parameters.
    stream : Stream
        M origins, with the forecasts that it trades on.
    name : str
        Its name in messages.
    closed : int64 (M,), optional
        As of `btcbt.walkforward.decisions.decide_all`.

    Returns
    -------
    float64 (M, K), or None
        None if the strategy does not offer it.

    Raises
    ------
    StrategyError
        If it fails, or decides otherwise than `decide`.
    """
    params = [strategy.params for strategy in strategies]
    closed = np.zeros(len(stream.windows), dtype=np.int64) if closed is None else closed
    checked = {int(row) for row in np.linspace(0, len(closed) - 1, CHECKED_ORIGINS)}
    checked.update(np.flatnonzero(closed)[:CHECKED_ORIGINS].tolist())
    weights, parts, seen, at = np.zeros(len(params)), [], dict[int, Forecast](), 0
    for forecasts in _between(stream, closed):
        if closed[at]:
            weights = np.zeros(len(params))
        with user_code(lambda problem: StrategyError(f"strategy '{name}': decide_many failed: {problem}")):
            targets = type(strategies[0]).decide_many(forecasts, weights, params)
        if targets is None:
            return None
        targets = np.asarray(targets, dtype=np.float64)
        if targets.shape != (len(forecasts), len(params)) or not (np.abs(targets) <= 1.0).all():
            raise StrategyError(
                f"strategy '{name}': decide_many returned an array {targets.shape}; expected finite weights in "
                f"[-1, 1], {(len(forecasts), len(params))}"
            )
        for row in checked.intersection(range(at, at + len(forecasts))):
            seen[row] = Forecast(forecasts.windows[row - at], forecasts.paths[row - at].copy())
        at += len(forecasts)
        parts.append(targets)
        weights = targets[-1]
    found = np.concatenate(parts)
    _compare(strategies, found, seen, stream.windows, closed, name)
    return found


def _between(stream: Stream, closed: IntArray) -> Iterator[Forecasts]:
    """The batches of a stream, cut before each origin at which the position was closed."""
    at = 0
    for forecasts in stream:
        cuts = np.flatnonzero(closed[at + 1 : at + len(forecasts)]) + 1
        for first, end in pairwise([0, *cuts, len(forecasts)]):
            yield Forecasts(forecasts.windows[first:end], forecasts.paths[first:end])
        at += len(forecasts)


def _compare(
    strategies: Sequence[Strategy],
    targets: FloatArray,
    seen: Mapping[int, Forecast],
    windows: Windows,
    closed: IntArray,
    name: str,
) -> None:
    """Compare with `decide` at some rows, for parameters spread over all of them."""
    columns = sorted({int(column) for column in np.linspace(0, len(strategies) - 1, CHECKED_COLUMNS)})
    for row, forecast in sorted(seen.items()):
        for column in columns:
            holding = holding_before(targets[:, column], row, windows, closed)
            expected = decide_from(strategies[column], [forecast], [holding], name)[0]
            if targets[row, column] != expected:
                raise StrategyError(
                    f"strategy '{name}' at {time_text(forecast.origin)}: decide_many returned "
                    f"{targets[row, column]:g}, decide {expected:g}; correct decide_many, or remove it"
                )


def holding_before(targets: FloatArray, row: int, windows: Windows, closed: IntArray) -> Holding:
    """The holding with which a strategy decided at a row of its targets (M,); `closed` (M,) as of `decide_all`."""
    origins, ended = windows.origins[: row + 1], closed[: row + 1] > 0
    after = np.sign(targets[:row])
    before = np.concatenate([[0.0], after])
    closings = closed[: row + 1][ended & (before != 0)]
    before[ended] = 0.0
    # The position began where its sign changed last: at a decision, or when it was closed.
    began = max([origins[0], *origins[:-1][after != before[:-1]], *closings])
    held = (origins[row] - began) // windows.candles.interval_ms
    weight = 0.0 if row == 0 or ended[row] else float(targets[row - 1])
    return Holding(weight=weight, candles_held=int(held))


def _decide_alone(use: str, stream: Stream, closed: IntArray | None, parameters: Parameters) -> FloatArray:
    """Decisions (M,) of one configuration."""
    return decide_all(load_strategy(use, parameters), stream.singly(), name=use, closed=closed)
