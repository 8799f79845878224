"""Download candles of the Binance public archive into one Parquet history.

Every zip is verified against its ``.CHECKSUM`` and kept, under the archive's own path, in a folder beside the
history; an interrupted or failed download resumes with the missing files. The history records the digests of the
zips that it contains, so that these are neither fetched nor appended again.
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
from btcbt.candles.transport import Client, FetchError, RetryPolicy
from btcbt.errors import CandleError
from btcbt.files import read_file, write_whole

ARCHIVES_NOTE = f"{NOTE_PREFIX}archives"
"""Name of the note that maps the zips of a history to their SHA-256."""
MAX_CHECKSUM_BYTES = 4096
PUBLISHED_AFTER = timedelta(days=62)
"""A month that ended less than this ago is also looked for by day: its own file may not be published yet."""

OnFile = Callable[[int, int, str], None]
"""Called after every file with the files done, the files in total, and the file's name."""


class FileState(Enum):
    """State of one file of the archive after a download."""

    FETCHED = "fetched"
    KEPT = "kept"  # present, and verified, in the folder of downloads
    STORED = "stored"  # already in the history
    ABSENT = "absent"  # not in the archive
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class FileResult:
    """Result for one file of the archive; `reason` says why it failed."""

    file: ArchiveFile
    state: FileState
    sha256: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Download:
    """Result of `download_candles`.

    Attributes
    ----------
    output : Path
        The history.
    results : tuple of FileResult
        Every requested file, in order of time.
    inspection : Inspection or None
        Inspection of the new rows, as published; None if no file had any.
    stored : Stored or None
        What was appended; None if there was nothing new, or if there are problems and no repair was requested.
    dropped : mapping of str to int
        Rows that a repair dropped, by reason.
    filled : int
        Candles from daily files that the monthly ones lacked.
    """

    output: Path
    results: tuple[FileResult, ...]
    inspection: Inspection | None = None
    stored: Stored | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    filled: int = 0

    def count(self, state: FileState) -> int:
        """Number of files in a state."""
        return sum(result.state is state for result in self.results)

    def named(self, state: FileState) -> list[str]:
        """Names of the files in a state."""
        return [result.file.name for result in self.results if result.state is state]


@dataclass(slots=True)
class _Job:
    """Shared state of the steps of one download."""

    client: Client
    folder: Path
    jobs: int
    refresh: bool
    known: Mapping[str, str]
    progress: OnFile
    done: int = 0
    todo: int = 0
    results: dict[ArchiveFile, FileResult] = field(default_factory=dict)


def histories(symbol: str | None, symbols: str | None, interval: str, output: Path | None) -> dict[str, Path]:
    """The symbols of ``--symbol`` or ``--symbols``, each with its history.

    Parameters
    ----------
    symbol, symbols : str or None
        One symbol, or several with commas between them.
    interval : str
        Such as ``1h``; part of the default names.
    output : Path or None
        The history of the one symbol, or the folder of those of several; in ``data`` by default.

    Raises
    ------
    CandleError
        If both or neither are given, or a symbol is invalid or given twice.
    """
    if (symbol is None) == (symbols is None):
        got = "neither" if symbol is None else "both"
        raise CandleError(f"candles: {got} of --symbol and --symbols given, expected one of them")
    if symbol is not None:
        name = check_symbol(symbol)
        return {name: output or Path("data") / _file_name(name, interval)}
    names = [check_symbol(name) for name in (symbols or "").split(",")]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CandleError(f"candles: --symbols has {twice[0]} twice, expected each once")
    folder = output or Path("data")
    if folder.suffix == ".parquet":
        raise CandleError(f"candles: --output {folder} is one file, expected the folder of the files of --symbols")
    return {name: folder / _file_name(name, interval) for name in names}


def _file_name(symbol: str, interval: str) -> str:
    return f"{symbol}_{Path(interval).name}.parquet"


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
    retry: RetryPolicy | None = None,
    today: date | None = None,
    progress: OnFile | None = None,
    client: Client | None = None,
) -> Download:
    """Fetch, verify and append the candles of a symbol.

    Parameters
    ----------
    symbol, interval : str
        Such as ``BTCUSDT`` and ``1h``.
    start, end : str
        Months (``2017-08``) or days (``2017-08-17``), both inclusive; without an end, up to yesterday.
    output : str or Path
        The Parquet history to create or append to.
    archive : str or Path, optional
        Folder that keeps the zips; ``archive`` beside the output by default.
    base_url : str
        Base URL of the archive.
    jobs : int
        Concurrent requests, 1 to 32.
    repair, drop_placeholders : bool
        As `repair_rows`. A repair also looks in daily files for candles that a monthly one lacks. Without them, the
        history is not written if rows break the contract; the zips are kept.
    refresh : bool
        Compare the checksums of files that are already present, and fetch those that were republished.
    keep_going : bool
        Store what could be fetched even if some files failed.
    retry : RetryPolicy, optional
        Attempts, pauses and timeouts.
    today : date, optional
        The first day that is not over, UTC; today by default.
    progress : callable, optional
        Called after every file.
    client : Client, optional
        Replaces the one for `base_url` and `retry`.

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
        raise CandleError(f"candles: --jobs {jobs}, expected 1 to 32 concurrent requests")
    output = check_output(output)
    stored_rows(output, interval)  # fails before any download if the history cannot be appended to
    job = _Job(
        client or Client(base_url, retry),
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
    new = [result for result in _in_order(job) if result.state in (FileState.FETCHED, FileState.KEPT)]
    if not new:
        return Download(output, _in_order(job))
    rows = join_rows([_read_zip(job, result) for result in new], output.name)
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
    archives = {**job.known, **{result.file.name: result.sha256 for result in new}}
    note = json.dumps(dict(sorted(archives.items())), separators=(",", ":"))
    stored = store_rows(rows, output, interval, prefer_new=refresh, notes={ARCHIVES_NOTE: note})
    return Download(output, _in_order(job), inspection, stored, dropped, filled)


def _silent(_done: int, _todo: int, _name: str) -> None:
    """Report nothing."""


def _fill_from_days(
    job: _Job, rows: Rows, new: Sequence[FileResult], interval: str, drop_placeholders: bool
) -> tuple[Rows, int, list[FileResult]]:
    """Add candles that daily files have and monthly ones lack: the two are not always made from the same data."""
    months = [result.file for result in new if result.file.monthly]
    wanted: dict[ArchiveFile, None] = {}
    step = parse_interval(interval)
    for month in months:
        grid = np.arange(*month.span_ms, step)
        # Times before the first candle are not a gap.
        absent = grid[~np.isin(grid, rows.open_ms) & (grid >= rows.open_ms[0])]
        for day in np.unique(absent.astype("datetime64[ms]").astype("datetime64[D]")).tolist():
            wanted |= dict.fromkeys(daily_files(month.symbol, interval, day, day + timedelta(days=1)))
    _fetch_all(job, [file for file in wanted if file not in job.results])
    found = [job.results[file] for file in wanted if job.results[file].state in (FileState.FETCHED, FileState.KEPT)]
    if not found:
        return rows, 0, []
    days, _ = repair_rows(
        join_rows([_read_zip(job, result) for result in found], rows.source),
        interval,
        drop_placeholders=drop_placeholders,
    )
    merged, added, _, _ = merge_rows(rows, days)
    return merged, added, found


def _days_of_absent_months(job: _Job, today: date) -> list[ArchiveFile]:
    """Daily files of months without a monthly file, if recent or between months that have one."""
    months = [result for result in _in_order(job) if result.file.monthly]
    there = [result.file.first for result in months if result.state is not FileState.ABSENT]
    files: list[ArchiveFile] = []
    for result in months:
        between = bool(there) and there[0] < result.file.first < there[-1]
        if result.state is FileState.ABSENT and (between or today - result.file.end < PUBLISHED_AFTER):
            files += daily_files(result.file.symbol, result.file.interval, result.file.first, result.file.end)
    return [file for file in files if file not in job.results]


def _fetch_all(job: _Job, files: Sequence[ArchiveFile]) -> None:
    """Fetch files in parallel; each gets its `FileResult`."""
    job.todo += len(files)
    with _stopping(job.client), ThreadPoolExecutor(job.jobs, "download") as pool:
        waiting = {pool.submit(_fetch, job, file): file for file in files}
        try:
            for future in as_completed(waiting):
                file = waiting[future]
                job.results[file] = future.result()
                job.done += 1
                job.progress(job.done, job.todo, file.name)
        except BaseException:
            job.client.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _stopping(client: Client) -> Iterator[None]:
    """Report a full or read-only disk as an error of the folder of downloads."""
    try:
        yield
    except OSError as error:
        client.stop()
        raise candle_error(
            "archive",
            f"{error.filename or 'a file'} cannot be written ({error.strerror}); choose another --archive",
        ) from None


def _fetch(job: _Job, file: ArchiveFile) -> FileResult:
    """One zip: from the folder if present and valid, else from the server."""
    try:
        published = _published(job, file) if job.refresh else None
        if file.name in job.known and published in (None, job.known[file.name]):
            return FileResult(file, FileState.STORED, job.known[file.name])
        kept = _kept(job, file, published)
        if kept:
            return FileResult(file, FileState.KEPT, kept)
        return _fetch_new(job, file)
    except FetchError as error:
        return FileResult(file, FileState.FAILED, reason=str(error))


def _fetch_new(job: _Job, file: ArchiveFile) -> FileResult:
    digest = ""

    def check(content: bytes) -> None:
        nonlocal digest
        published = _published(job, file)
        if published is None:
            raise FetchError(f"{file.name}.CHECKSUM does not exist")
        digest = hashlib.sha256(content).hexdigest()
        if digest != published:
            raise FetchError(f"SHA-256 {digest[:12]}..., expected {published[:12]}...", transient=True)

    content = job.client.fetch(file.path, MAX_ZIP_BYTES, check)
    if content is None:
        return FileResult(file, FileState.ABSENT)
    place = job.folder / file.path
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, content)
    # Written last: a zip counts as kept only beside a matching checksum.
    write_whole(_checksum_place(place), f"{digest}  {file.name}\n".encode())
    return FileResult(file, FileState.FETCHED, digest)


def _published(job: _Job, file: ArchiveFile) -> str | None:
    """SHA-256 of a zip as the server publishes it; None if it publishes none."""

    def check(content: bytes) -> None:
        try:
            parse_checksum(content, file.name)
        except CandleError as error:
            raise FetchError(str(error), transient=True) from None

    content = job.client.fetch(f"{file.path}.CHECKSUM", MAX_CHECKSUM_BYTES, check)
    return None if content is None else parse_checksum(content, file.name)


def _kept(job: _Job, file: ArchiveFile, published: str | None) -> str:
    """SHA-256 of a zip in the folder that matches its checksum (and the published one, if known); else ''."""
    place = job.folder / file.path
    try:
        expected = parse_checksum(read_file(_checksum_place(place), MAX_CHECKSUM_BYTES), file.name)
        digest = hashlib.sha256(read_file(place, MAX_ZIP_BYTES)).hexdigest()
    except (OSError, CandleError):
        return ""
    return digest if digest == expected and published in (None, digest) else ""


def _read_zip(job: _Job, result: FileResult) -> Rows:
    try:
        content = read_file(job.folder / result.file.path, MAX_ZIP_BYTES)
    except OSError as error:
        raise candle_error(result.file.name, f"cannot be read ({error.strerror}); run the command again") from None
    if hashlib.sha256(content).hexdigest() != result.sha256:
        raise candle_error(result.file.name, "changed while it was read; run the command again")
    try:
        return read_archive_file(content, result.file)
    except CandleError as error:
        # Kept, it would fail every later run, even after a new one was published.
        for place in (_checksum_place(job.folder / result.file.path), job.folder / result.file.path):
            place.unlink(missing_ok=True)
        raise CandleError(f"{error}; the file was removed, so the next download fetches it again") from None


def _check_failed(job: _Job, keep_going: bool) -> None:
    failed = [result for result in _in_order(job) if result.state is FileState.FAILED]
    if failed and not keep_going:
        raise CandleError(
            f"candles: {len(failed)} of {len(job.results)} files could not be fetched, the first {failed[0].reason}; "
            f"fetched files are kept in {job.folder}; run the same command again, or add --keep-going"
        )


def _check_found(job: _Job) -> None:
    results = _in_order(job)
    if all(result.state in (FileState.ABSENT, FileState.FAILED) for result in results):
        reason = next((result.reason for result in results if result.reason), "no such file")
        raise CandleError(
            f"candles: {job.client.base_url} has none of {len(results)} files, the first {results[0].file.path} "
            f"({reason}); check the symbol, the interval and the dates"
        )


def _in_order(job: _Job) -> tuple[FileResult, ...]:
    return tuple(sorted(job.results.values(), key=lambda result: (result.file.first, result.file.end)))


def _known_archives(output: Path) -> dict[str, str]:
    """Digests of the zips in a history, by its note."""
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
