"""What the store of forecasts holds, what of it is damaged, and what of it may go.

Nothing here is needed for a run to be right: damaged files are found and computed again by themselves, and a killed
process leaves nothing that a later one could take for a forecast. This is for disks that fill up.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from btcbt.config import STORE_FOLDER
from btcbt.errors import StoreError
from btcbt.records import CHANNELS
from btcbt.store import ForecastStore, Shard, is_being_written

KEY_FILE = "key.json"
GRACE_SECONDS = 3600.0
"""Whatever is younger is left alone: a run may be about to use it."""
FOLDER_GRACE_SECONDS = 24 * 3600.0
"""Folders cannot be locked as files can, so only such as nobody has touched for a day count as left behind."""
_KEY = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


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
    damaged : tuple of (Path, str)
        Files that cannot be used, and why.
    """

    key: str
    meaning: Mapping[str, Any]
    origins: int
    shards: int
    size: int
    first: int | None
    last: int | None
    damaged: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file or folder that may go, why, and how many bytes that frees."""

    path: Path
    why: str
    size: int


@dataclass(slots=True)
class _Contents:
    rows: dict[Shard, set[tuple[int, bytes]]] = field(default_factory=dict)
    damaged: list[tuple[Path, str]] = field(default_factory=list)


def holdings(root: Path) -> list[Holding]:
    """Read every file of the store under `root` (``store.root`` of an experiment), and verify its checksum.

    Raises
    ------
    StoreError
        If there is no store.
    """
    found = []
    for folder in _key_folders(root):
        contents, meaning = _read(folder), _meaning(folder)
        origins = {origin for rows in contents.rows.values() for origin, _ in rows}
        files = [path for path in folder.glob("*.parquet") if path.is_file()]
        damaged = list(contents.damaged)
        if not meaning and (folder / KEY_FILE).exists():
            damaged.append((folder / KEY_FILE, "it does not describe the key that its folder is named by"))
        found.append(
            Holding(
                key=folder.name,
                meaning=meaning,
                origins=len(origins),
                shards=len(files),
                size=sum(path.stat().st_size for path in files),
                first=min(origins, default=None),
                last=max(origins, default=None),
                damaged=tuple(damaged),
            )
        )
    return found


def garbage(root: Path, *, older_than_days: float) -> list[Garbage]:
    """What may go without loss to any run that is finished, or to one that runs now.

    - Temporary files of killed processes: whoever writes one holds a lock on it, which ends with the process.
    - Shards that are damaged or foreign: they are never used.
    - Shards all of whose rows other shards hold too.
    - Shards that no run holds, of runs that were given up or deleted: those written more than
      `older_than_days` ago, for an unfinished run would go on from them.

    Shards that a run under `root` holds stay, and so does what is younger than an hour.

    Raises
    ------
    StoreError
        If there is no store.
    """
    now = time.time()
    held = {path.name for path in root.glob("*/*/forecasts/*/*.parquet")}
    found = [_garbage(path, "left by a killed process") for path in _left_behind(root, now)]
    for folder in _key_folders(root):
        contents = _read(folder)
        found += [
            _garbage(path, why) for path, why in contents.damaged if path.name.endswith(".parquet") and _old(path, now)
        ]
        kept = dict(contents.rows)
        for shard in sorted(contents.rows, key=lambda shard: len(contents.rows[shard])):
            if shard.path.name in held or not _old(shard.path, now):
                continue
            others = set().union(*(rows for other, rows in kept.items() if other is not shard))
            if kept[shard] <= others:
                why = "other files hold all of its forecasts"
            elif _old(shard.path, now, max(GRACE_SECONDS, older_than_days * 86_400.0)):
                why = f"no run holds it, and it is older than {older_than_days:g} days"
            else:
                continue
            del kept[shard]
            found.append(_garbage(shard.path, why))
    return found


def delete(found: list[Garbage]) -> int:
    """Delete what `garbage` found; bytes freed. What is gone already is no error.

    Raises
    ------
    StoreError
        If something cannot be deleted.
    """
    freed = 0
    for item in found:
        try:
            if item.path.is_dir():
                shutil.rmtree(item.path)
            else:
                item.path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{item.path}: cannot be deleted ({error.strerror}); mend its rights") from None
        freed += item.size
    return freed


def _key_folders(root: Path) -> list[Path]:
    store = root / STORE_FOLDER
    if not store.is_dir():
        raise StoreError(f"{store}: no store of forecasts there; give the folder that experiments name as store.root")
    return sorted(path for path in store.iterdir() if path.is_dir() and _KEY.fullmatch(path.name))


def _meaning(folder: Path) -> Mapping[str, Any]:
    """The note of what a key stands for, if it is whole: the key is its digest."""
    try:
        meaning = json.loads((folder / KEY_FILE).read_bytes())
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(meaning, dict) and hashlib.sha256(text.encode()).hexdigest() == folder.name
    return meaning if whole else {}


def _read(folder: Path) -> _Contents:
    """Verify every file of a key's folder, and note which forecasts each holds."""
    contents, meaning = _Contents(), _meaning(folder)
    shape = (meaning["n_paths"], meaning["horizon"], len(CHANNELS)) if meaning else None
    store = ForecastStore(folder, folder.name, n_paths=shape[0] if shape else None, horizon=shape[1] if shape else None)
    shards = store.shards()
    named = {shard.path for shard in shards}
    for path in sorted(folder.glob("*.parquet")):
        if path not in named:
            contents.damaged.append((path, f"{path} is foreign: it is not named like a shard of forecasts"))
    for shard in shards:
        try:
            contents.rows[shard] = store.rows(shard)
        except StoreError as error:
            contents.damaged.append((shard.path, str(error)))
    return contents


def _left_behind(root: Path, now: float) -> Iterator[Path]:
    for pattern in (f"{STORE_FOLDER}/*/.*.tmp", "*/.*.tmp"):
        for path in sorted(root.glob(pattern)):
            if not _TEMPORARY.fullmatch(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                if _old(path, now, FOLDER_GRACE_SECONDS):
                    yield path
            elif _old(path, now) and not is_being_written(path):
                yield path


def _old(path: Path, now: float, seconds: float = GRACE_SECONDS) -> bool:
    try:
        return now - path.lstat().st_mtime > seconds
    except FileNotFoundError:
        return False


def _garbage(path: Path, why: str) -> Garbage:
    files = path.rglob("*") if path.is_dir() else [path]
    # A shard that a run holds as well frees nothing here.
    size = sum(stat.st_size for stat in (one.lstat() for one in files if one.is_file()) if stat.st_nlink == 1)
    return Garbage(path, why, size)
