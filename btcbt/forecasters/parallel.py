"""Batches of windows to forecasts, in order, on as many processes as pay, within the memory that there is."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import joblib
import numpy as np

from btcbt.errors import BtcbtError
from btcbt.forecasters.base import Forecaster
from btcbt.records import ForecastBatch, Window

PROCESS_BATCH = 16
"""Origins of a task: handing them over costs little, and no process waits long for the last one."""
MIN_ORIGINS = 128
"""Fewer origins are done before a second process has started."""

log = logging.getLogger(__name__)

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
    pool = joblib.Parallel(n_jobs=workers, backend="loky", return_as="generator", batch_size=1, max_nbytes=None)
    yield from pool(joblib.delayed(_work)(key, build, list(batch)) for batch in batches)


def forecast_halving(forecaster: Forecaster, windows: Sequence[Window]) -> ForecastBatch:
    """Forecast a batch; where memory runs out, in halves of it, and never again so many at once.

    Raises
    ------
    BtcbtError
        If there is not memory enough for a single origin.
    """
    parts: list[ForecastBatch] = []
    done = 0
    while done < len(windows) or not parts:
        size = min(_limits.get(forecaster, len(windows)), len(windows) - done)
        # The handler is left before the next try, for a traceback keeps the arrays of the failed one.
        try:
            parts.append(forecaster.forecast(windows[done : done + size]))
            failed = False
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
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
        log.warning("out of memory with a batch of %d origins; going on with %d", size, size // 2)
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


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of this machine or of a device; torch raises a RuntimeError for either."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error)


def _free_cached() -> None:
    """Give back what torch holds on to on a GPU, in pieces that the next batch may not fit into."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
