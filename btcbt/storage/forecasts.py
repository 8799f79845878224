"""Forecasts on disk: addressed by content, written atomically, never computed twice.

Layout::

    <root>/<key>/key.json                            what the key stands for, for readers
    <root>/<key>/<first>-<last>-<checksum>.parquet   a shard: the forecasts of some origins

The **key** is the SHA-256 of everything but the candles that determines a forecast: the forecaster's
identity (digests of weights, sampling parameters), T, H, S, the interval, the seed, and `NUMERICAL_VERSION`.
A **row** is an origin, the digest of exactly the candles of its window, and its paths; it is used only where
origin and digest match, so that other experiments reuse it, and a corrected candle recomputes the origins whose
windows contain it.

A shard is written to a temporary name, synced, and renamed: it is complete or absent. Its name ends in the
checksum of its bytes, which is verified before parsing: a truncated, altered or foreign file is reported in a
warning and its origins are recomputed. Equal forecasts give equal files, so concurrent processes do no harm.

A store may have a remote folder shared with other machines. Forecasts missing locally are first looked for there,
fetched and verified; computed ones are written locally, then remotely. Everything else reads local files only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import queue
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from btcbt.errors import StoreError
from btcbt.files import read_file, write_whole
from btcbt.records import CHANNELS, ForecastBatch, IntArray, Window
from btcbt.storage.remote import MAX_BYTES, RemoteFolder
from btcbt.trees import tree_digest

NUMERICAL_VERSION = 1
"""Increased when a code change alters forecasts beyond rounding; old shards are then unused."""

Digests = NDArray[np.void]
"""Window digests, (B,) of 16 bytes."""
DIGEST_BYTES = 16
_DIGEST = np.dtype(f"V{DIGEST_BYTES}")
_CHECKSUM_BYTES = 16
_SHARD_NAME = re.compile(r"(-?\d{1,15})-(-?\d{1,15})-([0-9a-f]{32})\.parquet")
_FORMAT = "btcbt-forecasts-1"
_PAGE_BYTES = 1 << 16
MAX_SHARD_ROWS = 100_000
"""Most origins of a shard; `btcbt.config.experiment.StoreConfig` has the same bound."""
MAX_SHARD_PATHS = 1 << 27
"""Most bytes of the paths of a shard or of a batch read, unless one origin has more; a run holds several at once."""
Shape = tuple[int, int, int]
"""S, H, C of a row's paths."""
KEY_FILE = "key.json"
TRANSFERS = 8
"""Shards fetched concurrently; each mostly waits for the network."""

log = logging.getLogger(__name__)


def forecast_key(
    identity: Mapping[str, object], *, interval_ms: int, context: int, horizon: int, n_paths: int, seed: int
) -> tuple[str, dict[str, object]]:
    """The key of a forecaster's forecasts (64 hex digits), and its meaning as JSON values."""
    meaning: dict[str, object] = {
        "forecaster": dict(identity),
        "interval_ms": interval_ms,
        "context": context,
        "horizon": horizon,
        "n_paths": n_paths,
        "seed": seed,
        "numerical_version": NUMERICAL_VERSION,
    }
    return tree_digest(meaning), meaning


def window_digests(windows: Iterable[Window]) -> Digests:
    """BLAKE2b of the bytes of each window's values, (B,). The times follow from the origin."""
    digests = [hashlib.blake2b(w.values.data, digest_size=DIGEST_BYTES).digest() for w in windows]
    return np.frombuffer(b"".join(digests), dtype=_DIGEST)


def history_digests(origins: IntArray, windows: Digests) -> Digests:
    """Digests for forecasts that depend on the whole walk so far, (B,): of every origin and window up to each.

    Two walks have equal digests up to the first origin or window in which they differ, and none after it.

    Parameters
    ----------
    origins : int64 (B,)
        Starting with the first of the walk, ms UTC.
    windows : void (B,)
        `window_digests` of the same origins.
    """
    chain, digests = b"", []
    for origin, window in zip(origins.tolist(), windows.tolist(), strict=True):
        link = chain + origin.to_bytes(8, "little", signed=True) + bytes(window)
        chain = hashlib.blake2b(link, digest_size=DIGEST_BYTES, person=b"btcbt-history").digest()
        digests.append(chain)
    return np.frombuffer(b"".join(digests), dtype=_DIGEST)


def fitted_digests(windows: Digests, weights: Sequence[str]) -> Digests:
    """Digests for forecasts with refitted weights, (B,): of each window and the weights that forecast it.

    Parameters
    ----------
    windows : void (B,)
        `window_digests`.
    weights : sequence of str (B,)
        Digest of the weights of each origin; where it is empty, the window's digest is unchanged.
    """
    digests = [
        hashlib.blake2b(bytes(window) + of.encode(), digest_size=DIGEST_BYTES, person=b"btcbt-refit").digest()
        if of
        else bytes(window)
        for window, of in zip(windows.tolist(), weights, strict=True)
    ]
    return np.frombuffer(b"".join(digests), dtype=_DIGEST)


class Shard(NamedTuple):
    """A shard file, named by the range of its origins and the checksum of its bytes."""

    path: Path
    first: int
    last: int
    checksum: str


@dataclass(frozen=True, slots=True, eq=False)
class ShardPlan:
    """Which shards hold the forecasts of some origins.

    Attributes
    ----------
    shards : tuple of Shard
        The files in use.
    shard, row : int64 (M,)
        Which of them holds each origin, and in which row; -1 where no file does.
    """

    shards: tuple[Shard, ...]
    shard: IntArray
    row: IntArray

    @property
    def missing(self) -> IntArray:
        """Indices of the origins that no shard holds, increasing."""
        return np.flatnonzero(self.shard < 0)

    def part(self, rows: slice) -> ShardPlan:
        """The plan of some of the origins."""
        return ShardPlan(self.shards, self.shard[rows], self.row[rows])


class ForecastStore:
    """The forecasts of one key, in one folder.

    Parameters
    ----------
    folder : Path
        Folder of the shards; created by the first write.
    key : str
        From `forecast_key`; files of another key are foreign.
    n_paths, horizon : int
        S and H of every row.
    remote : RemoteFolder, optional
        Folder that shares the same shards with other machines.
    """

    def __init__(
        self, folder: Path, key: str, *, n_paths: int, horizon: int, remote: RemoteFolder | None = None
    ) -> None:
        self.folder = folder
        self.key = key
        self.remote = remote
        self.shape = (n_paths, horizon, len(CHANNELS))

    @property
    def most_rows(self) -> int:
        """Most origins of a shard and of a batch, by `MAX_SHARD_PATHS`; where shards end changes no key and no path."""
        return max(1, MAX_SHARD_PATHS // (4 * math.prod(self.shape)))

    def shards(self) -> list[Shard]:
        """The local files named like shards, in order of their origins; not verified."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.glob("*.parquet"):
            shard = shard_named(path)
            if shard is None:
                log.warning("%s is not named like a shard of forecasts; ignored", path)
                continue
            found.append(shard)
        return sorted(found, key=lambda shard: (shard.first, shard.last, shard.checksum))

    def plan(self, origins: IntArray, digests: Digests) -> ShardPlan:
        """Find the stored forecasts of some origins, verifying every file that may contain one.

        Parameters
        ----------
        origins : int64 (M,)
            ms UTC, increasing.
        digests : void (M,)
            `window_digests` of the same origins.

        Raises
        ------
        StoreError
            If the remote folder cannot be reached.
        """
        plan, damaged = self._plan(origins, digests)
        if self.remote is not None:
            there = {entry.name for entry in self.remote.files()}
            if len(plan.missing):
                self._fetch(self.remote, there, origins[plan.missing])
                plan, damaged = self._plan(origins, digests)
            ours = [*(shard.path.name for shard in plan.shards), KEY_FILE] if plan.shards else []
            self._send(self.remote, [name for name in ours if name not in there])
        for error in damaged:
            log.warning("%s; its origins are recomputed", error)
        return plan

    def _plan(self, origins: IntArray, digests: Digests) -> tuple[ShardPlan, list[StoreError]]:
        """The plan from local files, and the errors of damaged ones."""
        shard, row = np.full(len(origins), -1), np.full(len(origins), -1)
        used: list[Shard] = []
        damaged: list[StoreError] = []
        for candidate in self.shards():
            if not len(origins) or candidate.last < origins[0] or candidate.first > origins[-1]:
                continue
            try:
                stored, seen = _rows(candidate, self._read(candidate, ["origin", "window"]))
            except StoreError as error:
                damaged.append(error)
                continue
            at = np.minimum(np.searchsorted(origins, stored), len(origins) - 1)
            fits = (origins[at] == stored) & (digests[at] == seen) & (shard[at] < 0)
            if fits.any():
                shard[at[fits]] = len(used)
                row[at[fits]] = np.flatnonzero(fits)
                used.append(candidate)
        return ShardPlan(tuple(used), shard, row), damaged

    def _fetch(self, remote: RemoteFolder, names: Iterable[str], origins: IntArray) -> None:
        """Copy remote shards that may contain some origins and are missing or damaged locally."""

        def fetch(shard: Shard) -> None:
            name = shard.path.name
            try:
                if _checksum(read_file(shard.path, MAX_BYTES)) == shard.checksum:
                    return
            except OSError:
                pass  # not present locally
            content = remote.read(name)
            if _checksum(content) == shard.checksum:
                self._put(shard.path, content)
            else:
                log.warning("%s/%s is damaged: its bytes do not match the checksum in its name", remote, name)

        shards = [shard for name in sorted(names) if (shard := shard_named(self.folder / name)) is not None]
        wanted = [s for s in shards if np.searchsorted(origins, s.first) < np.searchsorted(origins, s.last, "right")]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            for _ in pool.map(fetch, wanted):
                pass

    def _send(self, remote: RemoteFolder, names: Iterable[str]) -> None:
        """Copy local files to the remote folder: those written without one, or while it was unreachable."""
        for name in names:
            if (path := self.folder / name).exists():
                remote.write(name, read_file(path, MAX_BYTES))

    def read(self, plan: ShardPlan, origins: IntArray, batch: int) -> Iterator[ForecastBatch]:
        """Stream the planned forecasts in order, `batch` origins at a time; memory is bounded by the batch.

        Raises
        ------
        StoreError
            If a forecast is missing from the plan, or a file has changed since it was planned.
        """
        if len(plan.missing):
            raise StoreError(f"{self.folder}: {len(plan.missing):,} of {len(origins):,} forecasts are missing")
        tables: dict[int, pa.Table] = {}
        for start in range(0, len(origins), batch):
            part = slice(start, start + batch)
            shard, row = plan.shard[part], plan.row[part]
            paths = np.empty((len(shard), *self.shape), dtype=np.float32)
            provenance: dict[str, str] = {}
            # A shard that spans two batches is read once; earlier ones are released.
            tables = {w: tables.get(w) or self._read(plan.shards[w], ["paths"]) for w in map(int, np.unique(shard))}
            for which, table in tables.items():
                here = shard == which
                paths[here] = column_values(table, "paths", np.dtype("<f4"), self.shape)[row[here]]
                provenance = json.loads(table.schema.metadata[b"provenance"])
            paths.flags.writeable = False
            yield ForecastBatch(origins[part], paths, MappingProxyType(provenance))

    def write(self, digests: Digests, batch: ForecastBatch) -> Path:
        """Write one shard; on return it is complete on disk, and in the remote folder if there is one.

        Raises
        ------
        StoreError
            If it cannot be written to the disk or to the remote folder.
        """
        if batch.paths.shape[1:] != self.shape:
            raise ValueError(f"paths {batch.paths.shape[1:]} are not those of the store, {self.shape}")
        content = self._encode(digests, batch)
        checksum = _checksum(content)
        path = self.folder / f"{batch.origins[0]}-{batch.origins[-1]}-{checksum}.parquet"
        self._put(path, content)
        if self.remote is not None:
            self.remote.write(path.name, content)
        return path

    def describe(self, meaning: Mapping[str, object]) -> None:
        """Write a note of what the key stands for."""
        note = self.folder / KEY_FILE
        content = json.dumps(meaning, indent=2, sort_keys=True).encode() + b"\n"
        try:
            whole = read_file(note, len(content)) == content
        except OSError:  # absent, or of another length, or no file
            whole = False
        if not whole:
            self._put(note, content)
        if self.remote is not None and (KEY_FILE, len(content)) not in {(e.name, e.size) for e in self.remote.files()}:
            self.remote.write(KEY_FILE, content)

    def link_into(self, folder: Path, plan: ShardPlan) -> None:
        """Add the planned shards to another folder: by hard links, or copies where links are not possible.

        A run keeps its forecasts this way, independently of the store.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for shard in plan.shards:
            target = folder / shard.path.name
            try:
                os.link(shard.path, target)
            except OSError:
                write_whole(target, read_file(shard.path, MAX_BYTES))

    def _put(self, path: Path, content: Any) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be written ({error.strerror}); finished shards are kept, "
                "free space or choose another store.root, and run again"
            ) from None

    def _encode(self, digests: Digests, batch: ForecastBatch) -> pa.Buffer:
        rows = len(batch)
        paths = np.ascontiguousarray(batch.paths, dtype="<f4")
        columns = [
            pa.array(np.asarray(batch.origins, dtype=np.int64)).cast(pa.timestamp("ms", tz="UTC")),
            fixed_binary(np.ascontiguousarray(digests), rows),
            fixed_binary(paths, rows),
        ]
        schema = pa.schema(
            [
                pa.field(name, column.type, nullable=False)
                for name, column in zip(("origin", "window", "paths"), columns, strict=True)
            ],
            metadata={
                "format": _FORMAT,
                "key": self.key,
                "shape": json.dumps(self.shape),
                "channels": ",".join(CHANNELS),
                "provenance": json.dumps(dict(batch.provenance), sort_keys=True),
            },
        )
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.Table.from_arrays(columns, schema=schema),
            sink,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
        )
        return sink.getvalue()

    def _read(self, shard: Shard, columns: list[str]) -> pa.Table:
        """Verify a shard and parse some of its columns."""
        try:
            content = read_file(shard.path, MAX_BYTES)
        except OSError as error:
            raise StoreError(f"{shard.path} cannot be read ({error.strerror})") from None
        return _parse(str(shard.path), content, shard.checksum, self.key, self.shape, columns)


class ShardWriter:
    """Writes shards in a background thread; at most `depth` are queued, so memory stays bounded.

    Leaving the ``with`` block waits until everything is on disk. An error is raised at the next call.
    """

    def __init__(self, store: ForecastStore, depth: int = 2) -> None:
        self._store = store
        self._queue: queue.Queue[tuple[Digests, ForecastBatch] | None] = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="btcbt-store", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def put(self, digests: Digests, batch: ForecastBatch) -> None:
        """Queue a shard.

        Raises
        ------
        StoreError
            If an earlier shard could not be written.
        """
        self._raise()
        self._queue.put((digests, batch))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._store.write(*item)
                except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
                    self._error = error


def shard_named(path: Path) -> Shard | None:
    """The shard that a file's name describes; None if it is not named like a shard."""
    match = _SHARD_NAME.fullmatch(path.name)
    return None if match is None else Shard(path, int(match[1]), int(match[2]), match[3])


def shard_rows(
    shard: Shard, content: bytes, key: str, shape: Shape | None = None, where: str = ""
) -> set[tuple[int, bytes]]:
    """The forecasts in a shard, by origin and window digest.

    Parameters
    ----------
    shard : Shard
        What its name says.
    content : bytes
        Its bytes.
    key : str
        From the name of its folder.
    shape : (S, H, C), optional
        Expected shape of its paths; any by default.
    where : str
        Its name in messages; its path if left out.

    Raises
    ------
    StoreError
        If it is damaged or foreign.
    """
    where = where or str(shard.path)
    table = _parse(where, content, shard.checksum, key, shape, ["origin", "window"])
    origins, seen = _rows(shard, table, where)
    return {(origin, bytes(digest)) for origin, digest in zip(origins.tolist(), seen.tolist(), strict=True)}


def _rows(shard: Shard, table: pa.Table, where: str = "") -> tuple[IntArray, Digests]:
    """Origins and window digests of a shard, whose name must say which origins are in it."""
    origins = column_values(table, "origin", np.dtype("<i8"))
    if (origins[0], origins[-1]) != (shard.first, shard.last) or (np.diff(origins) <= 0).any():
        raise StoreError(f"{where or shard.path} is foreign: its origins are not those that its name says")
    return origins, column_values(table, "window", _DIGEST)


def _parse(where: str, content: bytes, checksum: str, key: str, shape: Shape | None, columns: list[str]) -> pa.Table:
    """Verify the content of a shard, and parse some of its columns.

    A checksum detects accidental damage only: anyone who can write to the store can compute one. So the file must also
    have the layout of a shard before memory for its content is allocated.
    """
    if _checksum(content) != checksum:
        raise StoreError(f"{where} is damaged: its bytes do not match the checksum in its name")
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        metadata = file.schema_arrow.metadata or {}
        found = (metadata.get(b"format"), metadata.get(b"key"), metadata.get(b"shape"))
        expected = found[2] if shape is None else json.dumps(shape).encode()
        if found != (_FORMAT.encode(), key.encode(), expected):
            raise StoreError(f"{where} is foreign: it holds the forecasts of another forecaster")
        if not _well_formed(file, metadata):
            raise StoreError(f"{where} is foreign: it does not have the columns of a shard of forecasts")
        table = file.read(columns, use_threads=False)
        table.validate(full=True)
        lengths = {(len(column), column.null_count) for column in table.columns}
        if lengths != {(file.metadata.num_rows, 0)}:
            raise StoreError(f"{where} is foreign: the length of its columns differs from its metadata")
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise StoreError(f"{where} is not a shard of forecasts ({' '.join(str(error).split())[:200]})") from None


def _well_formed(file: pq.ParquetFile, metadata: Mapping[bytes, bytes]) -> bool:
    """Whether columns have a shard's types, its number of rows, and an uncompressed size that fits them."""
    width = 4 * math.prod(json.loads(metadata[b"shape"]))
    types = {
        "origin": pa.timestamp("ms", tz="UTC"),
        "window": pa.binary(DIGEST_BYTES),
        "paths": pa.binary(width),
    }
    schema, rows = file.schema_arrow, file.metadata.num_rows
    groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    return (
        {field.name: field.type for field in schema} == types
        and len(schema) == len(types)
        and not any(field.nullable for field in schema)
        and 0 < rows <= MAX_SHARD_ROWS
        and sum(groups) <= 2 * rows * (8 + DIGEST_BYTES + width) + _PAGE_BYTES
        and isinstance(json.loads(metadata[b"provenance"]), dict)
    )


def _checksum(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).hexdigest()


def fixed_binary(array: NDArray[Any], rows: int) -> pa.Array:
    """Rows of an array as fixed-size binary, without a copy."""
    width = array.nbytes // rows
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(array)])


def column_values(table: pa.Table, name: str, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> NDArray[Any]:
    """A column of fixed width as an array, (N, *shape), without a copy if it has one chunk."""
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    values = np.frombuffer(column.buffers()[1], dtype=dtype)
    return values.reshape(len(column), *shape)
