"""Forecast batches of windows in order, in this process or in several, within the available memory."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import joblib
import numpy as np

from btcbt.config import ExecutorConfig
from btcbt.errors import BtcbtError
from btcbt.forecasters.asking import ask, out_of_memory
from btcbt.forecasters.base import Forecaster
from btcbt.records import ForecastBatch, Window

PROCESS_BATCH = 16
"""Origins per task: cheap to transfer, and short enough that no process waits long for the last one."""
MIN_ORIGINS = 128
"""Fewer origins finish before a second process has started."""

PROCESSES_PER_CORE = 4
"""More only take memory."""
AHEAD = 2
"""Tasks in flight per worker, so that the next one is ready when one finishes."""
IDLE_SECONDS = 60
"""A process without a task ends after this time."""
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

_built: dict[str, Forecaster] = {}
"""The forecaster that a worker process has built, by its key."""
_limits: WeakKeyDictionary[Forecaster, int] = WeakKeyDictionary()
"""Largest batch that each forecaster was found to have memory for."""


def processes(forecaster: Forecaster, origins: int) -> int:
    """Number of processes for so many origins: one for a forecaster that parallelises itself."""
    if not forecaster.single_threaded or origins < MIN_ORIGINS:
        return 1
    return int(joblib.cpu_count())


def within_cores(executor: ExecutorConfig) -> ExecutorConfig:
    """The executor with no more local processes than this machine can use, with a warning if it named more."""
    cores = int(joblib.cpu_count())
    most = PROCESSES_PER_CORE * cores
    if executor.workers is None or executor.workers <= most or executor.address is not None:
        return executor
    log.warning("executor.workers %d: this machine has %d cores; using %d workers", executor.workers, cores, most)
    return executor.model_copy(update={"workers": most})


def batch_size(forecaster: Forecaster) -> int:
    """Number of windows in each batch of `forecast_in_order`.

    Independent of the number of processes, so that a resumed run has the same batches.
    """
    return min(forecaster.batch_size, PROCESS_BATCH) if forecaster.single_threaded else forecaster.batch_size


def forecast_in_order(
    forecaster: Forecaster,
    batches: Iterable[Sequence[Window]],
    workers: int,
    *,
    key: str,
    build: Callable[[], Forecaster],
) -> Iterator[ForecastBatch]:
    """Forecast batches in order; results do not depend on which process computed them.

    Parameters
    ----------
    forecaster : Forecaster
        Used if `workers` is 1.
    batches : iterable of sequence of Window
        Consumed as needed, a few ahead of the results.
    workers : int
        Processes; 1 stays in this one.
    key : str
        Identifies what `build` builds: a process builds it once.
    build : callable
        Builds the forecaster in another process, since networks and their caches cannot be sent.
    """
    if workers == 1:
        with one_thread(forecaster):
            for batch in batches:
                yield forecast_halving(forecaster, batch)
        return
    yield from on_processes(partial(_work, key, build), map(list, batches), workers)


def on_processes(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Apply a function to tasks on joblib's loky processes, and yield the results in order.

    Only a few results are buffered, so memory stays bounded. Processes are reused by the next call, and end after a
    minute without one.

    Raises
    ------
    BtcbtError
        If a process was killed.
    """
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # loky replaces a process that grew by 300 MB, without loss: it takes the next forecaster's network for a leak, and
    # its warning would make users look for one.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor", UserWarning)
    threads = str(max(1, joblib.cpu_count() // workers))
    pool = get_reusable_executor(
        max_workers=workers,
        timeout=IDLE_SECONDS,
        initializer=_end_with,
        initargs=(os.getpid(),),
        env={name: os.environ.get(name, threads) for name in _THREADS},
    )
    done = False
    try:
        # A pool may have been started when the current directory was another one; paths are relative to this one's.
        submit = partial(pool.submit, _in_folder, os.getcwd(), function)
        yield from in_order(submit, lambda future: future.result(), tasks, AHEAD * workers)
        done = True
    except BrokenProcessPool:
        raise BtcbtError(
            "a worker process was killed, possibly out of memory; finished shards are kept; run again, "
            "with fewer executor.workers if it recurs"
        ) from None
    finally:
        if not done:
            pool.shutdown(kill_workers=True)


def _in_folder(folder: str, function: Callable[[Task], Result], task: Task) -> Result:
    os.chdir(folder)
    return function(task)


def _end_with(parent: int) -> None:
    """End this process soon after its parent: a killed parent may hold a lock that loky's idle workers wait for."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="btcbt-parent", daemon=True).start()


def in_order(
    submit: Callable[[Task], Any], result: Callable[[Any], Result], tasks: Iterable[Task], width: int
) -> Iterator[Result]:
    """Submit tasks to an engine, `width` ahead, and yield their results in order: memory stays bounded."""
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) >= width:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())


def forecast_halving(forecaster: Forecaster, windows: Sequence[Window]) -> ForecastBatch:
    """Forecast a batch; if memory runs out, halve the batch size for this and later calls.

    Raises
    ------
    ForecasterError
        If what it returns is not their forecast; see `btcbt.forecasters.asking.ask`.
    BtcbtError
        If memory does not suffice for a single origin.
    """
    parts: list[ForecastBatch] = []
    done = 0
    while done < len(windows) or not parts:
        size = min(_limits.get(forecaster, len(windows)), len(windows) - done)
        # Retry outside the handler: the traceback keeps the arrays of the failed attempt alive.
        try:
            parts.append(ask(forecaster, windows[done : done + size]))
            failed = False
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            failed = True
        if not failed:
            done += size
            continue
        if size <= 1:
            raise BtcbtError(
                f"forecaster {type(forecaster).__name__}: not enough memory for one origin of "
                f"{forecaster.n_paths} paths; lower n_paths or context, or free memory on its device"
            )
        _limits[forecaster] = size // 2
        _free_cached()
        log.warning("out of memory with a batch of %d origins; continuing with %d", size, size // 2)
    return parts[0] if len(parts) == 1 else concatenate(parts)


def concatenate(parts: Sequence[ForecastBatch]) -> ForecastBatch:
    """Concatenate batches of one forecaster; the provenance is that of the last."""
    origins = np.concatenate([part.origins for part in parts])
    provenance: Mapping[str, str] = dict(parts[-1].provenance)
    return ForecastBatch(origins, np.concatenate([part.paths for part in parts]), provenance)


def built(key: str, build: Callable[[], Forecaster]) -> Forecaster:
    """The forecaster of a worker process, built at its first use."""
    if key not in _built:
        _built.clear()  # a pool outlives its first forecaster
        _built[key] = build()
    return _built[key]


def _work(key: str, build: Callable[[], Forecaster], windows: Sequence[Window]) -> ForecastBatch:
    # Ctrl-C reaches every process of a terminal; the process that writes the shards decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forecaster = built(key, build)
    with one_thread(forecaster):
        batch = forecast_halving(forecaster, windows)
    return ForecastBatch(batch.origins, batch.paths, dict(batch.provenance))


@contextmanager
def one_thread(forecaster: Forecaster) -> Iterator[None]:
    """Limit torch to one thread, as in a worker: sums split over threads are rounded differently."""
    torch = sys.modules.get("torch") if forecaster.single_threaded else None
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _free_cached() -> None:
    """Release torch's cached GPU memory, which may be too fragmented for the next batch."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
