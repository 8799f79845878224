"""Forecast shards on the processes of this machine (joblib) or the machines of a cluster (Dask, Ray).

The engines schedule, start and replace processes. A shard is sent as the candles that its windows span, and returns
as a batch, so workers need no shared disk. Shards return in the order of submission, a few in flight per worker.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import joblib

from btcbt.config import ExecutorConfig
from btcbt.errors import BtcbtError, ConfigError
from btcbt.execution.local import (
    AHEAD,
    batch_size,
    built,
    concatenate,
    forecast_halving,
    in_order,
    on_processes,
    one_thread,
)
from btcbt.files import CAN_LOCK, acquire_lock
from btcbt.forecasters.base import Forecaster
from btcbt.records import FloatArray, ForecastBatch, IntArray, Window

RETRIES = 3
"""How often a shard is retried on another worker after its own was lost."""
WAIT_SECONDS = 10.0
ALONE_SECONDS = 120.0
"""How long a cluster without a worker is waited for: workers end when the network is cut, and may be starting."""
SILENT_TIMES = 3
"""How often in a row a head may not answer, `WAIT_SECONDS` apart."""
_GPUS = Path("/proc/driver/nvidia/gpus")

_pinned: list[Any] = []
"""The lock on this process's GPU, held until the process ends."""
_busy = threading.Lock()
"""A cluster's worker may have several threads; a forecaster is used by one at a time."""


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
    """Forecast shards in order on another engine.

    Parameters
    ----------
    executor : ExecutorConfig
        Of kind joblib, dask or ray.
    tasks : iterable of ShardTask
        Consumed as needed, a few ahead of the results.
    key : str
        Identifies what `build` builds: a worker builds it once.
    build : callable
        Builds the forecaster in a worker.

    Raises
    ------
    ConfigError
        If the engine is not installed, or no cluster responds at the address.
    BtcbtError
        If a shard failed because its workers were lost repeatedly.
    """
    engine = {"joblib": _on_joblib, "dask": _on_dask, "ray": _on_ray}[executor.kind]
    yield from engine(executor, tasks, key, build)


def work(key: str, build: Callable[[], Forecaster], task: ShardTask) -> ForecastBatch:
    """Forecast a shard in a worker, in the same batches as a single process."""
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches every process of a terminal; the process that writes the shards decides when to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _busy:
        pin_gpu()
        forecaster = built(key, build)
        windows, step = task.windows(), batch_size(forecaster)
        with one_thread(forecaster):
            parts = [
                forecast_halving(forecaster, windows[start : start + step]) for start in range(0, len(windows), step)
            ]
        return concatenate(parts)


def pin_gpu() -> None:
    """Restrict this process to one GPU of several; call it before any use of a GPU.

    It takes the first of those used by the fewest processes of this machine, marked by file locks that end with their
    process. The order is that of CUDA_VISIBLE_DEVICES, so that an engine's own assignment (dask-cuda's) is kept.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = seen.split(",") if seen is not None else [str(i) for i in range(len(list(_GPUS.glob("*"))))]
    if len(gpus) < 2 or _pinned:
        return
    for share in count():
        for gpu in gpus:
            if _lock(f"btcbt-gpu-{gpu.strip()}-{share}"):
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu.strip()
                return


def _lock(name: str) -> bool:
    """Claim a name among the processes of this machine; False if another has it."""
    if not CAN_LOCK:
        return True
    folder = Path(tempfile.gettempdir()) / f"btcbt-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = (folder / name).open("w")
    if not acquire_lock(file, wait=False):
        file.close()
        return False
    _pinned.append(file)
    return True


def _on_joblib(
    executor: ExecutorConfig, tasks: Iterable[ShardTask], key: str, build: Callable[[], Forecaster]
) -> Iterator[ForecastBatch]:
    yield from on_processes(partial(work, key, build), tasks, executor.workers or int(joblib.cpu_count()))


def _on_dask(
    executor: ExecutorConfig, tasks: Iterable[ShardTask], key: str, build: Callable[[], Forecaster]
) -> Iterator[ForecastBatch]:
    distributed = _engine("distributed", "dask")
    try:
        if executor.address:
            distributed.comm.get_address_host(executor.address)  # fails before threads that would wait for it start
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
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"executor.address {executor.address}: no Dask scheduler responds ({reason}); give one such as "
            "tcp://HOST:8786, or none to start one here"
        ) from None
    with _without_tracebacks("distributed.client"), client:
        width = AHEAD * max(1, sum(client.nthreads().values()) or (executor.workers or 1))

        def submit(task: ShardTask) -> Any:
            return client.submit(work, key, build, task, pure=False, retries=RETRIES)

        try:
            yield from in_order(submit, partial(_wait, client), tasks, width)
        except (distributed.scheduler.KilledWorker, distributed.client.FutureCancelledError):
            raise BtcbtError(
                "a shard failed after its Dask workers or scheduler were lost, possibly out of memory; "
                "finished shards are kept, run again with more memory or fewer workers"
            ) from None


def _wait(client: Any, future: Any) -> ForecastBatch:
    """The result of a shard on Dask, which would wait without end for the first of its workers to come back."""
    alone = 0.0
    while True:
        try:
            result: ForecastBatch = future.result(timeout=WAIT_SECONDS)
            return result
        except TimeoutError:
            if future.done():  # the forecaster's own
                raise
        alone = alone + WAIT_SECONDS if client.status == "running" and not client.nthreads() else 0.0
        if alone >= ALONE_SECONDS:
            raise BtcbtError(
                f"the Dask cluster has had no worker for {alone:.0f} s; finished shards are kept, start workers and "
                "run again"
            )


@contextmanager
def _without_tracebacks(name: str) -> Iterator[None]:
    """Keep a logger from printing exceptions: a lost scheduler is one line, which `_on_dask` raises."""

    def has_none(record: logging.LogRecord) -> bool:
        return not record.exc_info

    logger = logging.getLogger(name)
    logger.addFilter(has_none)
    try:
        yield
    finally:
        logger.removeFilter(has_none)


def _on_ray(
    executor: ExecutorConfig, tasks: Iterable[ShardTask], key: str, build: Callable[[], Forecaster]
) -> Iterator[ForecastBatch]:
    ray = _engine("ray", "ray")
    ours = not ray.is_initialized()
    if ours:
        where = {"address": executor.address} if executor.address else {"num_cpus": executor.workers}
        try:
            ray.init(**where, include_dashboard=False if not executor.address else None, log_to_driver=False)
        except Exception as error:  # noqa: BLE001 - Ray raises bare ones when its processes do not start in time
            reason = " ".join(str(error).split())[:200]
            if executor.address:
                raise ConfigError(f"executor.address {executor.address}: no Ray cluster responds ({reason})") from None
            raise BtcbtError(f"executor.kind ray: Ray could not be started here ({reason}); run again") from None
    try:
        resources = ray.cluster_resources()
        # Ray shows a task only the GPU that it requested.
        remote = ray.remote(max_retries=RETRIES, num_gpus=1 if resources.get("GPU") else 0)(work)
        width = AHEAD * int(executor.workers or resources.get("GPU") or resources.get("CPU") or 1)
        yield from in_order(lambda task: remote.remote(key, build, task), partial(_get, ray), tasks, width)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BtcbtError):
            raise error.cause from None  # the original message, without the worker's traceback
        raise
    except ray.exceptions.RayError as error:
        raise BtcbtError(
            f"a shard failed after its Ray workers were lost ({type(error).__name__}), possibly out of "
            "memory; finished shards are kept, run again with more memory or fewer workers"
        ) from None
    finally:
        if ours:
            ray.shutdown()


def _get(ray: Any, reference: Any) -> ForecastBatch:
    """The result of a shard on Ray, which would end this process a minute after its head was lost."""
    silent = 0
    while True:
        try:
            result: ForecastBatch = ray.get(reference, timeout=WAIT_SECONDS)
            return result
        except ray.exceptions.GetTimeoutError:
            head = ray.get_runtime_context().gcs_address
            silent = 0 if _answers(head) else silent + 1
        if silent == SILENT_TIMES:
            raise BtcbtError(
                f"the head of the Ray cluster, {head}, does not answer; finished shards are kept, run again when it "
                "does"
            )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=WAIT_SECONDS / 2).close()
    except OSError:
        return False
    return True


def _engine(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ConfigError(
            f"executor.kind {extra}: {module} is not installed; install it with: pip install 'btcbt[{extra}]'"
        ) from None
