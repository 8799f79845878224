"""Missing forecasts are computed shard by shard, on the configured executor."""

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
from btcbt.walkforward.members import Member

Advance = Callable[[int], None]
Shards = Iterator[tuple[IntArray, ForecastBatch]]


def forecast_missing(member: Member, base: Member | None, config: RunConfig, progress: Progress) -> Member:
    """Compute the forecasts of a member that are missing in the store, and store them shard by shard.

    Parameters
    ----------
    member : Member
        The forecaster.
    base : Member or None
        Its base, with forecasts stored; None if it has none.
    config : RunConfig
        Sets the shard size and the executor.
    progress : Progress
        Receives the progress.

    Returns
    -------
    Member
        The same member, with all forecasts stored.

    Raises
    ------
    Interrupted
        If the run was interrupted; complete shards are stored.
    """
    origins, missing = member.windows.origins, member.plan.missing
    with progress.stage(f"forecast {member.name}", len(origins), done=len(origins) - len(missing)) as advance:
        if len(missing):
            member.store.describe(member.meaning)
            size = min(config.store.shard_size, member.store.most_rows)
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
    """Forecast the origins of each shard, in order. Shard size, batch size and executor do not change the paths.

    Parameters
    ----------
    member : Member
        The forecaster.
    shards : sequence of int64 (B,)
        Rows of its windows.
    executor : ExecutorConfig
        Where forecasts are computed.
    base : Member or None
        Its base, with forecasts stored; None if it has none.
    advance : callable
        Receives the number of origins done.
    """
    with _named(member.name):
        if member.forecaster.base is not None:
            # Each forecast depends on earlier ones, so the work cannot be distributed.
            if base is None:
                raise ValueError(f"'{member.name}' needs its base")
            yield from _from_base(member, base, shards, advance)
        elif executor.kind == "local":
            yield from _locally(member, shards, executor.workers, advance)
        else:
            yield from _on_cluster(member, shards, executor, advance)


def try_out(members: Iterable[Member]) -> None:
    """Run each user-defined forecaster on its first missing origin, before longer computations start.

    Raises
    ------
    ForecasterError
        If one raises an error, or returns an invalid forecast.
    """
    for member in members:
        missing = member.plan.missing
        if member.kind == USER and member.forecaster.base is None and len(missing):
            with _named(member.name):
                ask(member.forecaster, [member.windows[int(missing[0])]])


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Add the name of the forecaster to errors."""
    try:
        yield
    except AnswerError as error:
        raise ForecasterError(f"forecaster '{name}' at {error}") from error.__cause__


def _task(member: Member, rows: IntArray) -> ShardTask:
    """A shard with the candles that its windows cover; windows overlap, so each candle is sent once."""
    windows = member.windows
    last = windows.last[rows]
    stretch = slice(int(last[0]) + 1 - windows.context, int(last[-1]) + 1)
    candles = windows.candles
    return ShardTask(
        candles.open_time[stretch], candles.values[stretch], candles.interval_ms, windows.context, last - stretch.start
    )


def _locally(member: Member, shards: Sequence[IntArray], workers: int | None, advance: Advance) -> Shards:
    """Forecast in this process or in processes of this machine; batches do not span shards."""
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
    for _ in batches:  # exhaust it, so that the processes are free for the next forecaster
        raise ValueError(f"'{member.name}' returned more batches than were requested")


def _on_cluster(member: Member, shards: Sequence[IntArray], executor: ExecutorConfig, advance: Advance) -> Shards:
    """Forecast shards in other processes or on other machines."""
    tasks = (_task(member, rows) for rows in shards)
    key, build = member.work
    batches = forecast_shards_on(executor, tasks, key=key, build=build)
    for rows, batch in zip(shards, batches, strict=True):
        advance(len(rows))
        yield rows, batch


def _from_base(member: Member, base: Member, shards: Sequence[IntArray], advance: Advance) -> Shards:
    """Run over the stored forecasts of the base from the first origin on, and yield the missing shards."""
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
    """The forecasts made from those of the base, checked batch by batch."""
    forecaster, origins = member.forecaster, member.windows.origins
    asked = [origins[start : start + base.batch] for start in range(0, len(origins), base.batch)]
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
