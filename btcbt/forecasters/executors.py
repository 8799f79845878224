"""Shards of forecasts on the processes of this machine (joblib) or the machines of a cluster (Dask, Ray).

The engines schedule, start and replace processes; nothing here does. A shard travels as the stretch of candles
that its windows lie in, and comes back as a batch, so that workers need no common disk. Shards come back in the
order in which they were asked for, a few in flight for each worker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import joblib

from btcbt.config import ExecutorConfig
from btcbt.errors import BtcbtError, ConfigError
from btcbt.forecasters.base import Forecaster
from btcbt.forecasters.parallel import batch_size, built, concatenate, forecast_halving, one_thread
from btcbt.records import FloatArray, ForecastBatch, IntArray, Window

AHEAD = 2
"""Shards in flight for each worker: the next one is there when one is done."""
RETRIES = 3
"""How often a shard is given to another worker after its own was lost."""
_GPUS = Path("/proc/driver/nvidia/gpus")

_busy = threading.Lock()
"""A worker of a cluster may have several threads; a forecaster serves one at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardTask:
    """The windows of a shard.

    Attributes
    ----------
    open_time : int64 (N,), values : float64 (N, 6)
        The candles from the first of the first window to the last of the last.
    interval_ms, context : int
        Candle length, and T.
    last : int64 (B,)
        Row of the newest candle of each window.
    """

    open_time: IntArray
    values: FloatArray
    interval_ms: int
    context: int
    last: IntArray

    def windows(self) -> list[Window]:
        """The windows, read-only views."""
        self.values.flags.writeable = self.open_time.flags.writeable = False
        rows = [slice(stop + 1 - self.context, stop + 1) for stop in self.last.tolist()]
        return [Window(self.open_time[r], self.values[r], self.interval_ms) for r in rows]


def forecast_shards_on(
    executor: ExecutorConfig, tasks: Iterable[ShardTask], *, key: str, build: Callable[[], Forecaster]
) -> Iterator[ForecastBatch]:
    """Forecast shard after shard on another engine.

    Parameters
    ----------
    executor : ExecutorConfig
        Of kind joblib, dask or ray.
    tasks : iterable of ShardTask
        Taken up as they are needed, a few ahead of the answers.
    key : str
        Names what `build` builds: a worker builds it once.
    build : callable
        Makes the forecaster in a worker.

    Raises
    ------
    ConfigError
        If the engine is not installed, or no cluster answers at the address.
    BtcbtError
        If the engine gave a shard up: its workers were lost again and again.
    """
    engine = {"joblib": _on_joblib, "dask": _on_dask, "ray": _on_ray}[executor.kind]
    yield from engine(executor, tasks, key, build)


def work(key: str, build: Callable[[], Forecaster], task: ShardTask, gpu: int | None = None) -> ForecastBatch:
    """Forecast a shard in a worker, in the batches that one process alone would cut."""
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C goes to every process of a terminal; when to stop is for the one that writes the shards to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _busy:
        pin_gpu(gpu)
        forecaster = built(key, build)
        windows, step = task.windows(), batch_size(forecaster)
        with one_thread(forecaster):
            parts = [
                forecast_halving(forecaster, windows[start : start + step]) for start in range(0, len(windows), step)
            ]
        return concatenate(parts)


def pin_gpu(worker: int | None) -> None:
    """Let this process see one GPU alone, where there are several; it must not have touched one yet.

    Parameters
    ----------
    worker : int or None
        Number of the worker; found out from the process if None. Workers take the GPUs in turn.
    """
    if os.environ.get("BTCBT_GPU_PINNED"):
        return
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = seen.split(",") if seen is not None else [str(i) for i in range(len(list(_GPUS.glob("*"))))]
    if len(gpus) < 2:
        return
    if worker is None:
        identity = multiprocessing.current_process().name.rpartition("-")[2]
        worker = int(identity) if identity.isdigit() else os.getpid()
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)].strip()
    os.environ["BTCBT_GPU_PINNED"] = "1"


def _on_joblib(
    executor: ExecutorConfig, tasks: Iterable[ShardTask], key: str, build: Callable[[], Forecaster]
) -> Iterator[ForecastBatch]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    pool = joblib.Parallel(
        n_jobs=executor.workers or joblib.cpu_count(),
        backend="loky",
        return_as="generator",
        batch_size=1,
        pre_dispatch=f"{AHEAD}*n_jobs",
        max_nbytes=None,
    )
    try:
        yield from pool(joblib.delayed(work)(key, build, task) for task in tasks)
    except TerminatedWorkerError:
        raise BtcbtError(
            "a worker process was killed, perhaps for want of memory; finished shards are kept, run again, "
            "with fewer executor.workers if it happens again"
        ) from None


def _on_dask(
    executor: ExecutorConfig, tasks: Iterable[ShardTask], key: str, build: Callable[[], Forecaster]
) -> Iterator[ForecastBatch]:
    distributed = _engine("distributed", "dask")
    try:
        client = (
            distributed.Client(executor.address, timeout="20s")
            if executor.address
            else distributed.Client(
                n_workers=executor.workers or joblib.cpu_count(),
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
            )
        )
    except OSError as error:
        raise ConfigError(f"executor.address {executor.address}: no Dask scheduler answers ({error})") from None
    with client:
        width = AHEAD * max(1, sum(client.nthreads().values()) or (executor.workers or 1))

        def submit(task: ShardTask) -> Any:
            return client.submit(_work_on_dask, key, build, task, pure=False, retries=RETRIES)

        try:
            yield from _in_order(submit, lambda future: future.result(), tasks, width)
        except distributed.scheduler.KilledWorker:
            raise BtcbtError(
                "a shard was given up after its Dask workers were lost, perhaps for want of memory; "
                "finished shards are kept, run again with more memory or fewer workers"
            ) from None


def _work_on_dask(key: str, build: Callable[[], Forecaster], task: ShardTask) -> ForecastBatch:
    from distributed import get_worker

    name = get_worker().name
    return work(key, build, task, name if isinstance(name, int) else None)


def _on_ray(
    executor: ExecutorConfig, tasks: Iterable[ShardTask], key: str, build: Callable[[], Forecaster]
) -> Iterator[ForecastBatch]:
    ray = _engine("ray", "ray")
    ours = not ray.is_initialized()
    if ours:
        where = {"address": executor.address} if executor.address else {"num_cpus": executor.workers}
        try:
            ray.init(**where, include_dashboard=False if not executor.address else None, log_to_driver=False)
        except ConnectionError as error:
            raise ConfigError(f"executor.address {executor.address}: no Ray cluster answers ({error})") from None
    try:
        resources = ray.cluster_resources()
        # Ray shows a task that asks for a GPU that one alone.
        remote = ray.remote(max_retries=RETRIES, num_gpus=1 if resources.get("GPU") else 0)(work)
        width = AHEAD * int(executor.workers or resources.get("GPU") or resources.get("CPU") or 1)
        yield from _in_order(lambda task: remote.remote(key, build, task), ray.get, tasks, width)
    except ray.exceptions.WorkerCrashedError:
        raise BtcbtError(
            "a shard was given up after its Ray workers were lost, perhaps for want of memory; "
            "finished shards are kept, run again with more memory or fewer workers"
        ) from None
    finally:
        if ours:
            ray.shutdown()


def _in_order(
    submit: Callable[[ShardTask], Any], result: Callable[[Any], ForecastBatch], tasks: Iterable[ShardTask], width: int
) -> Iterator[ForecastBatch]:
    """Hand tasks to an engine, `width` ahead, and wait for their answers in order: memory stays bounded."""
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) >= width:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())


def _engine(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ConfigError(
            f"executor.kind {extra}: {module} is not installed; install it with: pip install 'btcbt[{extra}]'"
        ) from None
