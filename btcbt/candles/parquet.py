"""Read and write candle history in Parquet.

A file has ``open_time`` (timestamp[ms, UTC]), ``open``, ``high``, ``low``, ``close``, ``volume`` (float64)
and, where the source has it, ``amount`` (float64). Other columns are ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from btcbt.candles.bundled import PREFIX, bundled_path
from btcbt.candles.rows import Rows
from btcbt.candles.schema import candle_error, check_interval, digest_arrays, make_candles, name_interval
from btcbt.candles.tables import MAX_ROWS, TIME
from btcbt.errors import CandleError
from btcbt.files import read_file, write_whole
from btcbt.records import AMOUNT, CHANNELS, VOLUME, Candles, FloatArray, IntArray

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused before reading; 19 years of 1m candles are smaller."""

NOTE_PREFIX = "btcbt."
"""Prefix of our notes in the key-value metadata of a file."""
ROWS_NOTE = f"{NOTE_PREFIX}rows"
"""The note with the SHA-256 of a file's rows. Parquet has checksums for its pages but not for its footer: without it, a
flipped bit in a column's name would go unnoticed."""
# Longer tables are compressed less: 2 % smaller files are not worth 60 times the time.
_SMALL_ROWS = 200_000
_UTC_NAMES = frozenset({"UTC", "Etc/UTC", "Z", "+00:00"})
_TIME_TYPE = pa.timestamp("ms", tz="UTC")
# Units per millisecond.
_FINER = {"ms": 1, "us": 1_000, "ns": 1_000_000}


def read_candles(path: str | Path, interval: str = "1h") -> Candles:
    """Read and validate a candle history.

    Parameters
    ----------
    path : str or Path
        A Parquet file, or ``bundled:NAME`` for a sample that ships with the package.
    interval : str
        The interval of the file's candles, such as ``1h``.

    Returns
    -------
    Candles
        Read-only; `sha256` is the digest of the file's bytes. Where the file has no `amount`, it is
        volume x mean(open, high, low, close).

    Raises
    ------
    CandleError
        If the file is missing, too large, not Parquet, or breaks the contract; the message names the row.
    """
    bundled = isinstance(path, str) and path.startswith(PREFIX)
    place = bundled_path(str(path)) if bundled else Path(path)
    source = str(path) if bundled else place.name or str(place)
    content = read_bytes(place, source, "a Parquet file or bundled:NAME")
    # Parsing the hashed bytes themselves: the file cannot change in between.
    times, values, notes = _read_columns(content, source)
    check_rows_note(notes, times, values, source)
    digest = hashlib.sha256(content).hexdigest()
    candles = make_candles(times, values, interval=interval, source=source, sha256=digest)
    check_interval(candles)
    return candles


def write_candles(candles: Candles, path: str | Path, *, amount: bool = True) -> str:
    """Validate a history and write it atomically.

    Parameters
    ----------
    candles : Candles
        The history.
    path : str or Path
        The file to create or replace; its folder exists.
    amount : bool
        False omits the column `amount`, for a source that lacks it.

    Returns
    -------
    str
        SHA-256 (hex) of the file's bytes, as `read_candles` will report it.

    Raises
    ------
    CandleError
        If the candles break the contract (nothing is written), or the file cannot be written.
    """
    path = Path(path)
    checked = make_candles(
        candles.open_time, candles.values, interval=name_interval(candles.interval_ms), source=candles.source
    )
    return _write(path, checked.open_time, checked.values, amount=amount, notes={})


def write_rows(rows: Rows, path: str | Path, interval: str, *, notes: Mapping[str, str] | None = None) -> str:
    """Validate rows and write them as `write_candles` does, except that missing amounts stay missing.

    Parameters
    ----------
    rows : Rows
        The rows.
    path : str or Path
        The file to create or replace; its folder exists.
    interval : str
        The interval of the rows.
    notes : mapping of str to str
        Stored in the file's key-value metadata; names start with `NOTE_PREFIX`.

    Returns
    -------
    str
        SHA-256 (hex) of the file's bytes.

    Raises
    ------
    CandleError
        As `write_candles`.
    """
    rows.to_candles(interval)
    known = not np.isnan(rows.values[:, AMOUNT]).all()
    return _write(Path(path), rows.open_ms, rows.values, amount=known, notes=notes or {})


def read_notes(path: str | Path) -> dict[str, str]:
    """The notes that `write_rows` stored in a file.

    Raises
    ------
    CandleError
        If it is not a readable Parquet file.
    """
    path = Path(path)
    content = read_bytes(path, path.name, "a Parquet file")
    try:
        return _notes(pq.read_schema(pa.BufferReader(content)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path.name, error) from None


def check_rows_note(notes: Mapping[str, str], times: IntArray, values: FloatArray, source: str) -> None:
    """Compare rows with the digest stored when they were written, if there is one.

    Parameters
    ----------
    notes : mapping of str to str
        The file's notes.
    times : int64 (N,)
        Open times, ms UTC.
    values : float64 (N, 6)
        The channels as stored, NaN where `amount` is missing.
    source : str
        Name of the file in messages.

    Raises
    ------
    CandleError
        If they differ.
    """
    if notes.get(ROWS_NOTE, _digest(times, values)) != _digest(times, values):
        raise candle_error(
            source,
            "rows changed since they were written (SHA-256 differs); restore the file, "
            "or accept it with 'btcbt data import'",
        )


def read_bytes(place: Path, source: str, wanted: str) -> bytes:
    """Read a file of bounded size; `wanted` tells the user what to give instead.

    Raises
    ------
    CandleError
        If it is missing, not a file, too large or not readable.
    """
    try:
        if not place.is_file():
            reason = "is not a file" if place.exists() else "does not exist"
            raise candle_error(source, f"{place} {reason}; give {wanted}")
        return read_file(place, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise candle_error(source, f"cannot be read ({reason}); check it, or split the history into years") from None


def _write(path: Path, times: IntArray, values: FloatArray, *, amount: bool, notes: Mapping[str, str]) -> str:
    names = CHANNELS if amount else CHANNELS[:AMOUNT]
    columns = {TIME: pa.array(times, type=pa.int64()).cast(_TIME_TYPE)}
    columns |= {name: pa.array(values[:, channel]) for channel, name in enumerate(names)}
    stored = values if amount else np.where(np.arange(len(CHANNELS)) == AMOUNT, np.nan, values)
    content = _encode(pa.table(columns, metadata={**notes, ROWS_NOTE: _digest(times, stored)}))
    try:
        write_whole(path, content)
    except OSError as error:
        raise candle_error(
            path.name, f"cannot be written to {path.parent} ({error.strerror}); give a writable folder"
        ) from None
    return hashlib.sha256(content).hexdigest()


def _digest(times: IntArray, values: FloatArray) -> str:
    # One bit pattern for NaN, whatever the writer used.
    return digest_arrays(times, np.where(np.isnan(values), np.nan, values), 0)


def _notes(schema: pa.Schema) -> dict[str, str]:
    pairs = (schema.metadata or {}).items()
    texts = {key.decode("utf-8", "replace"): text.decode("utf-8", "replace") for key, text in pairs}
    return {key: text for key, text in texts.items() if key.startswith(NOTE_PREFIX)}


def _read_columns(content: bytes, source: str) -> tuple[IntArray, FloatArray, dict[str, str]]:
    """Open times (N,) in ms, values (N, 6) with NaN where missing, and notes."""
    table = _read_table(content, source)
    values = np.full((table.num_rows, len(CHANNELS)), np.nan)
    try:
        for channel, name in enumerate(CHANNELS):
            if name in table.column_names:
                values[:, channel] = _floats(table, name, source)
        return _times(table, source), values, _notes(table.schema)
    # Some metadata, such as the name of a timezone, is decoded only on access.
    except (pa.ArrowException, ValueError) as error:
        raise _unreadable(source, error) from None


def _read_table(content: bytes, source: str) -> pa.Table:
    """Columns of the contract, after a check of their presence and number of rows."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        found = list(file.schema_arrow.names)
        for name in (TIME, *CHANNELS):
            if found.count(name) > 1:
                raise candle_error(source, f"column '{name}' appears {found.count(name)} times; keep one")
            if name not in found and name != CHANNELS[AMOUNT]:
                raise candle_error(source, f"column '{name}' is missing, got {_list(found)}; rename or add the column")
        if file.metadata.num_rows > MAX_ROWS:
            raise candle_error(
                source,
                f"{file.metadata.num_rows:,} rows, expected at most {MAX_ROWS:,}; split the history into years",
            )
        return file.read(columns=[name for name in (TIME, *CHANNELS) if name in found])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(source, error) from None


def _unreadable(source: str, error: Exception) -> CandleError:
    return candle_error(source, f"not a readable Parquet file ({str(error)[:120]}); export or download it again")


def _floats(table: pa.Table, name: str, source: str) -> FloatArray:
    """A float64 column as an array; nulls become NaN."""
    column = table.column(name)
    if name == CHANNELS[AMOUNT] and pa.types.is_null(column.type):
        return np.full(table.num_rows, np.nan)
    if not pa.types.is_float64(column.type):
        raise candle_error(
            source,
            f"column '{name}' is {_brief(column.type)}, expected float64; cast it when the file is written",
        )
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _times(table: pa.Table, source: str) -> IntArray:
    """Open times in ms UTC; other units are accepted where the conversion is exact."""
    column = table.column(TIME)
    kind = column.type
    if not pa.types.is_timestamp(kind):
        raise candle_error(
            source,
            f"column '{TIME}' is {_brief(kind)}, expected timestamp[ms, tz=UTC]; convert the open times",
        )
    if kind.tz is None:
        raise candle_error(
            source, f"column '{TIME}' has no timezone, expected timestamp[ms, tz=UTC]; localize it to UTC"
        )
    if kind.tz not in _UTC_NAMES:
        raise candle_error(
            source,
            f"column '{TIME}' is in {_brief(kind.tz)}, expected timestamp[ms, tz=UTC]; convert it to UTC",
        )
    if column.null_count:
        row = int(np.argmax(np.asarray(column.is_null())))
        raise candle_error(source, f"row {row} has no open_time; drop the row")
    ticks = np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
    if kind.unit == "s":
        return np.asarray(np.clip(ticks, -(2**52), 2**52) * 1000)  # no time beyond the clip is plausible
    times, rest = np.divmod(ticks, _FINER[kind.unit])
    if rest.any():
        row = int(np.argmax(rest != 0))
        raise candle_error(
            source,
            f"row {row} ({np.datetime64(int(ticks[row]), kind.unit)}Z) is not on a whole "
            "millisecond; drop the row or re-import",
        )
    return np.asarray(times)


def _encode(table: pa.Table) -> bytes:
    """Zstandard pages with checksums; the encodings gave the smallest files for real candles."""
    volumes = [name for name in table.column_names if name in CHANNELS[VOLUME:]]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=19 if table.num_rows <= _SMALL_ROWS else 9,
        use_dictionary=False,
        column_encoding={TIME: "DELTA_BINARY_PACKED", **dict.fromkeys(volumes, "BYTE_STREAM_SPLIT")},
        write_page_checksum=True,
    )
    return bytes(sink.getvalue())


def _list(names: list[str]) -> str:
    text = ", ".join(_brief(name) for name in names[:8]) or "no columns"
    return text + (", ..." if len(names) > 8 else "")


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
