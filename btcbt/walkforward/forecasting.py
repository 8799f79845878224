"""The forecasts that a run lacks: shard by shard, on the executor that the experiment names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import numpy as np

from btcbt.config import USER, ExecutorConfig, RunConfig, time_text
from btcbt.errors import ForecasterError
from btcbt.execution.clusters import ShardTask, forecast_shards_on
from btcbt.execution.local import batch_size, forecast_in_order, processes
from btcbt.forecasters.asking import AnswerError, ask, check_batch, explained
from btcbt.progress import Progress
from btcbt.records import ForecastBatch, IntArray
from btcbt.storage.forecasts import ShardWriter
from btcbt.walkforward.interrupts import stop_between_shards
from btcbt.walkforward.members import READ_BATCH, Member

Advance = Callable[[int], None]
Shards = Iterator[tuple[IntArray, ForecastBatch]]


def forecast_missing(member: Member, base: Member | None, config: RunConfig, progress: Progress) -> Member:
    """Forecast what the store lacks of a member, and store it shard by shard.

    Parameters
    ----------
    member : Member
        Whose forecasts.
    base : Member or None
        The one that it is made from, its forecasts stored.
    config : RunConfig
        Gives the size of a shard and the engine.
    progress : Progress
        Who is told how far it is.

    Returns
    -------
    Member
        The same with nothing missing.

    Raises
    ------
    Interrupted
        If the process was asked to stop; whole shards are stored.
    """
    origins, missing = member.windows.origins, member.plan.missing
    with progress.stage(f"forecast {member.name}", len(origins), done=len(origins) - len(missing)) as advance:
        if len(missing):
            member.store.describe(member.meaning)
            size = config.store.shard_size
            shards = [missing[start : start + size] for start in range(0, len(missing), size)]
            with stop_between_shards(progress) as stop, ShardWriter(member.store) as writer:
                for rows, batch in forecast_shards(member, shards, config.executor, base, advance):
                    writer.put(member.digests[rows], batch)
                    stop()
            plan = member.store.plan(origins, member.digests)
            member = replace(member, computed=len(missing), plan=plan)
    first = member.store.read(member.plan.part(slice(0, 1)), origins[:1], 1)
    return replace(member, provenance=next(first).provenance)


def forecast_shards(
    member: Member, shards: Sequence[IntArray], executor: ExecutorConfig, base: Member | None, advance: Advance
) -> Shards:
    """Forecast the origins of each shard, in order; shard and batch sizes and the engine change no path.

    Parameters
    ----------
    member : Member
        Whose forecasts.
    shards : sequence of int64 (B,)
        Rows of its windows.
    executor : ExecutorConfig
        Where the work is done.
    base : Member or None
        That of a calibrated one, with its forecasts stored.
    advance : callable
        Told how many origins were done.
    """
    with _named(member.name):
        if member.forecaster.base is not None:
            # Each of its forecasts follows from those before it, so there is nothing to share out.
            if base is None:
                raise ValueError(f"the base of '{member.name}' is needed")
            yield from _followed(member, base, shards, advance)
        elif executor.kind == "local":
            yield from _here(member, shards, executor.workers, advance)
        else:
            yield from _elsewhere(member, shards, executor, advance)


def try_out(members: Iterable[Member]) -> None:
    """Ask each forecaster of the user's own for the first origin that it lacks, before any forecast is paid for.

    Raises
    ------
    ForecasterError
        If one fails, or what it returns is not a forecast.
    """
    for member in members:
        missing = member.plan.missing
        if member.kind == USER and member.forecaster.base is None and len(missing):
            with _named(member.name):
                ask(member.forecaster, [member.windows[int(missing[0])]])


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of which forecaster an error is."""
    try:
        yield
    except AnswerError as error:
        raise ForecasterError(f"forecaster '{name}' at {error}") from error.__cause__


def _task(member: Member, rows: IntArray) -> ShardTask:
    """A shard with the stretch of candles that its windows lie in; windows overlap, so it is sent once."""
    windows = member.windows
    last = windows.last[rows]
    stretch = slice(int(last[0]) + 1 - windows.context, int(last[-1]) + 1)
    candles = windows.candles
    return ShardTask(
        candles.open_time[stretch], candles.values[stretch], candles.interval_ms, windows.context, last - stretch.start
    )


def _here(member: Member, shards: Sequence[IntArray], workers: int | None, advance: Advance) -> Shards:
    """Batches that do not cross from one shard to the next, in this process or on its machine's cores."""
    forecaster, origins = member.forecaster, member.windows.origins
    step = batch_size(forecaster)
    parts = [[rows[start : start + step] for start in range(0, len(rows), step)] for rows in shards]
    asked = ([member.windows[int(row)] for row in part] for shard in parts for part in shard)
    count = processes(forecaster, sum(map(len, shards)))
    count = count if workers is None else min(count, workers)
    key, build = member.work
    batches = forecast_in_order(forecaster, asked, count, key=key, build=build)
    for rows, shard in zip(shards, parts, strict=True):
        paths = np.empty((len(rows), *member.store.shape), dtype=np.float32)
        provenance: Mapping[str, str] = {}
        done = 0
        for part in shard:
            batch = next(batches)
            paths[done : done + len(part)] = batch.paths
            provenance = batch.provenance
            done += len(part)
            advance(len(part))
        yield rows, ForecastBatch(origins[rows], paths, provenance)
    for _ in batches:  # to its end, which leaves the processes to the next forecaster
        raise ValueError(f"more batches than were asked for came back for '{member.name}'")


def _elsewhere(member: Member, shards: Sequence[IntArray], executor: ExecutorConfig, advance: Advance) -> Shards:
    """Shards that other processes or machines forecast."""
    tasks = (_task(member, rows) for rows in shards)
    key, build = member.work
    batches = forecast_shards_on(executor, tasks, key=key, build=build)
    for rows, batch in zip(shards, batches, strict=True):
        advance(len(rows))
        yield rows, batch


def _followed(member: Member, base: Member, shards: Sequence[IntArray], advance: Advance) -> Shards:
    """Walk over the stored forecasts of the base from the first origin on, and yield what is missing."""
    origins = member.windows.origins
    walk = ((batch.provenance, paths) for batch in _checked_walk(member, base) for paths in batch.paths)
    at = 0
    for rows in shards:
        paths = np.empty((len(rows), *member.store.shape), dtype=np.float32)
        for slot, row in enumerate(rows.tolist()):
            provenance, paths[slot] = next(islice(walk, row - at, None))
            at = row + 1
        advance(len(rows))
        yield rows, ForecastBatch(origins[rows], paths, provenance)


def _checked_walk(member: Member, base: Member) -> Iterator[ForecastBatch]:
    """What a forecaster makes of the forecasts of its base, batch by batch."""
    forecaster, origins = member.forecaster, member.windows.origins
    asked = [origins[start : start + READ_BATCH] for start in range(0, len(origins), READ_BATCH)]
    with explained(forecaster, asked[0]):
        made = iter(forecaster.follow(member.windows, base.batches()))
    for part in asked:
        with explained(forecaster, part):
            batch = next(made, None)
        if batch is None:
            raise AnswerError(
                f"{time_text(int(part[0]))}: follow() yielded nothing; expected one batch for each batch of its base"
            )
        check_batch(forecaster, batch, part)
        yield batch
