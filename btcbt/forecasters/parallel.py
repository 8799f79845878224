"""Batches of windows to forecasts, in order, on as many processes as pay."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence

import joblib

from btcbt.forecasters.base import Forecaster
from btcbt.records import ForecastBatch, Window

PROCESS_BATCH = 16
"""Origins of a task: handing them over costs little, and no process waits long for the last one."""
MIN_ORIGINS = 128
"""Fewer origins are done before a second process has started."""


def processes(forecaster: Forecaster, origins: int) -> int:
    """How many processes to forecast so many origins on: one for a forecaster that uses every core itself."""
    if not forecaster.single_threaded or origins < MIN_ORIGINS:
        return 1
    return int(joblib.cpu_count())


def batch_size(forecaster: Forecaster, origins: int) -> int:
    """How many windows to put into each batch of `forecast_in_order`."""
    most = forecaster.batch_size
    return most if processes(forecaster, origins) == 1 else min(most, PROCESS_BATCH)


def forecast_in_order(
    forecaster: Forecaster, batches: Iterable[Sequence[Window]], workers: int
) -> Iterator[ForecastBatch]:
    """Forecast batch after batch; which process did which cannot be told from the answer.

    Parameters
    ----------
    forecaster : Forecaster
        Handed to each process.
    batches : iterable of sequence of Window
        Taken up as they are needed, a few ahead of the answers.
    workers : int
        Processes; 1 stays in this one.
    """
    if workers == 1:
        yield from map(forecaster.forecast, batches)
        return
    pool = joblib.Parallel(
        n_jobs=workers, backend="loky", return_as="generator", batch_size=1, max_nbytes=None
    )
    yield from pool(joblib.delayed(_work)(forecaster, list(batch)) for batch in batches)


def _work(forecaster: Forecaster, windows: Sequence[Window]) -> ForecastBatch:
    # Ctrl-C goes to every process of a terminal; when to stop is for the one that writes the shards to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    batch = forecaster.forecast(windows)
    return ForecastBatch(batch.origins, batch.paths, dict(batch.provenance))
