"""Call a forecaster, and validate its forecasts before they are stored or shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from btcbt.config import time_text
from btcbt.errors import BtcbtError, ForecasterError
from btcbt.forecasters.base import Forecaster, origins_of
from btcbt.messages import describe, explain
from btcbt.records import CHANNELS, VOLUME, ForecastBatch, IntArray, Window


class AnswerError(ForecasterError):
    """A forecaster failed. The message begins with the origin; callers add the name of the forecaster."""


def ask(forecaster: Forecaster, windows: Sequence[Window]) -> ForecastBatch:
    """Validated forecasts of windows.

    Raises
    ------
    AnswerError
        If a user-defined forecaster raises an error, or its forecasts are invalid (`check_batch`).
    """
    origins = origins_of(windows)
    with explained(forecaster, origins):
        batch = forecaster.forecast(windows)
    check_batch(forecaster, batch, origins)
    return batch


@contextmanager
def explained(forecaster: Forecaster, origins: IntArray) -> Iterator[None]:
    """Turn errors of user-defined forecasters into an `AnswerError` of one line.

    Errors of built-in forecasters pass unchanged, and so does running out of memory, since a smaller batch may fit.
    """
    try:
        yield
    except BaseException as error:
        ours = type(forecaster).__module__.partition(".")[0] == "btcbt"
        if ours or isinstance(error, BtcbtError | KeyboardInterrupt) or out_of_memory(error):
            raise
        raise AnswerError(f"{_span(origins)}: raised {explain(error)}") from error


def check_batch(forecaster: Forecaster, batch: ForecastBatch, origins: IntArray) -> None:
    """Validate the forecasts of origins: sampled candles with finite values and positive prices.

    Paths must be float32, as stored: a silent conversion would hide values that float32 cannot hold.

    Raises
    ------
    AnswerError
        Names the origin, what was returned, what was expected, and the remedy.
    """
    remedy = "return self.batch(windows, paths), with paths (B, S, H, 6) or closes (B, S, H)"
    if not isinstance(batch, ForecastBatch):
        raise AnswerError(f"{_span(origins)}: returned {describe(batch)}; expected a ForecastBatch; {remedy}")
    paths, shape = batch.paths, (len(origins), forecaster.n_paths, forecaster.horizon, len(CHANNELS))
    if paths.shape != shape:
        raise AnswerError(
            f"{_span(origins)}: returned paths {paths.shape}; expected {shape}, that is (origins, n_paths, horizon, "
            f"channels); {remedy}"
        )
    if paths.dtype != np.float32:
        raise AnswerError(f"{_span(origins)}: returned paths of {paths.dtype}; expected float32; {remedy}")
    other = np.flatnonzero(np.asarray(batch.origins) != origins)
    if len(other):
        row = int(other[0])
        raise AnswerError(
            f"{time_text(int(origins[row]))}: returned a forecast for origin {time_text(int(batch.origins[row]))}; "
            f"expected the origins of the windows, in their order; {remedy}"
        )
    _check_values(batch, origins)


def _check_values(batch: ForecastBatch, origins: IntArray) -> None:
    bad = ~np.isfinite(batch.paths)
    expected = "finite values; check its parameters, its weights and the candles before that time"
    if not bad.any():
        bad[..., :VOLUME] = batch.paths[..., :VOLUME] <= 0.0
        expected = "positive prices; sample returns or logarithms of prices, or bound them from below"
    if bad.any():
        row, path, step, channel = (int(index) for index in np.argwhere(bad)[0])
        value = batch.paths[row, path, step, channel]
        raise AnswerError(
            f"{time_text(int(origins[row]))}: sampled {CHANNELS[channel]} {value} in path {path}, step {step + 1}; "
            f"expected {expected}"
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; torch raises a RuntimeError for that."""
    if isinstance(error, MemoryError):
        return True
    text = explain(error)
    return "out of memory" in text or "allocate memory" in text


def _span(origins: IntArray) -> str:
    first, last = time_text(int(origins[0])), time_text(int(origins[-1]))
    return first if first == last else f"{first} .. {last}"
