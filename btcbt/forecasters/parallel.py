"""Batches of windows to forecasts, in order, on as many processes as pay."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import joblib

from btcbt.forecasters.base import Forecaster
from btcbt.records import ForecastBatch, Window

PROCESS_BATCH = 16
"""Origins of a task: handing them over costs little, and no process waits long for the last one."""
MIN_ORIGINS = 128
"""Fewer origins are done before a second process has started."""

_built: dict[str, Forecaster] = {}
"""The forecaster that a worker process has built, by its key."""


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
        with _one_thread(forecaster):
            yield from map(forecaster.forecast, batches)
        return
    pool = joblib.Parallel(n_jobs=workers, backend="loky", return_as="generator", batch_size=1, max_nbytes=None)
    yield from pool(joblib.delayed(_work)(key, build, list(batch)) for batch in batches)


def _work(key: str, build: Callable[[], Forecaster], windows: Sequence[Window]) -> ForecastBatch:
    # Ctrl-C goes to every process of a terminal; when to stop is for the one that writes the shards to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if key not in _built:
        _built.clear()  # a pool outlives the forecaster that it was started for
        _built[key] = build()
    forecaster = _built[key]
    with _one_thread(forecaster):
        batch = forecaster.forecast(windows)
    return ForecastBatch(batch.origins, batch.paths, dict(batch.provenance))


@contextmanager
def _one_thread(forecaster: Forecaster) -> Iterator[None]:
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
