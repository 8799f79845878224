"""Candles of the Binance public archive into one Parquet history.

Every zip is verified against its ``.CHECKSUM`` and kept, under the archive's own path, in a folder beside the
history; a run that was stopped or failed goes on with what is missing. The history records the digests of the zips
that are in it, so that a finished part is neither fetched nor appended again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path

import numpy as np

from btcbt.candles.archive import (
    BASE_URL,
    MAX_ZIP_BYTES,
    ArchiveFile,
    check_symbol,
    daily_files,
    parse_checksum,
    parse_span,
    plan_files,
    read_archive_file,
)
from btcbt.candles.check import Inspection, inspect_rows, repair_rows
from btcbt.candles.importers import Stored, check_output, merge_rows, store_rows, stored_rows
from btcbt.candles.parquet import NOTE_PREFIX, read_notes
from btcbt.candles.rows import Rows, join_rows
from btcbt.candles.schema import candle_error, parse_interval
from btcbt.candles.transport import Client, FetchError, Patience
from btcbt.errors import CandleError
from btcbt.files import write_whole

ARCHIVES_NOTE = f"{NOTE_PREFIX}archives"
"""Name of the note that maps the zips in a history to their SHA-256."""
MAX_CHECKSUM_BYTES = 4096
PUBLISHED_AFTER = timedelta(days=62)
"""A month is looked for day by day if it ended less than this ago: its own file may not be out yet."""

Progress = Callable[[int, int, str], None]
"""Told the files done, the files to do, and the name of the last."""


class State(Enum):
    """What became of one file of the archive."""

    FETCHED = "fetched"
    KEPT = "kept"  # verified in the folder of downloads
    STORED = "stored"  # in the history already
    ABSENT = "absent"  # the archive has none
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the archive after it was asked for; `reason` says why it failed."""

    file: ArchiveFile
    state: State
    sha256: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Download:
    """What `download_candles` did.

    Attributes
    ----------
    output : Path
        The history.
    parts : tuple of Part
        Every file that was asked for, in order of time.
    inspection : Inspection or None
        Of the rows that are new to the history, as published; None if no file brought any.
    stored : Stored or None
        What was appended; None if there was nothing, or problems stand in the way and no repair was asked for.
    dropped : mapping of str to int
        Rows that a repair left out, by reason.
    filled : int
        Candles that daily files had and monthly ones lacked.
    """

    output: Path
    parts: tuple[Part, ...]
    inspection: Inspection | None = None
    stored: Stored | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    filled: int = 0

    def count(self, state: State) -> int:
        """Files in that state."""
        return sum(part.state is state for part in self.parts)

    def named(self, state: State) -> list[str]:
        """Names of the files in that state."""
        return [part.file.name for part in self.parts if part.state is state]


@dataclass(slots=True)
class _Job:
    """What the steps of one download share."""

    client: Client
    folder: Path
    jobs: int
    refresh: bool
    known: Mapping[str, str]
    progress: Progress
    done: int = 0
    todo: int = 0
    parts: dict[ArchiveFile, Part] = field(default_factory=dict)


def download_candles(
    symbol: str,
    interval: str,
    start: str,
    end: str | None = None,
    *,
    output: str | Path,
    archive: str | Path | None = None,
    base_url: str = BASE_URL,
    jobs: int = 4,
    repair: bool = False,
    drop_placeholders: bool = False,
    refresh: bool = False,
    keep_going: bool = False,
    patience: Patience | None = None,
    today: date | None = None,
    progress: Progress | None = None,
    client: Client | None = None,
) -> Download:
    """Fetch, verify and append the candles of a symbol.

    Parameters
    ----------
    symbol, interval : str
        Such as ``BTCUSDT`` and ``1h``.
    start, end : str
        Months (``2017-08``) or days (``2017-08-17``), both inclusive; no end means up to yesterday.
    output : str or Path
        The Parquet history to make or append to.
    archive : str or Path, optional
        Folder that keeps the zips; ``archive`` beside the output by default.
    base_url : str
        Where the archive is.
    jobs : int
        Requests at a time, 1 to 32.
    repair, drop_placeholders : bool
        As `repair_rows`. A repair also asks the daily files for candles that a monthly one lacks. Without them,
        rows that break the contract keep the history from being written; the zips stay.
    refresh : bool
        Compare the checksums of files that are there already, and take those that were published anew.
    keep_going : bool
        Store what could be fetched even if some files failed.
    patience : Patience, optional
        Attempts, pauses and time limits.
    today : date, optional
        The first day that is not over; of the clock, UTC, by default.
    progress : callable, optional
        Told after every file.
    client : Client, optional
        Used in place of one for `base_url` and `patience`.

    Raises
    ------
    CandleError
        If an argument is wrong, files failed, the archive has none of them, a zip is not what it should be, or the
        history cannot be read or written.
    """
    today = today or datetime.now(UTC).date()
    check_symbol(symbol)
    parse_interval(interval)
    first, last = parse_span(start, end, today)
    if not 1 <= jobs <= 32:
        raise CandleError(f"candles: {jobs} jobs, expected 1 to 32 requests at a time")
    output = check_output(output)
    stored_rows(output, interval)  # a history that cannot be appended to is refused before anything is fetched
    job = _Job(
        client or Client(base_url, patience),
        Path(archive) if archive is not None else output.parent / "archive",
        jobs,
        refresh,
        _known_archives(output),
        progress or _silent,
    )
    _fetch_all(job, plan_files(symbol, interval, first, last, today))
    _fetch_all(job, _days_of_absent_months(job, today))
    _check_failed(job, keep_going)
    _check_found(job)
    new = [part for part in _in_order(job) if part.state in (State.FETCHED, State.KEPT)]
    if not new:
        return Download(output, _in_order(job))
    rows = join_rows([_read_part(job, part) for part in new], output.name)
    inspection = inspect_rows(rows, interval)
    dropped: Mapping[str, int] = {}
    filled = 0
    if repair or drop_placeholders:
        rows, dropped = repair_rows(rows, interval, drop_placeholders=drop_placeholders)
        rows, filled, days = _fill_from_days(job, rows, new, interval, drop_placeholders)
        _check_failed(job, keep_going)
        new += days
    elif inspection.problems:
        return Download(output, _in_order(job), inspection)
    archives = {**job.known, **{part.file.name: part.sha256 for part in new}}
    note = json.dumps(dict(sorted(archives.items())), separators=(",", ":"))
    stored = store_rows(rows, output, interval, prefer_new=refresh, notes={ARCHIVES_NOTE: note})
    return Download(output, _in_order(job), inspection, stored, dropped, filled)


def _silent(_done: int, _todo: int, _name: str) -> None:
    """Tell nobody."""


def _fill_from_days(
    job: _Job, rows: Rows, new: Sequence[Part], interval: str, drop_placeholders: bool
) -> tuple[Rows, int, list[Part]]:
    """Candles that months lack and days have: the two are not always made from the same data."""
    months = [part.file for part in new if part.file.monthly]
    wanted: dict[ArchiveFile, None] = {}
    step = parse_interval(interval)
    for month in months:
        grid = np.arange(*month.span_ms, step)
        # What the exchange had before its first candle is no gap.
        absent = grid[~np.isin(grid, rows.open_ms) & (grid >= rows.open_ms[0])]
        for day in np.unique(absent.astype("datetime64[ms]").astype("datetime64[D]")).tolist():
            wanted |= dict.fromkeys(daily_files(month.symbol, interval, day, day + timedelta(days=1)))
    _fetch_all(job, [file for file in wanted if file not in job.parts])
    found = [job.parts[file] for file in wanted if job.parts[file].state in (State.FETCHED, State.KEPT)]
    if not found:
        return rows, 0, []
    days, _ = repair_rows(
        join_rows([_read_part(job, part) for part in found], rows.source),
        interval,
        drop_placeholders=drop_placeholders,
    )
    merged, added, _, _ = merge_rows(rows, days)
    return merged, added, found


def _days_of_absent_months(job: _Job, today: date) -> list[ArchiveFile]:
    """Daily files of months without a file of their own, if between months that have one, or recent."""
    months = [part for part in _in_order(job) if part.file.monthly]
    there = [part.file.first for part in months if part.state is not State.ABSENT]
    files: list[ArchiveFile] = []
    for part in months:
        between = bool(there) and there[0] < part.file.first < there[-1]
        if part.state is State.ABSENT and (between or today - part.file.end < PUBLISHED_AFTER):
            files += daily_files(part.file.symbol, part.file.interval, part.file.first, part.file.end)
    return [file for file in files if file not in job.parts]


def _fetch_all(job: _Job, files: Sequence[ArchiveFile]) -> None:
    """Ask for files in parallel; every one gets its `Part`."""
    job.todo += len(files)
    with _stopping(job.client), ThreadPoolExecutor(job.jobs, "download") as pool:
        waiting = {pool.submit(_fetch, job, file): file for file in files}
        try:
            for future in as_completed(waiting):
                file = waiting[future]
                job.parts[file] = future.result()
                job.done += 1
                job.progress(job.done, job.todo, file.name)
        except BaseException:
            job.client.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _stopping(client: Client) -> Iterator[None]:
    """Name what a full or read-only disk does to the folder of downloads."""
    try:
        yield
    except OSError as error:
        client.stop()
        raise candle_error(
            "archive",
            f"{error.filename or 'a file'} cannot be written ({error.strerror}); choose another --archive",
        ) from None


def _fetch(job: _Job, file: ArchiveFile) -> Part:
    """One zip, from the folder if it is there and right, else from the server."""
    try:
        published = _published(job, file) if job.refresh else None
        if file.name in job.known and published in (None, job.known[file.name]):
            return Part(file, State.STORED, job.known[file.name])
        kept = _kept(job, file, published)
        if kept:
            return Part(file, State.KEPT, kept)
        return _fetch_new(job, file)
    except FetchError as error:
        return Part(file, State.FAILED, reason=str(error))


def _fetch_new(job: _Job, file: ArchiveFile) -> Part:
    digest = ""

    def check(content: bytes) -> None:
        nonlocal digest
        published = _published(job, file)
        if published is None:
            raise FetchError(f"its {file.name}.CHECKSUM does not exist")
        digest = hashlib.sha256(content).hexdigest()
        if digest != published:
            raise FetchError(f"SHA-256 {digest[:12]}..., expected {published[:12]}...", passing=True)

    content = job.client.fetch(file.path, MAX_ZIP_BYTES, check)
    if content is None:
        return Part(file, State.ABSENT)
    place = job.folder / file.path
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, content)
    # Written last: a zip counts as kept only beside a checksum that it fits.
    write_whole(_checksum_place(place), f"{digest}  {file.name}\n".encode())
    return Part(file, State.FETCHED, digest)


def _published(job: _Job, file: ArchiveFile) -> str | None:
    """SHA-256 that the server gives for a zip, None if it has no checksum for it."""

    def check(content: bytes) -> None:
        try:
            parse_checksum(content, file.name)
        except CandleError as error:
            raise FetchError(str(error), passing=True) from None

    content = job.client.fetch(f"{file.path}.CHECKSUM", MAX_CHECKSUM_BYTES, check)
    return None if content is None else parse_checksum(content, file.name)


def _kept(job: _Job, file: ArchiveFile, published: str | None) -> str:
    """SHA-256 of a zip in the folder that fits its checksum (and the published one, if known); else ''."""
    place = job.folder / file.path
    try:
        if place.stat().st_size > MAX_ZIP_BYTES or _checksum_place(place).stat().st_size > MAX_CHECKSUM_BYTES:
            return ""
        expected = parse_checksum(_checksum_place(place).read_bytes(), file.name)
        digest = hashlib.sha256(place.read_bytes()).hexdigest()
    except (OSError, CandleError):
        return ""
    return digest if digest == expected and published in (None, digest) else ""


def _read_part(job: _Job, part: Part) -> Rows:
    try:
        content = (job.folder / part.file.path).read_bytes()
    except OSError as error:
        raise candle_error(part.file.name, f"cannot be read ({error.strerror}); run the command again") from None
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise candle_error(part.file.name, "changed while it was read; run the command again")
    return read_archive_file(content, part.file)


def _check_failed(job: _Job, keep_going: bool) -> None:
    failed = [part for part in _in_order(job) if part.state is State.FAILED]
    if failed and not keep_going:
        raise CandleError(
            f"candles: {len(failed)} of {len(job.parts)} files could not be fetched, the first {failed[0].reason}; "
            f"what was fetched is kept in {job.folder}, so run the same command again, or add --keep-going"
        )


def _check_found(job: _Job) -> None:
    parts = _in_order(job)
    if all(part.state in (State.ABSENT, State.FAILED) for part in parts):
        reason = next((part.reason for part in parts if part.reason), "it has no such file")
        raise CandleError(
            f"candles: {job.client.base_url} gave none of {len(parts)} files, the first {parts[0].file.path} "
            f"({reason}); check the symbol, the interval and the dates"
        )


def _in_order(job: _Job) -> tuple[Part, ...]:
    return tuple(sorted(job.parts.values(), key=lambda part: (part.file.first, part.file.end)))


def _known_archives(output: Path) -> dict[str, str]:
    """Digests of the zips that a history says are in it."""
    if not output.exists():
        return {}
    try:
        note = json.loads(read_notes(output).get(ARCHIVES_NOTE, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(note, dict):
        return {}
    return {name: digest for name, digest in note.items() if isinstance(name, str) and isinstance(digest, str)}


def _checksum_place(place: Path) -> Path:
    return place.with_name(f"{place.name}.CHECKSUM")
