"""Inspect the store of forecasts: its content, damaged files, and files that can be deleted.

Correct runs do not depend on this: damaged files are detected and recomputed anyway, and a killed process leaves
nothing that could be mistaken for a forecast. It frees disk space.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from btcbt.config import REFITS_FOLDER, STORE_FOLDER
from btcbt.errors import StoreError
from btcbt.files import TEMPORARY, in_use, is_being_written, read_file
from btcbt.records import CHANNELS, DAY_MS, HOUR_MS
from btcbt.storage.forecasts import KEY_FILE, shard_named, shard_rows
from btcbt.storage.remote import Entry, Folder, LocalFolder
from btcbt.storage.verdicts import MAX_JSON_BYTES
from btcbt.trees import tree_digest

GRACE_SECONDS = HOUR_MS / 1000
"""Younger files are never garbage: a run may be about to use them."""
DAY_SECONDS = DAY_MS / 1000
MAX_NOTE_BYTES = 1 << 20
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """The forecasts of one key.

    Attributes
    ----------
    key : str
        The key, 64 hex digits.
    meaning : mapping
        What it stands for; empty if its note is missing or damaged.
    origins, shards, size : int
        Distinct origins in undamaged files, number of files, bytes.
    first, last : int or None
        First and last origin, ms UTC.
    damaged : tuple of str
        Damaged or foreign files, and why.
    """

    key: str
    meaning: Mapping[str, Any]
    origins: int
    shards: int
    size: int
    first: int | None
    last: int | None
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file or folder that can be deleted: its parent folder, its name, why, and the bytes that this frees."""

    folder: Folder
    name: str
    why: str
    size: int


@dataclass(slots=True)
class _Contents:
    """The files of a key's folder: undamaged ones with their rows, damaged ones with the reason."""

    rows: dict[Entry, set[tuple[int, bytes]]] = field(default_factory=dict)
    damaged: dict[Entry, str] = field(default_factory=dict)
    unreadable: dict[Entry, str] = field(default_factory=dict)  # now; that is no reason to delete them


def list_keys(root: Folder) -> list[StoredKey]:
    """List the keys of the store under `root` (an experiment's ``store.root``), verifying every file's checksum.

    Raises
    ------
    StoreError
        If there is no store.
    """
    found = []
    for folder, key in _key_folders(root):
        files = folder.files()
        meaning = _meaning(folder, key, files)
        contents = _read(folder, key, meaning, files)
        origins = {origin for rows in contents.rows.values() for origin, _ in rows}
        damaged = [*contents.damaged.values(), *contents.unreadable.values()]
        if not meaning and any(entry.name == KEY_FILE for entry in files):
            damaged.append(f"{folder}/{KEY_FILE} does not describe the key that its folder is named by")
        found.append(
            StoredKey(
                key=key,
                meaning=meaning,
                origins=len(origins),
                shards=len(contents.rows) + len(contents.damaged) + len(contents.unreadable),
                size=sum(entry.size for entry in (*contents.rows, *contents.damaged, *contents.unreadable)),
                first=min(origins, default=None),
                last=max(origins, default=None),
                damaged=tuple(damaged),
            )
        )
    return found


@contextmanager
def clearing(root: Folder) -> Iterator[bool]:
    """Keep runs from starting under `root` during a clean-up; yields whether no run is in progress.

    At a URL that is unknown, and True.
    """
    store = root.child(STORE_FOLDER)
    if isinstance(store, LocalFolder) and store.path.is_dir():
        with in_use(store.path, alone=True) as alone:
            yield alone
    else:
        yield True


def garbage(root: Folder, *, older_than_days: float | None, running: bool = False) -> list[Garbage]:
    """Files that can be deleted without loss to a finished run or, with `running`, to one in progress.

    - Temporary files of killed processes: a local writer holds a lock on them, which ends with its process.
    - Shards that are damaged or foreign: they are never used.
    - Shards all of whose rows are in other shards too.
    - Shards of abandoned or deleted runs, if written more than `older_than_days` ago, since an unfinished run
      would resume from younger ones. None keeps them all: a shared store does not know the runs of other
      machines, which have copies of their own.
    - Refits that no run's manifest names, by the same age.

    Shards of a run under `root` are kept, and so is anything younger than an hour. While a run is in progress
    (see `btcbt.files.in_use`) undamaged shards and refits are kept, as it may have planned to use any of them.

    Raises
    ------
    StoreError
        If there is no store.
    """
    now = time.time()
    local = root.path if isinstance(root, LocalFolder) else None
    held = set() if local is None else {path.name for path in local.glob("*/*/forecasts/*/*.parquet")}
    found = [] if local is None else list(_left_behind(local, now))
    for folder, key in _key_folders(root):
        files = folder.files()
        contents = _read(folder, key, _meaning(folder, key, files), files)
        if local is None:  # whether its writer is alive is unknown
            torn = [entry for entry in files if TEMPORARY.fullmatch(entry.name)]
            found += [
                _garbage(folder, entry, "left by a killed process") for entry in torn if _old(entry, now, DAY_SECONDS)
            ]
        found += [_garbage(folder, entry, why) for entry, why in contents.damaged.items() if _old(entry, now)]
        kept = dict(contents.rows)
        for entry in () if running else sorted(contents.rows, key=lambda entry: len(contents.rows[entry])):
            if entry.name in held or not _old(entry, now):
                continue
            others = set().union(*(rows for other, rows in kept.items() if other is not entry))
            if kept[entry] <= others:
                why = "all of its forecasts are in other files"
            elif older_than_days is not None and _old(entry, now, max(GRACE_SECONDS, older_than_days * DAY_SECONDS)):
                why = f"no run uses it, and it is older than {older_than_days:g} days"
            else:
                continue
            del kept[entry]
            found.append(_garbage(folder, entry, why))
    if local is not None and older_than_days is not None and not running:
        found += _unused_refits(local, now, older_than_days)
    return found


def delete(found: list[Garbage]) -> int:
    """Delete what `garbage` found and return the bytes freed; files already deleted are ignored.

    Raises
    ------
    StoreError
        If something cannot be deleted.
    """
    for item in found:
        item.folder.delete(item.name)
    return sum(item.size for item in found)


def _key_folders(root: Folder) -> list[tuple[Folder, str]]:
    store = root.child(STORE_FOLDER)
    keys = [name for name in store.folders() if _KEY.fullmatch(name)]
    if not keys and (not isinstance(store, LocalFolder) or not store.path.is_dir()):
        raise StoreError(f"{store}: no store of forecasts there; give the experiments' store.root")
    return [(store.child(key), key) for key in keys]


def _meaning(folder: Folder, key: str, files: list[Entry]) -> Mapping[str, Any]:
    """The note of what a key stands for, if undamaged: its digest is the key."""
    if not any(entry.name == KEY_FILE and entry.size <= MAX_NOTE_BYTES for entry in files):
        return {}
    try:
        meaning = json.loads(folder.read(KEY_FILE))
        whole = isinstance(meaning, dict) and tree_digest(meaning) == key
    except (ValueError, RecursionError):
        return {}
    return meaning if whole else {}


def _read(folder: Folder, key: str, meaning: Mapping[str, Any], files: list[Entry]) -> _Contents:
    """Verify every file of a key's folder, and list the forecasts in each."""
    contents = _Contents()
    shape = (meaning["n_paths"], meaning["horizon"], len(CHANNELS)) if meaning else None
    for entry in files:
        if not entry.name.endswith(".parquet"):
            continue
        where = f"{folder}/{entry.name}"  # a URL is no path
        shard = shard_named(Path(where))
        if shard is None:
            contents.damaged[entry] = f"{where} is foreign: it is not named like a shard of forecasts"
            continue
        try:
            content = folder.read(entry.name)
        except StoreError as error:
            contents.unreadable[entry] = str(error)
            continue
        try:
            contents.rows[entry] = shard_rows(shard, content, key, shape, where)
        except StoreError as error:
            contents.damaged[entry] = str(error)
    return contents


def _left_behind(root: Path, now: float) -> Iterator[Garbage]:
    for pattern in (".*.tmp", f"{STORE_FOLDER}/*/.*.tmp", "*/.*.tmp"):
        for path in sorted(root.glob(pattern)):
            if not TEMPORARY.fullmatch(path.name):
                continue
            try:
                stat = path.lstat()
            except FileNotFoundError:
                continue
            folder, entry = LocalFolder(path.parent), Entry(path.name, stat.st_size, stat.st_mtime)
            if path.is_dir() and not path.is_symlink():
                # Folders have no lock, so only those unchanged for a day count.
                gone = _old(entry, now, DAY_SECONDS)
            else:
                gone = _old(entry, now) and not is_being_written(path)
            if gone:
                yield _garbage(folder, entry, "left by a killed process")


def _unused_refits(root: Path, now: float, older_than_days: float) -> Iterator[Garbage]:
    """Checkpoints fitted inside walk-forwards that no finished run uses."""
    used: set[str] = set()
    for manifest in root.glob("*/*/manifest.json"):
        try:
            forecasters = json.loads(read_file(manifest, MAX_JSON_BYTES))["forecasters"].values()
            used |= {refit["key"] for entry in forecasters for refit in entry.get("refits", ())}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # a run that cannot be read may use any of them
    folder = LocalFolder(root / STORE_FOLDER / REFITS_FOLDER)
    for key in folder.folders():
        entry = Entry(key, 0, (folder.path / key).lstat().st_mtime)
        if (
            _KEY.fullmatch(key)
            and key not in used
            and _old(entry, now, max(GRACE_SECONDS, older_than_days * DAY_SECONDS))
        ):
            yield _garbage(folder, entry, f"no run uses this refit, and it is older than {older_than_days:g} days")


def _old(entry: Entry, now: float, seconds: float = GRACE_SECONDS) -> bool:
    return now - entry.modified > seconds


def _garbage(folder: Folder, entry: Entry, why: str) -> Garbage:
    size = entry.size
    if isinstance(folder, LocalFolder):
        path = folder.path / entry.name
        files = path.rglob("*") if path.is_dir() else [path]
        # Deleting a shard that a run links to as well frees nothing.
        size = sum(stat.st_size for stat in (one.lstat() for one in files if one.is_file()) if stat.st_nlink == 1)
    return Garbage(folder, entry.name, why, size)
