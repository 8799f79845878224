"""The forecasts that a run lacks: shard by shard, on the engine that the experiment names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btcbt.config import ExecutorConfig, time_text
from btcbt.errors import BtcbtError, CheckpointError
from btcbt.execution.clusters import ShardTask, forecast_shards_on
from btcbt.execution.local import batch_size, forecast_in_order, processes
from btcbt.forecasters import Forecaster
from btcbt.forecasters.calibrated import Calibrated
from btcbt.records import Float32Array, ForecastBatch, IntArray
from btcbt.storage.forecasts import Digests, ForecastStore, ShardPlan, fitted_digests, history_digests
from btcbt.windows import Windows, contamination

READ_BATCH = 168

Advance = Callable[[int], None]
Shards = Iterator[tuple[IntArray, ForecastBatch]]


@dataclass(slots=True, eq=False)
class Member:
    """A forecaster of the run, and where its forecasts are."""

    name: str
    kind: str
    forecaster: Forecaster
    build: Callable[[], Forecaster]
    windows: Windows
    digests: Digests
    column: str
    key: str
    meaning: Mapping[str, object]
    store: ForecastStore
    plan: ShardPlan
    labels: Any
    traded: bool
    computed: int = 0
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def work(self) -> tuple[str, Callable[[], Forecaster]]:
        """What a worker is to build, and the name under which it may keep it.

        Workers outlive a run. The key of the store is too short a name for them: it says nothing of refitted weights,
        while the digests of the forecasts do. What is built is compared with what this process has, for a path may
        lead to another checkpoint on another machine.
        """
        name = hashlib.sha256(self.key.encode())
        name.update(self.windows.origins.tobytes())
        name.update(self.digests.tobytes())
        return name.hexdigest(), partial(_build_alike, self.build, dict(self.forecaster.identity()), self.name)


def _build_alike(build: Callable[[], Forecaster], identity: Mapping[str, object], name: str) -> Forecaster:
    forecaster = build()
    if dict(forecaster.identity()) != identity:
        raise CheckpointError(
            f"forecaster '{name}': a worker reads other weights than the process that started it; "
            "give all machines the same checkpoint under the same path"
        )
    return forecaster


def label_and_digest(
    forecaster: Forecaster, origins: IntArray, windows: Digests
) -> tuple[NDArray[np.str_], Digests, str]:
    """What each origin's fitted parts had looked at, and what its stored forecast must agree with.

    Parameters
    ----------
    forecaster : Forecaster
    origins : int64 (M,)
        All origins of the walk, ms UTC.
    windows : void (M,)
        Digests of their windows.

    Returns
    -------
    labels : str (M,)
        See `btcbt.windows.contamination`.
    digests : void (M,)
        Of its window; with the weights, if they were fitted for it; with all before, if the forecaster learns.
    kind : str
        ``window``, ``refit`` or ``history``: which of these.
    """
    labels = np.empty(len(origins), dtype="U11")
    weights = [""] * len(origins)
    for part in forecaster.parts(origins):
        labels[part.rows] = contamination(origins[part.rows], part.ranges)
        for row in part.rows.tolist():
            weights[row] = part.weights
    digests, kind = windows, "window"
    if any(weights):
        digests, kind = fitted_digests(windows, weights), "refit"
    if isinstance(forecaster, Calibrated):
        digests, kind = history_digests(origins, digests), "history"
    return labels, digests, kind


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
    if isinstance(member.forecaster, Calibrated):
        # Each of its forecasts follows from those before it, so there is nothing to share out.
        if base is None:
            raise ValueError(f"the base of '{member.name}' is needed")
        yield from _calibrated(member, member.forecaster, base, shards, advance)
    elif executor.kind == "local":
        yield from _here(member, shards, executor.workers, advance)
    else:
        tasks = (_task(member, rows) for rows in shards)
        key, build = member.work
        batches = forecast_shards_on(executor, tasks, key=key, build=build)
        for rows, batch in zip(shards, batches, strict=True):
            _check(member.name, batch, member.windows.origins[rows])
            advance(len(rows))
            yield rows, batch


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
            paths[done : done + len(part)] = _check(member.name, batch, origins[part])
            provenance = batch.provenance
            done += len(part)
            advance(len(part))
        yield rows, ForecastBatch(origins[rows], paths, provenance)
    for _ in batches:  # to its end, which leaves the processes to the next forecaster
        raise ValueError(f"forecaster '{member.name}' answered for more origins than it was asked for")


def _calibrated(
    member: Member, forecaster: Calibrated, base: Member, shards: Sequence[IntArray], advance: Advance
) -> Shards:
    """Walk over the stored forecasts of the base from the first origin on, and hand over what is missing."""
    origins = member.windows.origins
    batches = base.store.read(base.plan, origins, READ_BATCH)
    walk = ((batch.provenance, paths) for batch in forecaster.follow(member.windows, batches) for paths in batch.paths)
    at = 0
    for rows in shards:
        paths = np.empty((len(rows), *member.store.shape), dtype=np.float32)
        for slot, row in enumerate(rows.tolist()):
            provenance, paths[slot] = next(islice(walk, row - at, None))
            at = row + 1
        advance(len(rows))
        yield rows, ForecastBatch(origins[rows], paths, provenance)


def _check(name: str, batch: ForecastBatch, origins: IntArray) -> Float32Array:
    """The paths of a batch, if they are the asked ones and made of numbers."""
    if not np.array_equal(batch.origins, origins):
        raise ValueError(f"forecaster '{name}' answered for other origins than it was asked for")
    good = np.isfinite(batch.paths).all(axis=(1, 2, 3))
    if not good.all():
        raise BtcbtError(
            f"forecaster '{name}' at {time_text(int(origins[~good][0]))}: a sampled candle is not finite; "
            "check its checkpoint and the candles before that time"
        )
    return batch.paths
