"""Files that are whole or absent, and temporary ones that say whether somebody still writes them."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed processes stay until somebody deletes them
    fcntl = None  # type: ignore[assignment]

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of files and folders that are not finished; ``btcbt store gc`` knows them by it."""


def write_whole(path: Path, content: Any) -> None:
    """Write a file that is whole or absent: temporary name, sync, rename, sync of the folder.

    Parameters
    ----------
    path : Path
        Where it shall be; the folder exists.
    content : bytes-like
        What it shall hold.
    """
    with replacing(path) as temporary, locked_file(temporary) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Name a file beside `path` that the block writes, and that takes its place, whole, when the block ends well.

    For what cannot be had as bytes, or should not be held twice; `write_whole` is for the rest.
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


def is_being_written(path: Path) -> bool:
    """Whether a process is at work on a temporary file of `write_whole`; True where that cannot be known."""
    if fcntl is None:
        return True
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


@contextmanager
def in_use(folder: Path, *, alone: bool = False) -> Iterator[bool]:
    """Hold a folder: together with others who use what is in it, or alone, to clear it up.

    The block is told whether it has the folder. Users wait until one who clears up is done; he does not wait for them.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        given = True
    except OSError:  # somebody has it, or the file system does not lock folders
        given = False
    try:
        yield given
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system lets a folder be opened."""
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
    """Open a new file to write, with a lock on it until it is closed or the process dies."""
    with path.open("wb") as file:
        if fcntl is not None:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield file


def file_digest(file: Path) -> str:
    """SHA-256 (hex) of a regular file; empty for anything else."""
    if not file.is_file():
        return ""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
