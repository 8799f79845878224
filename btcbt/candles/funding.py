"""Settled funding rates of a perpetual future, from a Parquet file.

A file has ``time`` (timestamp with a time zone, whole hours, increasing) and ``rate`` (float): the fraction of the
value held that longs pay to shorts at that time, as exchanges publish it. Other columns are ignored.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from btcbt.config import time_text
from btcbt.errors import ConfigError
from btcbt.files import read_file
from btcbt.records import HOUR_MS, FloatArray, FundingRates, IntArray

TIME, RATE = "time", "rate"
MAX_STEP_MS = 8 * HOUR_MS
"""The longest time between two settlements that counts as covered; exchanges settle every 1 to 8 hours."""
MAX_BYTES = 1 << 26
"""Of a file; a century of hourly rates has less."""
MAX_RATE = 0.1
"""Exchanges cap a settlement at some 3 %; larger numbers are percent or basis points."""


def read_funding(path: str | Path) -> FundingRates:
    """Read and validate a funding series.

    Parameters
    ----------
    path : str or Path
        A Parquet file.

    Returns
    -------
    FundingRates
        Read-only; `sha256` is the digest of the file's bytes.

    Raises
    ------
    ConfigError
        If the file is missing or not Parquet, a column is missing or of another type, or a row has no number, an
        implausible rate, or a time that is off the hour or not after the one before.
    """
    place = Path(path)
    source = place.name or str(place)
    try:
        content = read_file(place, MAX_BYTES)
    except OSError as error:
        raise _error(source, f"{place} cannot be read ({error.strerror}); give a Parquet file") from None
    table = _read_table(content, source)
    times, rates = _times(table.column(TIME), source), _rates(table.column(RATE), source)
    for array in (times, rates):
        array.setflags(write=False)
    return FundingRates(times, rates, source, hashlib.sha256(content).hexdigest())


def require_cover(funding: FundingRates, start: int, end: int) -> None:
    """Require a rate at least every 8 hours in (start, end], ms UTC.

    Raises
    ------
    ConfigError
        If it has none for longer; the message names the first hole.
    """
    inside = funding.time[(funding.time > start) & (funding.time <= end)]
    # One that is due at the end itself belongs to the period.
    edges = np.concatenate([[start], inside, [end + 1]])
    holes = np.flatnonzero(np.diff(edges) > MAX_STEP_MS)
    if len(holes):
        first, last = (time_text(min(int(edges[k]), end)) for k in (holes[0], holes[0] + 1))
        raise _error(
            funding.source,
            f"no rate between {first} and {last}, expected one at least every 8 hours from {time_text(start)} to "
            f"{time_text(end)}; extend the series, or add rates of 0 where none was due",
        )


def _read_table(content: bytes, source: str) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        found = list(file.schema_arrow.names)
        for name in (TIME, RATE):
            if found.count(name) != 1:
                has = ", ".join(found[:8])[:100] or "none"
                raise _error(
                    source, f"column '{name}' is missing or repeated, got {has}; name the columns time and rate"
                )
        return file.read(columns=[TIME, RATE])
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = " ".join(str(error).split())[:120]
        raise _error(source, f"not a readable Parquet file ({problem}); write it again") from None


def _times(column: pa.ChunkedArray, source: str) -> IntArray:
    """Settlement times (R,), ms UTC."""
    kind = column.type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise _error(
            source, f"column '{TIME}' is {str(kind)[:40]}, expected a timestamp with a time zone; localize it to UTC"
        )
    _require(~np.asarray(column.is_null()), source, "has no time; drop the row")
    if not len(column):
        raise _error(source, "no rows; give at least one rate")
    unit = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[kind.unit]
    hours, rest = np.divmod(np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64), 3600 * unit)
    _require(rest == 0, source, "is off the hour; round its time to the hour at which it was settled")
    _require(np.abs(hours) < 2**40, source, "is out of range; write times such as 2024-07-01T08:00Z")
    _require(np.diff(hours, prepend=hours[0] - 1) > 0, source, "is not after the row before; sort, drop duplicates")
    return np.asarray(hours * HOUR_MS)


def _rates(column: pa.ChunkedArray, source: str) -> FloatArray:
    """Rates (R,), fractions."""
    if not pa.types.is_floating(column.type):
        raise _error(source, f"column '{RATE}' is {str(column.type)[:40]}, expected float64; cast it")
    rates = np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    _require(np.isfinite(rates), source, "has no finite rate; drop it, or write 0 where none was due")
    _require(np.abs(rates) < MAX_RATE, source, f"has a rate of {MAX_RATE:g} or more; write fractions (0.0001 is 1 bps)")
    return rates


def _require(holds: np.ndarray[tuple[int], np.dtype[np.bool_]], source: str, problem: str) -> None:
    if not holds.all():
        raise _error(source, f"row {int(np.argmin(holds))} {problem}")


def _error(source: str, problem: str) -> ConfigError:
    return ConfigError(f"portfolio.funding {source}: {problem}")
