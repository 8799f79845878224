"""Batches of windows to forecasts, in order, on as many processes as pay, within the memory that there is."""

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

from btcbt.errors import BtcbtError
from btcbt.forecasters.asking import ask, out_of_memory
from btcbt.forecasters.base import Forecaster
from btcbt.records import ForecastBatch, Window

PROCESS_BATCH = 16
"""Origins of a task: handing them over costs little, and no process waits long for the last one."""
MIN_ORIGINS = 128
"""Fewer origins are done before a second process has started."""

AHEAD = 2
"""Tasks in flight for each worker: the next one is there when one is done."""
IDLE_SECONDS = 60
"""After so long without a task a process ends."""
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Answer = TypeVar("Answer")

_built: dict[str, Forecaster] = {}
"""The forecaster that a worker process has built, by its key."""
_limits: WeakKeyDictionary[Forecaster, int] = WeakKeyDictionary()
"""How many origins at once each forecaster turned out to have memory for."""


def processes(forecaster: Forecaster, origins: int) -> int:
    """How many processes to forecast so many origins on: one for a forecaster that uses the machine itself."""
    if not forecaster.single_threaded or origins < MIN_ORIGINS:
        return 1
    return int(joblib.cpu_count())


def batch_size(forecaster: Forecaster) -> int:
    """How many windows to put into each batch of `forecast_in_order`.

    It does not depend on the number of processes, so that a run which goes on where another stopped cuts the same
    batches.
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
    """Forecast batch after batch; which process did which cannot be told from the answer.

    Parameters
    ----------
    forecaster : Forecaster
        Does the work if it stays in this process.
    batches : iterable of sequence of Window
        Taken up as they are needed, a few ahead of the answers.
    workers : int
        Processes; 1 stays in this one.
    key : str
        Names what `build` builds: a process builds it once.
    build : callable
        Makes the forecaster anew in another process, where networks and their caches cannot be sent.
    """
    if workers == 1:
        with one_thread(forecaster):
            for batch in batches:
                yield forecast_halving(forecaster, batch)
        return
    yield from on_processes(partial(_work, key, build), map(list, batches), workers)


def on_processes(function: Callable[[Task], Answer], tasks: Iterable[Task], workers: int) -> Iterator[Answer]:
    """Call a function for task after task on the processes of joblib's loky, and give the answers in order.

    No more than a few answers wait to be taken, so memory stays bounded however slow the taker is. Processes stay for
    the next call, and end when there is none for a minute.

    Raises
    ------
    BtcbtError
        If a process was killed.
    """
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # A process that grew by 300 MB since its first task is replaced, which loses nothing: loky takes for a leak what
    # is the next forecaster's network. Its warning would tell users to look for one.
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
            "a worker process was killed, perhaps for want of memory; finished shards are kept, run again, "
            "with fewer executor.workers if it happens again"
        ) from None
    finally:
        if not done:
            pool.shutdown(kill_workers=True)


def _in_folder(folder: str, function: Callable[[Task], Answer], task: Task) -> Answer:
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
    submit: Callable[[Task], Any], result: Callable[[Any], Answer], tasks: Iterable[Task], width: int
) -> Iterator[Answer]:
    """Hand tasks to an engine, `width` ahead, and wait for their answers in order: memory stays bounded."""
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) >= width:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())


def forecast_halving(forecaster: Forecaster, windows: Sequence[Window]) -> ForecastBatch:
    """Forecast a batch; where memory runs out, in halves of it, and never again so many at once.

    Raises
    ------
    ForecasterError
        If what it returns is not their forecast; see `btcbt.forecasters.asking.ask`.
    BtcbtError
        If there is not memory enough for a single origin.
    """
    parts: list[ForecastBatch] = []
    done = 0
    while done < len(windows) or not parts:
        size = min(_limits.get(forecaster, len(windows)), len(windows) - done)
        # The handler is left before the next try, for a traceback keeps the arrays of the failed one.
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
                f"forecaster {type(forecaster).__name__}: memory does not suffice for one origin of "
                f"{forecaster.n_paths} paths; lower n_paths or context, or free memory on its device"
            )
        _limits[forecaster] = size // 2
        _free_cached()
        log.warning("out of memory with a batch of %d origins; continuing with %d", size, size // 2)
    return parts[0] if len(parts) == 1 else concatenate(parts)


def concatenate(parts: Sequence[ForecastBatch]) -> ForecastBatch:
    """One batch of several of the same forecaster; its provenance is that of the last."""
    origins = np.concatenate([part.origins for part in parts])
    provenance: Mapping[str, str] = dict(parts[-1].provenance)
    return ForecastBatch(origins, np.concatenate([part.paths for part in parts]), provenance)


def built(key: str, build: Callable[[], Forecaster]) -> Forecaster:
    """The forecaster of a worker process, built at its first use."""
    if key not in _built:
        _built.clear()  # a pool outlives the forecaster that it was started for
        _built[key] = build()
    return _built[key]


def _work(key: str, build: Callable[[], Forecaster], windows: Sequence[Window]) -> ForecastBatch:
    # Ctrl-C goes to every process of a terminal; when to stop is for the one that writes the shards to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forecaster = built(key, build)
    with one_thread(forecaster):
        batch = forecast_halving(forecaster, windows)
    return ForecastBatch(batch.origins, batch.paths, dict(batch.provenance))


@contextmanager
def one_thread(forecaster: Forecaster) -> Iterator[None]:
    """Hold torch to one thread, here as in a worker: sums split over threads are rounded differently."""
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
    """Give back what torch holds on to on a GPU, in pieces that the next batch may not fit into."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
