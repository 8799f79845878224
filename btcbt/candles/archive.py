"""The layout of the Binance public archive: which files cover a range of candles, and what each contains.

The archive (https://github.com/binance/binance-public-data) keeps one zip for each month and one for each day of
every symbol and interval, with a CSV of 12 columns inside and its SHA-256 in a ``.CHECKSUM`` file beside it.
Times are in milliseconds up to 2024-12-31 and in microseconds since. A month is published in the first days of
the next, a day on the following day.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np

from btcbt.candles.rows import US, Rows
from btcbt.candles.schema import candle_error, name_time, parse_interval
from btcbt.candles.tables import KLINE_COLUMNS, parse_csv
from btcbt.errors import CandleError

BASE_URL = "https://data.binance.vision"
"""Where the archive is published."""
FIRST_DAY = date(2017, 8, 1)
"""The first month of the archive; the exchange opened in it."""
MAX_ZIP_BYTES = 64 << 20
MAX_CSV_BYTES = 256 << 20
"""Largest zip, and largest CSV once unpacked; a month of 1m candles takes 3 and 8 MiB."""

_DAY = timedelta(days=1)
_SYMBOL = re.compile(r"[A-Z0-9]{2,30}")
_CHECKSUM = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(\S+)")
_ENCRYPTED = 0x1
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Depending on the damage, zipfile passes on what zlib, struct or the file object raise.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One zip of the archive: the candles of `symbol` that open in [first, end)."""

    symbol: str
    interval: str
    first: date
    end: date

    @property
    def monthly(self) -> bool:
        """Whether it covers a month, not a day."""
        return self.end - self.first > _DAY

    @property
    def stem(self) -> str:
        """Name without ``.zip``: BTCUSDT-1h-2024-12, or BTCUSDT-1h-2024-12-31 for a day."""
        return f"{self.symbol}-{self.interval}-{self.first:%Y-%m}" + ("" if self.monthly else f"-{self.first:%d}")

    @property
    def name(self) -> str:
        """Name of the zip."""
        return f"{self.stem}.zip"

    @property
    def path(self) -> str:
        """Its path below the base URL, and below the folder of downloads."""
        span = "monthly" if self.monthly else "daily"
        return f"data/spot/{span}/klines/{self.symbol}/{self.interval}/{self.name}"

    @property
    def span_ms(self) -> tuple[int, int]:
        """Open times that it may contain, [first, end), ms UTC."""
        return _midnight_ms(self.first), _midnight_ms(self.end)


def check_symbol(symbol: str) -> str:
    """Return `symbol` if it is valid; it becomes part of URLs and file names.

    Raises
    ------
    CandleError
        If it is not 2 to 30 capital letters and digits.
    """
    if not _SYMBOL.fullmatch(symbol):
        raise CandleError(
            f"candles: invalid symbol {symbol[:40]!r}, expected capital letters and digits such as BTCUSDT"
        )
    return symbol


def parse_span(start: str, end: str | None, today: date) -> tuple[date, date]:
    """The days [first, end) given by ``--start`` and ``--end``, each a month or a day, both inclusive.

    Parameters
    ----------
    start, end : str
        ``2017-08`` or ``2017-08-17``; without an end, everything up to yesterday.
    today : date
        The first day that is not over, UTC.

    Raises
    ------
    CandleError
        If one is not a date, or the range is empty.
    """
    first, _ = _period(start)
    last = today if end is None else min(_period(end)[1], today)
    if first < FIRST_DAY:
        raise CandleError(f"candles: start {start} is before the archive begins; use {FIRST_DAY:%Y-%m} or later")
    if first >= last:
        until = f"{last - _DAY:%Y-%m-%d}"
        raise CandleError(f"candles: start {start} is after {until}, the last available day; use an earlier start")
    return first, last


def plan_files(symbol: str, interval: str, first: date, end: date, today: date) -> list[ArchiveFile]:
    """Files that together cover [first, end), in order: months where a full one has ended, else days."""
    check_symbol(symbol)
    parse_interval(interval)
    files: list[ArchiveFile] = []
    day = first
    while day < end:
        month_end = _next_month(day)
        if day.day == 1 and month_end <= min(end, today):
            files.append(ArchiveFile(symbol, interval, day, month_end))
        else:
            files += daily_files(symbol, interval, day, min(month_end, end, today))
        day = month_end
    return files


def daily_files(symbol: str, interval: str, first: date, end: date) -> list[ArchiveFile]:
    """One file for each day of [first, end)."""
    days = [first + i * _DAY for i in range((end - first).days)]
    return [ArchiveFile(symbol, interval, day, day + _DAY) for day in days]


def parse_checksum(content: bytes, name: str) -> str:
    """The SHA-256 (hex) of `name` in a ``.CHECKSUM`` file.

    Raises
    ------
    CandleError
        If it is not a single line with a digest and that name.
    """
    match = _CHECKSUM.fullmatch(content.decode("ascii", "replace").strip())
    if not match or match[2] != name:
        raise candle_error(
            f"{name}.CHECKSUM", f"expected one line with a SHA-256 and the name {name}; download it again"
        )
    return match[1].lower()


def unzip_table(content: bytes, source: str, expected: str | None = None) -> bytes:
    """The only member of a zip, unpacked in memory; nothing is ever extracted to disk.

    Parameters
    ----------
    content : bytes
        The zip.
    source : str
        Its name in messages.
    expected : str or None
        The member's name; None accepts any plain name that ends in ``.csv``.

    Raises
    ------
    CandleError
        If it is not a zip, has other members, or the member's name contains a folder, is encrypted, too large or
        damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as package:
            members = package.infolist()
            for member in members:
                _check_member(member, source)
            found = [member.filename for member in members]
            fits = len(found) == 1 and (found[0] == expected if expected else found[0].lower().endswith(".csv"))
            if not fits:
                shown = ", ".join(repr(name[:60]) for name in found[:3]) or "nothing"
                raise candle_error(source, f"holds {shown}, expected one file {expected or 'NAME.csv'}; refused")
            with package.open(members[0]) as stream:
                # The size in the header can be wrong, so at most the limit is unpacked.
                table = stream.read(MAX_CSV_BYTES + 1)
    except _ZIP_ERRORS as error:
        raise candle_error(source, f"not a readable zip ({str(error)[:120]}); download it again") from None
    if len(table) > MAX_CSV_BYTES:
        raise candle_error(source, f"unpacks to more than {MAX_CSV_BYTES:,} bytes; refused")
    return table


def read_archive_file(content: bytes, file: ArchiveFile) -> Rows:
    """The rows of a downloaded zip.

    Raises
    ------
    CandleError
        If the zip or its table is not what the archive publishes under that name.
    """
    table = unzip_table(content, file.name, f"{file.stem}.csv")
    rows = parse_csv(table, file.name, columns=len(KLINE_COLUMNS))
    first, end = file.span_ms
    outside = (rows.open_us < first * US) | (rows.open_us >= end * US)
    if outside.any():
        row = int(np.argmax(outside))
        when = name_time(int(np.clip(rows.open_us[row] // US, -(2**52), 2**52)))
        raise candle_error(file.name, f"row {row} ({when}) is outside the file's period; report it to the publisher")
    return rows


def _check_member(member: zipfile.ZipInfo, source: str) -> None:
    name = member.filename
    # A plain name cannot escape its folder: no path separator of any system, no drive, no '..'.
    if member.is_dir() or re.search(r"[/\\:\x00]", name + member.orig_filename) or name in ("", ".", ".."):
        raise candle_error(source, f"member {name[:80]!r} is not a plain file name; refused")
    if member.flag_bits & _ENCRYPTED or member.compress_type not in _PACKINGS:
        raise candle_error(source, f"member {name[:80]!r} is encrypted or uses an unsupported compression; refused")
    if member.file_size > MAX_CSV_BYTES:
        raise candle_error(
            source, f"member {name[:80]!r} declares {member.file_size:,} bytes, expected at most {MAX_CSV_BYTES:,}"
        )


def _period(text: str) -> tuple[date, date]:
    """First day, and the day after the last, of ``YYYY-MM`` or ``YYYY-MM-DD``."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}", text):
            first = date.fromisoformat(f"{text}-01")
            return first, _next_month(first)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            day = date.fromisoformat(text)
            return day, day + _DAY
    except (ValueError, OverflowError):
        pass
    raise CandleError(f"candles: invalid month or day {text[:40]!r}; use YYYY-MM or YYYY-MM-DD, such as 2017-08")


def _next_month(day: date) -> date:
    return (day.replace(day=28) + 4 * _DAY).replace(day=1)


def _midnight_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
