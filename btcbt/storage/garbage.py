"""What the store of forecasts holds, what of it is damaged, and what of it may go.

Nothing here is needed for a run to be right: damaged files are found and computed again by themselves, and a killed
process leaves nothing that a later one could take for a forecast. This is for disks that fill up.
"""

from __future__ import annotations

import hashlib
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
from btcbt.files import TEMPORARY, in_use, is_being_written
from btcbt.records import CHANNELS
from btcbt.storage.forecasts import KEY_FILE, shard_named, shard_rows
from btcbt.storage.remote import Entry, Folder, LocalFolder

GRACE_SECONDS = 3600.0
"""Whatever is younger is left alone: a run may be about to use it."""
DAY_SECONDS = 24 * 3600.0
MAX_NOTE_BYTES = 1 << 20
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Holding:
    """The forecasts of one key.

    Attributes
    ----------
    key : str
        The key.
    meaning : mapping
        What it stands for; empty if the note of it is lost.
    origins, shards, size : int
        Distinct origins in files that are whole, number of files, bytes.
    first, last : int or None
        First and last origin, ms UTC.
    damaged : tuple of str
        Files that cannot be used, and why.
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
    """A file or folder that may go, the folder that it lies in, why, and how many bytes that frees."""

    folder: Folder
    name: str
    why: str
    size: int


@dataclass(slots=True)
class _Contents:
    """The files of a key's folder: the whole ones with their rows, and the others with what is wrong."""

    rows: dict[Entry, set[tuple[int, bytes]]] = field(default_factory=dict)
    damaged: dict[Entry, str] = field(default_factory=dict)


def holdings(root: Folder) -> list[Holding]:
    """Read every file of the store under `root` (``store.root`` of an experiment), and verify its checksum.

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
        damaged = list(contents.damaged.values())
        if not meaning and any(entry.name == KEY_FILE for entry in files):
            damaged.append(f"{folder}/{KEY_FILE} does not describe the key that its folder is named by")
        found.append(
            Holding(
                key=key,
                meaning=meaning,
                origins=len(origins),
                shards=len(contents.rows) + len(contents.damaged),
                size=sum(entry.size for entry in (*contents.rows, *contents.damaged)),
                first=min(origins, default=None),
                last=max(origins, default=None),
                damaged=tuple(damaged),
            )
        )
    return found


@contextmanager
def clearing(root: Folder) -> Iterator[bool]:
    """Keep runs from beginning under `root` while it is cleared up; the block is told whether none is under way.

    At a URL nobody can be asked.
    """
    store = root.child(STORE_FOLDER)
    if isinstance(store, LocalFolder) and store.path.is_dir():
        with in_use(store.path, alone=True) as alone:
            yield alone
    else:
        yield True


def garbage(root: Folder, *, older_than_days: float | None, running: bool = False) -> list[Garbage]:
    """What may go without loss to any run that is finished; with `running`, to one that runs now, either.

    - Temporary files of killed processes: whoever writes one here holds a lock on it, which ends with the process.
    - Shards that are damaged or foreign: they are never used.
    - Shards all of whose rows other shards hold too.
    - Shards that no run holds, of runs that were given up or deleted: those written more than
      `older_than_days` ago, for an unfinished run would go on from them. None keeps them all: a store that
      machines share knows nothing of their runs, which hold copies of their own.

    - Refits that no run's manifest names, by the same age.

    Shards that a run under `root` holds stay, and so does what is younger than an hour. While one runs (see
    `btcbt.files.in_use`) whole shards and refits stay, for it may have planned with any of them.

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
        if local is None:  # nobody can be asked whether he still writes
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
                why = "other files hold all of its forecasts"
            elif older_than_days is not None and _old(entry, now, max(GRACE_SECONDS, older_than_days * DAY_SECONDS)):
                why = f"no run holds it, and it is older than {older_than_days:g} days"
            else:
                continue
            del kept[entry]
            found.append(_garbage(folder, entry, why))
    if local is not None and older_than_days is not None and not running:
        found += _unused_refits(local, now, older_than_days)
    return found


def delete(found: list[Garbage]) -> int:
    """Delete what `garbage` found; bytes freed. What is gone already is no error.

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
        raise StoreError(f"{store}: no store of forecasts there; give what experiments name as store.root")
    return [(store.child(key), key) for key in keys]


def _meaning(folder: Folder, key: str, files: list[Entry]) -> Mapping[str, Any]:
    """The note of what a key stands for, if it is whole: the key is its digest."""
    if not any(entry.name == KEY_FILE and entry.size <= MAX_NOTE_BYTES for entry in files):
        return {}
    try:
        meaning = json.loads(folder.read(KEY_FILE))
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return {}
    whole = isinstance(meaning, dict) and hashlib.sha256(text.encode()).hexdigest() == key
    return meaning if whole else {}


def _read(folder: Folder, key: str, meaning: Mapping[str, Any], files: list[Entry]) -> _Contents:
    """Verify every file of a key's folder, and note which forecasts each holds."""
    contents = _Contents()
    shape = (meaning["n_paths"], meaning["horizon"], len(CHANNELS)) if meaning else None
    for entry in files:
        if not entry.name.endswith(".parquet"):
            continue
        where, shard = f"{folder}/{entry.name}", shard_named(Path(entry.name))
        if shard is None:
            contents.damaged[entry] = f"{where} is foreign: it is not named like a shard of forecasts"
            continue
        try:
            contents.rows[entry] = shard_rows(where, folder.read(entry.name), shard.checksum, key, shape)
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
                # Folders cannot be locked as files can, so only such as nobody has touched for a day are left behind.
                gone = _old(entry, now, DAY_SECONDS)
            else:
                gone = _old(entry, now) and not is_being_written(path)
            if gone:
                yield _garbage(folder, entry, "left by a killed process")


def _unused_refits(root: Path, now: float, older_than_days: float) -> Iterator[Garbage]:
    """Checkpoints that were fitted inside walk-forwards, and are in none that is finished."""
    used: set[str] = set()
    for manifest in root.glob("*/*/manifest.json"):
        try:
            forecasters = json.loads(manifest.read_bytes())["forecasters"].values()
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
        # A shard that a run holds as well frees nothing here.
        size = sum(stat.st_size for stat in (one.lstat() for one in files if one.is_file()) if stat.st_nlink == 1)
    return Garbage(folder, entry.name, why, size)
