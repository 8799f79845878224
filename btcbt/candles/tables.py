"""Parse candle tables in CSV, JSON and Parquet into `Rows`: columns found by name, sizes bounded.

Supported layouts:

* the archive's 12 columns (open_time, open, high, low, close, volume, close_time, quote volume, trades, taker buy
  base, taker buy quote, ignore), with or without a header;
* 7 columns without a header: timestamp, open, high, low, close, volume, amount (or 6, without the amount);
* any columns with a header, by name in any order: see `COLUMN_NAMES`.

An index of pandas without a name holds the times if no column does. Without a volume, it is 0.

Times are counts since 1970 (seconds to nanoseconds, recognised by their size), ISO 8601, or the same with slashes
(``2025/01/01 00:00``); without an offset, UTC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from btcbt.candles.rows import UNKNOWN, US, Rows, epoch_us
from btcbt.candles.schema import candle_error
from btcbt.messages import did_you_mean
from btcbt.records import CHANNELS, VOLUME, IntArray

MAX_JSON_BYTES = 128 << 20
"""Parsed JSON takes about twenty times its size in memory, so longer histories need CSV or Parquet."""
MAX_ROWS = 10_000_000
"""Longer tables are refused; 19 years of 1m candles have fewer rows."""

TIME, CLOSE_TIME, AMOUNT_NAME = "open_time", "close_time", CHANNELS[-1]
KLINE_COLUMNS = (
    *(TIME, "open", "high", "low", "close", "volume", CLOSE_TIME, AMOUNT_NAME),
    *("trades", "taker_buy_volume", "taker_buy_amount", "ignore"),
)
"""The 12 columns of the Binance archive and of its REST answers."""
PLAIN_COLUMNS = (TIME, *CHANNELS)
"""The 7 columns of upstream Kronos's files; the last is optional."""
COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    TIME: (TIME, "opentime", "timestamp", "timestamps", "time", "date", "datetime", "open_timestamp"),
    CLOSE_TIME: (CLOSE_TIME, "closetime", "close_timestamp"),
    "volume": ("volume", "vol", "base_volume"),
    AMOUNT_NAME: (
        *(AMOUNT_NAME, "quote_volume", "quotevolume", "quote_asset_volume", "quoteassetvolume"),
        *("quote_vol", "quoteassetvol", "turnover"),
    ),
}
"""Accepted header names of each column, in lower case with underscores; prices have one name each."""

INDEX_NAMES = ("", "index", "unnamed:_0", "__index_level_0__")
"""Names of an index of pandas that has none, in lower case with underscores."""
Renamed = Mapping[str, str]
"""Titles by our names, for tables whose titles are unusual: ``{"open": "o"}``."""

_SLASHES = r"^(\d{4})/(\d{2})/(\d{2})"
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?( ?(Z|UTC|[+-]\d{2}:?\d{2}))?$"
_MISSING = ["", "NaN", "nan", "null", "NULL", "None", "NA"]


def parse_csv(content: bytes, source: str, *, columns: int | None = None, renamed: Renamed | None = None) -> Rows:
    """Rows of a comma-separated table.

    Parameters
    ----------
    content : bytes
        The file, UTF-8.
    source : str
        Its name in messages.
    columns : int or None
        Required number of columns; None accepts any table with a header, and 6, 7 or 12 columns without.
    renamed : mapping, optional
        See `Renamed`.

    Raises
    ------
    CandleError
        If it is not such a table; implausible rows are kept for `inspect_rows` to report.
    """
    content = content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if not content:
        raise candle_error(source, "is empty, expected a table of candles; export or download it again")
    first = content[:4096].splitlines()[0].decode("utf-8", "replace")
    fields = [field.strip().strip('"') for field in first.split(",")]
    if columns is not None and len(fields) != columns:
        raise candle_error(source, f"has {len(fields)} columns, expected {columns}; download it again")
    has_header = not _is_time(fields[0])
    names = _named(fields, source, renamed) if has_header else _positional(len(fields), source)
    wanted = {name: pa.string() if name in (TIME, CLOSE_TIME) else pa.float64() for name in names if name}
    labels = [name or f"unused {i}" for i, name in enumerate(names)]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            read_options=pyarrow.csv.ReadOptions(column_names=labels, skip_rows=int(has_header), use_threads=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=wanted, include_columns=list(wanted), null_values=_MISSING, strings_can_be_null=True
            ),
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise candle_error(source, f"not a readable table ({_brief(error)}); fix or export it again") from None
    return _rows({name: table.column(name) for name in wanted}, source)


def parse_json(content: bytes, source: str, *, lines: bool = False, renamed: Renamed | None = None) -> Rows:
    """Rows of a JSON list of objects, a list of lists, or an object of columns; JSON Lines with `lines`.

    Raises
    ------
    CandleError
        As `parse_csv`.
    """
    if len(content) > MAX_JSON_BYTES:
        raise candle_error(
            source, f"{len(content):,} bytes of JSON, expected at most {MAX_JSON_BYTES:,}; use CSV or Parquet"
        )
    try:
        text = content.decode("utf-8-sig")
        tree = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    # Deep nesting exhausts the parser's stack; a number with thousands of digits is a ValueError.
    except (ValueError, RecursionError) as error:
        raise candle_error(source, f"not readable JSON ({_brief(error)}); export it again") from None
    columns = _json_columns(tree, source, renamed)
    cells: dict[str, pa.ChunkedArray] = {}
    for name, column in columns.items():
        is_time = name in (TIME, CLOSE_TIME)
        read = [(_text if is_time else _number)(cell, name, row, source) for row, cell in enumerate(column)]
        cells[name] = pa.chunked_array([pa.array(read, pa.string() if is_time else pa.float64())])
    return _rows(cells, source)


def parse_parquet(content: bytes, source: str, renamed: Renamed | None = None) -> Rows:
    """Rows of a Parquet file; only the columns of candles are read, and only after a check of the number of rows.

    Raises
    ------
    CandleError
        As `parse_csv`.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        labels = _arrow_labels(file.schema_arrow, source, renamed)
        _check_count(file.metadata.num_rows, source)
        table = file.read(columns=list(labels.values()), use_threads=False)
        return _rows({name: table.column(label) for name, label in labels.items()}, source)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise candle_error(source, f"not readable Parquet ({_brief(error)}); export it again") from None


def parse_feather(content: bytes, source: str, renamed: Renamed | None = None) -> Rows:
    """Rows of a Feather file (version 2, which is Arrow's format for files); only the columns of candles are read.

    Raises
    ------
    CandleError
        As `parse_csv`.
    """
    try:
        schema = pa.ipc.open_file(pa.BufferReader(content)).schema
        labels = _arrow_labels(schema, source, renamed)
        wanted = sorted(schema.get_field_index(label) for label in labels.values())
        options = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
        file = pa.ipc.open_file(pa.BufferReader(content), options=options)
        batches, count = [], 0
        for number in range(file.num_record_batches):
            batches.append(file.get_batch(number))
            count += batches[-1].num_rows
            if count > MAX_ROWS:
                break
        _check_count(count, source)
        table = pa.Table.from_batches(batches)
        return _rows({name: table.column(label) for name, label in labels.items()}, source)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise candle_error(source, f"not readable Feather ({_brief(error)}); export it again") from None


def _arrow_labels(schema: pa.Schema, source: str, renamed: Renamed | None) -> dict[str, str]:
    """Titles of the columns of candles by our names, of columns that can be read."""
    names = _named(list(schema.names), source, renamed)
    for i, (label, name) in enumerate(zip(schema.names, names, strict=True)):
        kind = schema.field(i).type
        if name and not _readable(kind, is_time=name in (TIME, CLOSE_TIME)):
            expected = "a timestamp or a whole number" if name in (TIME, CLOSE_TIME) else "a number"
            raise candle_error(source, f"column {label!r} is {_brief(kind)}, expected {expected}; cast it")
    return {name: label for label, name in zip(schema.names, names, strict=True) if name}


def _named(fields: Sequence[str], source: str, renamed: Renamed | None = None) -> list[str]:
    """The column that each title names, '' for unused ones."""
    known = {alias: name for name, aliases in COLUMN_NAMES.items() for alias in aliases}
    known |= {name: name for name in CHANNELS[:4]}
    plain = [re.sub(r"[\s\-.]+", "_", field.strip().lower()) for field in fields]
    names = [known.get(title, "") for title in plain]
    for name, title in (renamed or {}).items():
        if title not in fields:
            near = did_you_mean(title, fields)
            raise candle_error(source, f"no column '{_brief(title)}' for {name}{near}, got {_list(fields)}; correct it")
        names = ["" if found == name else found for found in names]
        names[list(fields).index(title)] = name
    if TIME not in names:
        index = next((i for i, title in enumerate(plain) if title in INDEX_NAMES and not names[i]), None)
        if index is not None:
            names[index] = TIME
    for name in PLAIN_COLUMNS:
        titles = [field for field, found in zip(fields, names, strict=True) if found == name]
        if len(titles) > 1:
            raise candle_error(source, f"columns {_list(titles)} are all '{name}'; keep one")
        if not titles and name not in (AMOUNT_NAME, "volume"):
            raise candle_error(
                source, f"no column '{name}', got {_list(fields)}; add it, or say which it is: --columns {name}=TITLE"
            )
    if names.count(CLOSE_TIME) > 1:
        raise candle_error(source, f"{names.count(CLOSE_TIME)} columns are '{CLOSE_TIME}'; keep one")
    return names


def _positional(count: int, source: str) -> list[str]:
    if count == len(KLINE_COLUMNS):
        return [name if name in (*PLAIN_COLUMNS, CLOSE_TIME) else "" for name in KLINE_COLUMNS]
    if count in (len(PLAIN_COLUMNS), len(PLAIN_COLUMNS) - 1):
        return list(PLAIN_COLUMNS[:count])
    raise candle_error(
        source,
        f"{count} columns and no header, expected {len(KLINE_COLUMNS)} (the Binance archive's) or "
        f"{len(PLAIN_COLUMNS)} ({','.join(PLAIN_COLUMNS)}); add a header row",
    )


def _rows(columns: Mapping[str, pa.ChunkedArray], source: str) -> Rows:
    """Convert columns, by our names, to `Rows`."""
    count = len(columns[TIME])
    _check_count(count, source)
    values = np.full((count, len(CHANNELS)), np.nan)
    if "volume" not in columns:
        values[:, VOLUME] = 0.0
    try:
        for channel, name in enumerate(CHANNELS):
            if name in columns and not pa.types.is_null(columns[name].type):
                # A missing value becomes NaN; an integer too large for a float is rounded.
                column = pc.cast(columns[name], pa.float64(), safe=False)
                values[:, channel] = column.to_numpy(zero_copy_only=False)
        opened = _times(columns[TIME], TIME, source)
        closed = np.full(count, UNKNOWN, dtype=np.int64)
        if CLOSE_TIME in columns:
            closed = _times(columns[CLOSE_TIME], CLOSE_TIME, source)
    except (pa.ArrowException, ValueError) as error:
        raise candle_error(source, f"a column cannot be read ({_brief(error)}); fix the table") from None
    return Rows(opened, closed, values, source)


def _times(column: pa.ChunkedArray, name: str, source: str) -> IntArray:
    """Convert a column of timestamps, counts or text to microseconds."""
    if column.null_count and name == TIME:
        raise candle_error(source, f"row {_first(pc.is_null(column))} has no {name}; drop the row")
    if column.null_count:
        # The archive always has close times; a table that lacks some has none to check.
        return np.full(len(column), UNKNOWN, dtype=np.int64)
    if pa.types.is_timestamp(column.type):
        ticks = np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
        scale = {"s": US * US, "ms": US, "us": 1, "ns": 0}[column.type.unit]
        if not scale:
            rest = ticks % US != 0
            if rest.any() and name == TIME:
                raise candle_error(
                    source, f"row {int(np.argmax(rest))}: {name} is not a whole microsecond; drop the row"
                )
            return ticks // US
        bound = UNKNOWN // -scale - 1
        return np.clip(ticks, -bound, bound) * scale  # no time beyond the clip is plausible
    if pa.types.is_integer(column.type):
        return epoch_us(np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64), source)
    if len(column) and pc.all(pc.match_substring_regex(column, r"^-?\d{1,19}$")).as_py():
        return epoch_us(np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64), source)
    return _iso_times(column, name, source)


def _iso_times(column: pa.ChunkedArray, name: str, source: str) -> IntArray:
    import pandas as pd

    column = pc.replace_substring_regex(column, _SLASHES, r"\1-\2-\3")
    odd = pc.invert(pc.match_substring_regex(column, _ISO))
    if pc.any(odd).as_py():
        row = _first(odd)
        raise candle_error(
            source,
            f"row {row} has {name} {_brief(column[row].as_py())!r}, expected a count since 1970 or ISO 8601 "
            "(2024-12-31T23:00:00Z); fix the row",
        )
    text = pc.replace_substring_regex(column, r" ?(UTC)$", "Z")
    try:
        stamps = pd.to_datetime(pd.Series(text.to_pylist(), dtype=object), utc=True, format="ISO8601")
        return np.asarray(stamps.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64))
    except (ValueError, OverflowError) as error:
        raise candle_error(source, f"{name} cannot be read ({_brief(error)}); fix the row") from None


def _json_columns(tree: Any, source: str, renamed: Renamed | None) -> dict[str, list[Any]]:
    """The columns of a parsed JSON document, by our names."""
    if isinstance(tree, dict):
        names = _named(list(tree), source, renamed)
        columns = {name: cells for name, cells in zip(names, tree.values(), strict=True) if name}
        if not all(isinstance(cells, list) for cells in columns.values()):
            raise candle_error(source, "columns are not lists; give a list of candles")
        if len({len(cells) for cells in columns.values()}) > 1:
            raise candle_error(source, "columns differ in length; give every candle every column")
        return columns
    if not isinstance(tree, list) or not tree:
        raise candle_error(source, "expected a list of candles; give a list of objects or of lists")
    if isinstance(tree[0], dict):
        labels = list(tree[0])
        names = _named(labels, source, renamed)
        _check_rows(tree, dict, set(labels), source)
        return {name: [row[label] for row in tree] for label, name in zip(labels, names, strict=True) if name}
    if not isinstance(tree[0], list):
        raise candle_error(source, f"row 0 is {_brief(tree[0])!r}, expected an object or a list")
    names = _positional(len(tree[0]), source)
    _check_rows(tree, list, len(tree[0]), source)
    return {name: [row[i] for row in tree] for i, name in enumerate(names) if name}


def _check_rows(tree: list[Any], kind: type, shape: Any, source: str) -> None:
    """Check that every row is of `kind`, with the keys or the length of the first."""
    for i, row in enumerate(tree):
        found = set(row) if isinstance(row, dict) else len(row) if isinstance(row, list) else None
        if not isinstance(row, kind) or found != shape:
            raise candle_error(source, f"row {i} has other columns than row 0; give every candle every column")


def _number(cell: Any, name: str, row: int, source: str) -> float | None:
    if cell is None:
        return None
    try:
        if isinstance(cell, (int, float, str)) and not isinstance(cell, bool):
            return float(cell)
    except (ValueError, OverflowError):
        pass
    raise candle_error(source, f"row {row} has {name} {_brief(cell)!r}, expected a number; fix the row")


def _text(cell: Any, name: str, row: int, source: str) -> str:
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2.0**53:
        cell = int(cell)
    if isinstance(cell, (int, str)) and not isinstance(cell, bool):
        try:
            text = str(cell)
            text.encode()
            return text
        except ValueError:  # thousands of digits, or half of a surrogate pair
            pass
    raise candle_error(source, f"row {row} has {name} {_brief(cell)!r}, expected a time; fix the row")


def _is_time(field: str) -> bool:
    return bool(re.match(r"^-?\d", field))


def _readable(kind: pa.DataType, *, is_time: bool) -> bool:
    if is_time:
        return bool(pa.types.is_timestamp(kind) or pa.types.is_integer(kind))
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(number or pa.types.is_null(kind))


def _check_count(rows: int, source: str) -> None:
    if not 0 < rows <= MAX_ROWS:
        raise candle_error(source, f"{rows:,} rows, expected 1 to {MAX_ROWS:,}; split the history into years")


def _first(mask: pa.ChunkedArray) -> int:
    return int(np.argmax(np.asarray(mask.to_numpy())))


def _list(names: Sequence[str]) -> str:
    text = ", ".join(repr(_brief(name)) for name in names[:8])
    return text + (", ..." if len(names) > 8 else "")


def _brief(value: object) -> str:
    """A short printable form of an untrusted value, on one line."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number with too many digits"
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    text = " ".join("".join(c if c.isprintable() else "?" for c in str(value)[:400]).split())
    return text if len(text) <= 120 else text[:117] + "..."
