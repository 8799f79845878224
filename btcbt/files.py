"""Bounded reads of regular files, atomic writes, file locks, and temporary files that show if their writer lives."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast

from btcbt.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
"""Whether this system locks files. Without locks, concurrent processes may repeat each other's work, and temporary
files of killed processes stay until somebody deletes them; results are the same."""
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of unfinished files and folders; ``btcbt store gc`` recognises them by it."""


_REFUSALS = frozenset(
    {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG}
    | {errno.ENFILE, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS, errno.ESTALE}
)
"""What a file system may answer to a correct program."""


@contextmanager
def refusals_explained(where: Path | None = None) -> Iterator[None]:
    """Turn what a file system refuses (no space, read-only, permissions, broken) into an error that a user can fix.

    Parameters
    ----------
    where : Path, optional
        Named where the system does not say which file it was.

    Raises
    ------
    StoreError
        With the system's error as its ``__cause__``.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        place = error.filename or where or "a file"
        raise StoreError(
            f"{place}: cannot be read or written ({error.strerror}); make room or fix its permissions, and run again"
        ) from error


BufferedIO = io.BufferedReader | io.BufferedWriter | io.BufferedRandom
_DOES_NOT_WAIT = getattr(os, "O_NONBLOCK", 0)


def open_regular(path: Path, mode: Literal["rb", "wb", "ab+"] = "rb") -> BufferedIO:
    """Open a regular file, or a link to one; every file that somebody else may have put there is opened by this.

    A pipe would wait for a writer, a device may never end.

    Parameters
    ----------
    path : Path
        The file.
    mode : str
        A binary mode of `open`.

    Raises
    ------
    OSError
        If it cannot be opened, or is anything else.
    """
    return cast(BufferedIO, open(path, mode, opener=_regular))


def _regular(path: str, flags: int) -> int:
    handle = os.open(path, flags | _DOES_NOT_WAIT, 0o666)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "not a regular file", path)


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises
    ------
    OSError
        If it cannot be read, is not a regular file, or is larger; then at most ``limit + 1`` bytes were read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > limit else file.read(size + 1)
        if size < len(content) <= limit:  # it grew, or is of those whose size the system does not know
            content += file.read(limit + 1 - len(content))
    if max(size, len(content)) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


def write_whole(path: Path, content: Any) -> None:
    """Write a file atomically: temporary name, sync, rename, sync of the folder.

    Parameters
    ----------
    path : Path
        The file to create or replace; its folder exists.
    content : bytes-like
        Its new content.
    """
    with replacing(path) as temporary, locked_file(temporary) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` when the block succeeds.

    For writers that need a path, or content too large to hold twice; otherwise use `write_whole`.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def acquire_lock(file: IO[Any] | int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file, or folder, until it is closed or the process dies.

    Parameters
    ----------
    file : file or int
        The file, or its descriptor.
    shared : bool
        Whether others may hold it too, shared as well.
    wait : bool
        Whether to wait for those who hold it.

    Returns
    -------
    bool
        Whether the lock was obtained; always True where the system has no locks (see `CAN_LOCK`).

    Raises
    ------
    OSError
        If it cannot be locked at all; only with `wait`.
    """
    if fcntl is None:
        return True
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait:
        fcntl.flock(file, mode)
        return True
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_being_written(path: Path) -> bool:
    """Whether a process is still writing a temporary file of `write_whole`; True where that is unknown."""
    if not CAN_LOCK:
        return True
    try:
        with open_regular(path) as file:
            return not acquire_lock(file, wait=False)
    except OSError:
        return True


@contextmanager
def in_use(folder: Path, *, alone: bool = False) -> Iterator[bool]:
    """Hold a lock on a folder: shared by those who use its content, exclusive to clean it up.

    Yields whether the lock was obtained. Users wait for a clean-up to finish; a clean-up does not wait for users.
    """
    if not CAN_LOCK:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            obtained = acquire_lock(handle, shared=not alone, wait=not alone)
        except OSError:  # the file system does not lock folders
            obtained = False
        yield obtained
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system lets a folder be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def temporary_name(path: Path) -> Path:
    """A name beside `path` of the form `TEMPORARY`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def locked_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing, locked until it is closed or the process dies."""
    with path.open("wb") as file:
        acquire_lock(file)
        yield file


def file_digest(file: Path) -> str:
    """SHA-256 (hex) of a regular file; empty for anything else."""
    if not file.is_file():
        return ""
    with open_regular(file) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
