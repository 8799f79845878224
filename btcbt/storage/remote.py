"""Folders of files on a local disk, or on S3 or Google Cloud Storage through pyarrow.fs.

A remote store needs few operations: list the files of a folder; read, write and delete a file. Object stores show
objects only when complete, so nothing is renamed.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from btcbt.config import is_url
from btcbt.errors import StoreError
from btcbt.files import read_file

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CONNECT_SECONDS = 5.0
GCS_RETRY_SECONDS = 15
_MESSAGE = 200
MAX_BYTES = 1 << 31
"""Most bytes of a file that is read; shards are far smaller."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its name, its size in bytes, and when it was last modified (seconds since the epoch)."""

    name: str
    size: int
    modified: float


class Folder(Protocol):
    """A folder of files. Errors of the disk or the network are raised as `StoreError`."""

    def __str__(self) -> str: ...
    def child(self, name: str) -> Folder:
        """A subfolder, which need not exist."""
        ...

    def folders(self) -> list[str]:
        """Sorted names of the subfolders; empty if it does not exist."""
        ...

    def files(self) -> list[Entry]:
        """The files, sorted by name; empty if it does not exist."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a file."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file, or a local folder with all its content; ignored if already deleted."""
        ...


class LocalFolder:
    """A local folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> LocalFolder:
        """A subfolder, which need not exist."""
        return LocalFolder(self.path / name)

    def folders(self) -> list[str]:
        """Sorted names of the subfolders; empty if it does not exist."""
        return sorted(path.name for path in self._paths() if path.is_dir())

    def files(self) -> list[Entry]:
        """The files, sorted by name; empty if it does not exist."""
        found = []
        with self._listed():
            for path in self._paths():
                with suppress(FileNotFoundError):  # concurrent writers rename and delete
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        found.append(Entry(path.name, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry.name)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        path = self.path / name
        try:
            return read_file(path, MAX_BYTES)
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror})") from None

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all its content; ignored if already deleted."""
        path = self.path / name
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot be deleted ({error.strerror}); fix its permissions") from None

    def _paths(self) -> list[Path]:
        with self._listed():
            return list(self.path.iterdir()) if self.path.is_dir() else []

    @contextmanager
    def _listed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.path} cannot be listed ({error.strerror}); fix its permissions") from None


class RemoteFolder:
    """A folder of a pyarrow file system.

    Parameters
    ----------
    system : pyarrow.fs.FileSystem
        The file system.
    path : str
        Path of the folder there.
    url : str
        Its name in messages.
    """

    def __init__(self, system: FileSystem, path: str, url: str) -> None:
        self._system = system
        self._path = path
        self._url = url

    def __str__(self) -> str:
        return self._url

    def child(self, name: str) -> RemoteFolder:
        """A subfolder, which need not exist."""
        return RemoteFolder(self._system, f"{self._path}/{name}", f"{self._url}/{name}")

    def folders(self) -> list[str]:
        """Sorted names of the subfolders; empty if it does not exist."""
        return sorted(info.base_name for info in self._list() if info.type.name == "Directory")

    def files(self) -> list[Entry]:
        """The files, sorted by name; empty if it does not exist."""
        found = [info for info in self._list() if info.type.name == "File"]
        entries = [Entry(info.base_name, info.size or 0, (info.mtime_ns or 0) / 1e9) for info in found]
        return sorted(entries, key=lambda entry: entry.name)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self._explained("read", name), self._system.open_input_stream(self._at(name), compression=None) as stream:
            content = bytes(stream.read(MAX_BYTES + 1))
            if len(content) > MAX_BYTES:
                raise OSError(errno.EFBIG, f"larger than {MAX_BYTES:,} bytes")
            return content

    def write(self, name: str, content: Any) -> None:
        """Create or replace a file atomically.

        Parameters
        ----------
        name : str
            Its name.
        content : bytes-like
            Its content.
        """
        with (
            self._explained("written", name),
            self._system.open_output_stream(self._at(name), compression=None) as stream,
        ):
            stream.write(content)

    def delete(self, name: str) -> None:
        """Delete a file; ignored if already deleted."""
        with self._explained("deleted", name):
            try:
                self._system.delete_file(self._at(name))
            except FileNotFoundError:
                return

    def _list(self) -> list[Any]:
        from pyarrow.fs import FileSelector

        with self._explained("listed"):
            return list(self._system.get_file_info(FileSelector(self._path, allow_not_found=True)))

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    @contextmanager
    def _explained(self, done: str, name: str | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = self._url if name is None else f"{self._url}/{name}"
            raise StoreError(f"{where} cannot be {done} ({_one_line(error)})") from None


def open_folder(place: str | Path) -> Folder:
    """The folder at a path or URL.

    Raises
    ------
    StoreError
        If a URL cannot be reached.
    """
    return open_remote(place) if isinstance(place, str) and is_url(place) else LocalFolder(Path(place))


def open_remote(url: str) -> RemoteFolder:
    """The folder at an ``s3://`` or ``gs://`` URL.

    Credentials are found as the service's own tools find them: environment variables, profiles, the machine's
    identity.

    Parameters
    ----------
    url : str
        As in `btcbt.config.experiment.StoreConfig.root`.

    Raises
    ------
    StoreError
        If the service is not reachable, or the bucket does not exist or may not be listed.
    """
    parts = urlsplit(url)
    path = f"{parts.netloc}{parts.path}".rstrip("/")
    shown = f"{parts.scheme}://{path}"
    options = dict(parse_qsl(parts.query))
    try:
        system = _s3(parts.netloc, options) if parts.scheme == "s3" else _gcs(options)
        # A missing bucket lists like an empty folder.
        there = parts.scheme != "s3" or system.get_file_info(parts.netloc).type.name != "NotFound"
    except (OSError, ValueError) as error:  # Arrow raises either for an invalid URL or option
        raise StoreError(
            f"store.root {shown}: not reachable ({_one_line(error)}); check its name, the network and your credentials"
        ) from None
    if not there:
        raise StoreError(f"store.root {shown}: bucket '{parts.netloc}' does not exist; create it or correct the name")
    return RemoteFolder(system, path, shown)


def _s3(bucket: str, options: dict[str, str]) -> FileSystem:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    # Amazon's tools read other S3 endpoints from these variables; Arrow does not.
    service = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    endpoint = options.get("endpoint_override") or service.netloc or None
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3FileSystem(
        region=region or ("us-east-1" if endpoint else resolve_s3_region(bucket)),
        scheme=options.get("scheme") or service.scheme or None,
        endpoint_override=endpoint,
        connect_timeout=CONNECT_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=5),
        background_writes=False,  # shards are a few megabytes, and already written by a background thread
        allow_delayed_open=True,  # one request per small object, so a killed process leaves no partial upload
    )


def _gcs(options: dict[str, str]) -> FileSystem:
    from datetime import timedelta

    from pyarrow.fs import GcsFileSystem

    return GcsFileSystem(
        # A self-hosted server has no credentials.
        anonymous="endpoint_override" in options,
        scheme=options.get("scheme"),
        endpoint_override=options.get("endpoint_override"),
        retry_time_limit=timedelta(seconds=GCS_RETRY_SECONDS),
    )


def _one_line(error: Exception) -> str:
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return text if len(text) <= _MESSAGE else text[: _MESSAGE - 3] + "..."
