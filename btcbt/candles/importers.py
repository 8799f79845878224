"""Import history from foreign files into the project's Parquet: read, inspect, repair on request, append, write.

A stored history is always valid: problems are reported, and nothing is written unless a repair is requested.
Appending the same source again changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from btcbt.candles.archive import MAX_ZIP_BYTES, unzip_table
from btcbt.candles.bundled import PREFIX, bundled_path
from btcbt.candles.check import Inspection, inspect_rows, repair_rows
from btcbt.candles.parquet import check_rows_note, read_bytes, read_candles, read_notes, write_rows
from btcbt.candles.rows import US, Rows, join_rows, same_rows
from btcbt.candles.schema import candle_error
from btcbt.candles.tables import TIME, Renamed, parse_csv, parse_feather, parse_json, parse_parquet
from btcbt.config import Interval, interval_ms
from btcbt.errors import ConfigError
from btcbt.messages import did_you_mean, short
from btcbt.records import CHANNELS, VOLUME, Candles

log = logging.getLogger(__name__)
FORMATS = (".csv", ".feather", ".json", ".jsonl", ".parquet", ".zip")
"""Importable files, by extension; a zip contains one CSV."""


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """A history before and after a check.

    Attributes
    ----------
    before, after : Inspection
        Equal, unless it was repaired.
    dropped : mapping of str to int
        Rows that the repair dropped, by reason.
    written : Path or None
        File of the repaired history; None if nothing was written.
    """

    before: Inspection
    after: Inspection
    dropped: Mapping[str, int] = field(default_factory=dict)
    written: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Result of an import.

    Attributes
    ----------
    inspection : Inspection
        Of the source's rows, as read.
    written : bool
        Whether the file now contains the source; False if problems prevent it.
    added, equal, differing : int
        Candles that were new, already stored, and already stored with other values.
    dropped : mapping of str to int
        Rows that a repair dropped, by reason.
    sha256 : str
        Digest of the file's bytes; empty if nothing was written.
    """

    inspection: Inspection
    written: bool
    added: int = 0
    equal: int = 0
    differing: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""


def read_rows(path: str | Path, renamed: Renamed | None = None) -> Rows:
    """Rows of a CSV, JSON, JSON Lines, Parquet, Feather or zipped CSV file, unchanged.

    Parameters
    ----------
    path : str or Path
        A file of one of `FORMATS`, or ``bundled:NAME``.
    renamed : mapping, optional
        Titles of columns by our names, where they are unusual: ``{"open": "o"}``.

    Raises
    ------
    CandleError
        If it cannot be read as a table of candles. Implausible rows are read.
    """
    if isinstance(path, str) and path.startswith(PREFIX):
        return parse_parquet(read_bytes(bundled_path(path), path, "a sample"), path)
    path = Path(path)
    extension = path.suffix.lower()
    source = path.name or str(path)
    if extension not in FORMATS:
        raise candle_error(
            source, f"unknown extension {extension[:20]!r}, expected one of {', '.join(FORMATS)}; rename it"
        )
    content = read_bytes(path, source, "a file of candles")
    if extension == ".parquet":
        return parse_parquet(content, source, renamed)
    if extension == ".feather":
        return parse_feather(content, source, renamed)
    if extension in (".json", ".jsonl"):
        return parse_json(content, source, lines=extension == ".jsonl", renamed=renamed)
    if extension == ".zip":
        if len(content) > MAX_ZIP_BYTES:
            raise candle_error(source, f"{len(content):,} bytes, expected at most {MAX_ZIP_BYTES:,}; unpack it")
        content = unzip_table(content, source)
    return parse_csv(content, source, renamed=renamed)


def infer_interval(rows: Rows) -> str:
    """The interval of candles: the most frequent difference of their open times.

    Raises
    ------
    CandleError
        If that is no supported interval, or there are fewer than two times.
    """
    steps, counts = np.unique(np.diff(np.unique(rows.open_us)), return_counts=True)
    if not len(steps):
        raise candle_error(rows.source, "one candle does not tell the interval; name it with --interval")
    step = int(steps[counts.argmax()])
    known: dict[int, str] = {interval_ms(name) * US: name for name in get_args(Interval)}
    if step not in known:
        raise candle_error(
            rows.source,
            f"the most frequent distance of open times is {step / US / 60_000:,.3f} minutes, expected one of "
            f"{', '.join(known.values())}; name the interval with --interval",
        )
    return known[step]


def files_of(source: str | Path) -> list[Path]:
    """A file, or the files of `FORMATS` in a folder, by name.

    Raises
    ------
    CandleError
        If the folder has none.
    """
    source = Path(source)
    if not source.is_dir():
        return [source]
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in FORMATS and file.is_file())
    if not files:
        raise candle_error(str(source), f"no file of {', '.join(FORMATS)} in this folder; name another")
    return files


def parse_renamed(text: str) -> dict[str, str]:
    """Titles by our names of ``open=o,high=h``.

    Raises
    ------
    ConfigError
        If it is not of that form, or names no column of candles.
    """
    renamed = {}
    for pair in text.split(","):
        name, found, title = (part.strip() for part in pair.partition("="))
        if not found or not title:
            raise ConfigError(f"--columns {short(pair)}: expected NAME=TITLE, such as open=o,close=c")
        if name not in (TIME, *CHANNELS):
            near = did_you_mean(name, (TIME, *CHANNELS))
            raise ConfigError(
                f"--columns {short(pair)}: no column '{name}'{near}; they are {TIME}, {', '.join(CHANNELS)}"
            )
        renamed[name] = title
    return renamed


def import_candles(path: str | Path, interval: str = "1h") -> Candles:
    """Read and validate a foreign file without storing it.

    Parameters
    ----------
    path : str or Path
        A file of one of `FORMATS`.
    interval : str
        The interval of its candles.

    Raises
    ------
    CandleError
        If it cannot be read or breaks the contract; nothing is repaired.
    """
    rows = read_rows(path)
    candles = rows.to_candles(interval)
    _warn_without_volume(rows)
    return candles


def import_history(
    sources: Sequence[str | Path],
    output: str | Path,
    interval: str | None = None,
    *,
    repair: bool = False,
    drop_placeholders: bool = False,
    prefer_new: bool = False,
    renamed: Renamed | None = None,
) -> Stored:
    """Import files into one Parquet history, appending to it if it exists.

    Parameters
    ----------
    sources : sequence of str or Path
        Files of `FORMATS`, or folders of them, in order.
    output : str or Path
        The Parquet file to create or append to; its folder is created.
    interval : str, optional
        The interval of all of them; inferred if left out.
    repair, drop_placeholders : bool
        As `repair_rows`; without them, nothing is written if there are problems.
    prefer_new : bool
        Whether stored candles with other values are replaced; they are kept and counted otherwise.
    renamed : mapping, optional
        As `read_rows`.

    Returns
    -------
    Stored
        `written` is False if there are problems and no repair was requested.

    Raises
    ------
    CandleError
        If a source cannot be read, or the output exists and is not a valid history.
    """
    parts = [read_rows(file, renamed) for source in sources for file in files_of(source)]
    rows = join_rows(parts, parts[0].source if len(parts) == 1 else f"{len(parts)} files")
    stored = store_rows(
        rows,
        output,
        interval or infer_interval(rows),
        repair=repair,
        drop_placeholders=drop_placeholders,
        prefer_new=prefer_new,
    )
    if stored.written:
        _warn_without_volume(rows)
    return stored


def _warn_without_volume(rows: Rows) -> None:
    if len(rows) and not rows.values[:, VOLUME].any():
        log.warning("candles %s: no volume; it is taken to be 0", rows.source)


def check_history(
    path: str | Path,
    interval: str | None = None,
    *,
    repair: bool = False,
    drop_placeholders: bool = False,
    output: str | Path | None = None,
) -> Checked:
    """Inspect a file, and on request write a repaired history.

    Parameters
    ----------
    path : str or Path
        A file of `FORMATS`, or ``bundled:NAME``.
    interval : str, optional
        The interval of its candles; inferred if left out.
    repair, drop_placeholders : bool
        As `repair_rows`.
    output : str or Path, optional
        File for the repaired history. By default it replaces a Parquet file, and only if something had to be
        fixed; columns outside the contract are dropped.

    Raises
    ------
    CandleError
        If the file cannot be read, is of a longer interval, cannot be repaired, or may not be replaced.
    """
    rows = read_rows(path)
    interval = interval or infer_interval(rows)
    notes = read_notes(path) if Path(path).suffix.lower() == ".parquet" else {}
    check_rows_note(notes, rows.open_ms, rows.values, rows.source)
    before = inspect_rows(rows, interval)
    if not (repair or drop_placeholders):
        if not before.problems:
            rows.to_candles(interval)
        return Checked(before, before)
    if output is None and Path(path).suffix.lower() != ".parquet":
        raise candle_error(rows.source, "can only be repaired into a Parquet file; name one with --output")
    kept, dropped = repair_rows(rows, interval, drop_placeholders=drop_placeholders)
    kept.to_candles(interval)
    after = inspect_rows(kept, interval)
    if output is None and not dropped and not before.problems:
        return Checked(before, after)
    target = check_output(Path(path) if output is None else output)
    if target.exists() and output is not None and target.resolve() != Path(path).resolve():
        raise candle_error(target.name, "exists already; name a new file, or append with 'btcbt data import'")
    write_rows(kept, target, interval, notes=notes)
    return Checked(before, after, dropped, target)


def store_rows(
    rows: Rows,
    output: str | Path,
    interval: str,
    *,
    repair: bool = False,
    drop_placeholders: bool = False,
    prefer_new: bool = False,
    notes: Mapping[str, str] | None = None,
) -> Stored:
    """As `import_history`, for rows already read; `notes` go into the file's metadata."""
    output = check_output(output)
    inspection = inspect_rows(rows, interval)
    dropped: Mapping[str, int] = {}
    if repair or drop_placeholders:
        rows, dropped = repair_rows(rows, interval, drop_placeholders=drop_placeholders)
    elif inspection.problems:
        return Stored(inspection, written=False)
    rows.to_candles(interval)  # refuses a history of a longer interval, none of whose rows has a problem
    kept_notes = {**(read_notes(output) if output.exists() else {}), **(notes or {})}
    merged, added, equal, differing = merge_rows(stored_rows(output, interval), rows, prefer_new=prefer_new)
    digest = write_rows(merged, output, interval, notes=kept_notes)
    return Stored(inspection, True, added, equal, differing, dropped, digest)


def stored_rows(output: Path, interval: str) -> Rows:
    """Rows of the history to append to; empty if there is no file yet.

    Raises
    ------
    CandleError
        If it is not a valid history of that interval.
    """
    if not output.exists():
        return join_rows([], output.name)
    read_candles(output, interval)
    # Read again as stored: Candles have missing amounts filled in, and estimates must not be stored.
    return parse_parquet(read_bytes(output, output.name, "a Parquet file"), output.name)


def check_output(output: str | Path) -> Path:
    """Return `output` as a path if a history can be written there, and create its folder.

    Raises
    ------
    CandleError
        If its extension is not ``.parquet``, it is a folder, or its folder cannot be created.
    """
    output = Path(output)
    if output.suffix.lower() != ".parquet":
        raise candle_error(output.name, "invalid output, expected a name that ends in .parquet; rename it")
    try:
        if output.is_dir():
            raise candle_error(output.name, f"{output} is a folder; name a file")
        output.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise candle_error(
            output.name, f"{output.parent} cannot be created ({reason}); choose another folder"
        ) from None
    return output


def merge_rows(old: Rows, new: Rows, *, prefer_new: bool = False) -> tuple[Rows, int, int, int]:
    """Merge two histories by open time; each is sorted and without repeats.

    Returns
    -------
    merged : Rows
        Sorted, without repeats.
    added, equal, differing : int
        Candles of `new` that `old` lacks, has, and has with other values. The last keep `old`'s values unless
        `prefer_new`.
    """
    _, at_old, at_new = np.intersect1d(old.open_us, new.open_us, assume_unique=True, return_indices=True)
    same = same_rows(old, at_old, new, at_new)
    differing = int((~same).sum())
    keep_old, keep_new = np.ones(len(old), dtype=bool), np.ones(len(new), dtype=bool)
    keep_new[at_new[same]] = False
    if prefer_new:
        keep_old[at_old[~same]] = False
    else:
        keep_new[at_new[~same]] = False
    joined = join_rows([old.take(keep_old), new.take(keep_new)], old.source)
    merged = joined.take(np.argsort(joined.open_us, kind="stable"))
    return merged, len(new) - len(at_new), int(same.sum()), differing
