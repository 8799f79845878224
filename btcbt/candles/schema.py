"""What a candle history must satisfy, and the only place where `Candles` are made.

Rows are counted from 0, as in pandas and pyarrow. Every message is one line that names the history, the row and its
time, what was found, what was expected and what to do.
"""

from __future__ import annotations

import hashlib
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btcbt.config import Interval, interval_ms
from btcbt.errors import CandleError
from btcbt.records import (
    AMOUNT,
    CHANNELS,
    CLOSE,
    DAY_MS,
    HIGH,
    HOUR_MS,
    LOW,
    MINUTE_MS,
    OPEN,
    VOLUME,
    Candles,
    FloatArray,
    IntArray,
)

EARLIEST_MS = 0
"""1970-01-01: earlier open times are errors."""
LATEST_MS = 7_258_118_400_000
"""2200-01-01: later open times were read in the wrong unit."""

_PRICES = (OPEN, HIGH, LOW, CLOSE)


def candle_error(source: str, what: str) -> CandleError:
    """The error with message `what` about the history `source`, on one line without control characters."""
    line = " ".join(f"candles {source}: {what}".split())
    return CandleError("".join(character if character.isprintable() else "?" for character in line))


def parse_interval(interval: str) -> int:
    """Length of `interval` in ms.

    Raises
    ------
    CandleError
        If it is not a supported interval.
    """
    known = get_args(Interval)
    if interval not in known:
        raise CandleError(f"candles: interval {interval!r} is unknown; use one of {', '.join(known)}")
    return interval_ms(interval)


def name_interval(length_ms: int) -> str:
    """The shortest name of an interval: ``4h`` for 14,400,000 ms."""
    for unit, size in (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS)):
        if length_ms % size == 0:
            return f"{length_ms // size}{unit}"
    return f"{length_ms / 1000:g}s"


def name_time(time_ms: int) -> str:
    """ISO 8601, UTC, with milliseconds only where they are not 0."""
    return str(np.datetime64(int(time_ms), "ms")).removesuffix(".000") + "Z"


def make_candles(
    open_time: ArrayLike, values: ArrayLike, *, interval: str, source: str = "candles", sha256: str = ""
) -> Candles:
    """Validate arrays and freeze them as `Candles`.

    Parameters
    ----------
    open_time : int64 (N,)
        Open times, ms UTC: on the interval's grid, increasing. Absent rows are gaps, and are not filled.
    values : float64 (N, 6)
        The channels. A NaN `amount` is estimated as volume x mean(open, high, low, close), as upstream Kronos
        does; no other value may be missing.
    interval : str
        Such as ``1h``.
    source : str
        Name of this history in messages.
    sha256 : str
        Digest of the file behind it; the digest of the arrays if empty.

    Returns
    -------
    Candles
        Read-only copies.

    Raises
    ------
    CandleError
        Names the first offending row.
    """
    step = parse_interval(interval)
    times = np.array(open_time)
    if times.dtype.kind not in "iu" or times.ndim != 1:
        raise ValueError(f"open_time is {times.dtype} {times.shape}, not int64 (N,)")
    times = times.astype(np.int64)
    channels = np.array(values, dtype=np.float64, order="C")
    if channels.shape != (len(times), len(CHANNELS)):
        raise ValueError(f"values {channels.shape} are not (N={len(times)}, {len(CHANNELS)})")
    if not len(times):
        raise candle_error(source, "has no rows, expected at least one candle; re-import the history")
    _check_times(times, step, source)
    _check_values(times, channels, source)
    _fill_amount(times, channels, source)
    times.setflags(write=False)
    channels.setflags(write=False)
    return Candles(times, channels, step, source, sha256 or digest_arrays(times, channels, step))


def check_interval(candles: Candles) -> None:
    """Refuse longer candles read as shorter ones: every hour between two 4h candles would be a gap.

    Raises
    ------
    CandleError
        If all open times are on the grid of a longer supported interval.
    """
    if len(candles) == 1:
        return
    spacing = int(np.gcd.reduce(np.append(np.diff(candles.open_time), candles.open_time[0])))
    longer = [name for name in get_args(Interval) if spacing % interval_ms(name) == 0]
    if interval_ms(longer[-1]) > candles.interval_ms:
        interval = name_interval(candles.interval_ms)
        raise candle_error(
            candles.source,
            f"all open times are on the {longer[-1]} grid, expected {interval} candles; "
            f"set the interval to {longer[-1]} or use a {interval} history",
        )


def digest_arrays(open_time: IntArray, values: FloatArray, step: int) -> str:
    """SHA-256 (hex) of a history without a file: interval, open times and values, little-endian."""
    digest = hashlib.sha256(f"btcbt.candles {step}\n".encode())
    digest.update(np.ascontiguousarray(open_time, dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return digest.hexdigest()


def _check_times(times: IntArray, step: int, source: str) -> None:
    """Plausible, on the grid, increasing."""
    interval = name_interval(step)
    _refuse(
        (times < EARLIEST_MS) | (times >= LATEST_MS),
        times,
        source,
        "is outside 1970 .. 2200; check the unit of open_time (ms UTC is expected)",
    )
    _refuse(
        times % step != 0,
        times,
        source,
        f"is off the {interval} grid; drop the row, re-import, or give the file's own interval",
    )
    backward = np.concatenate(([False], times[1:] <= times[:-1]))
    if backward.any():
        row = int(np.argmax(backward))
        if times[row] == times[row - 1]:
            what = f"repeats the open time of row {row - 1}; keep one row for each open time"
        else:
            what = f"comes after {name_time(times[row - 1])}, expected increasing open times; sort the rows"
        _refuse(backward, times, source, what)


def _check_values(times: IntArray, values: FloatArray, source: str) -> None:
    """Finite, positive prices in order, volumes and amounts that are not negative."""
    for channel, name in enumerate(CHANNELS):
        column = values[:, channel]
        # A missing amount is estimated later; nothing else may be missing.
        broken = np.isinf(column) if channel == AMOUNT else ~np.isfinite(column)
        _refuse(broken, times, source, f"has {name} {{}}, expected a finite number; drop the row", column)
    for channel in _PRICES:
        column = values[:, channel]
        what = f"has {CHANNELS[channel]} {{}}, expected a price above 0; drop the row"
        _refuse(column <= 0, times, source, what, column)
    for channel in (VOLUME, AMOUNT):
        column = values[:, channel]
        what = f"has {CHANNELS[channel]} {{}}, expected 0 or more; drop the row"
        _refuse(column < 0, times, source, what, column)
    for channel in (OPEN, CLOSE, LOW):
        what = f"has {CHANNELS[channel]} {{}} above its high; drop or re-import the row"
        _refuse(values[:, channel] > values[:, HIGH], times, source, what, values[:, channel])
    for channel in (OPEN, CLOSE):
        what = f"has {CHANNELS[channel]} {{}} below its low; drop or re-import the row"
        _refuse(values[:, channel] < values[:, LOW], times, source, what, values[:, channel])


def _fill_amount(times: IntArray, values: FloatArray, source: str) -> None:
    """Estimate the quote volume where it is missing, in place."""
    missing = np.isnan(values[:, AMOUNT])
    if not missing.any():
        return
    with np.errstate(over="ignore", invalid="ignore"):
        prices = values[missing][:, list(_PRICES)]
        values[missing, AMOUNT] = values[missing, VOLUME] * prices.mean(axis=1)
    _refuse(
        ~np.isfinite(values[:, AMOUNT]),
        times,
        source,
        "has volume {} whose value in quote units overflows float64; drop the row",
        values[:, VOLUME],
    )


def _refuse(bad: NDArray[np.bool_], times: IntArray, source: str, what: str, found: FloatArray | None = None) -> None:
    """Raise for the first bad row and count the others; ``{}`` in `what` is replaced by the value found."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    row = int(rows[0])
    if found is not None:
        what = what.format(repr(float(found[row])))
    more = f" (and {len(rows) - 1:,} more such rows)" if len(rows) > 1 else ""
    raise candle_error(source, f"row {row} ({name_time(times[row])}) {what}{more}")
