"""Registered studies on disk: ``registrations/<name>/<digest>.json`` beside the runs, written once.

A file is plain JSON, ``{"checksum": ..., "registration": {...}}``. Its name is the digest of the study, and a checksum
covers all of it, so that one that was edited later is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from btcbt.config import REGISTRATIONS_FOLDER
from btcbt.errors import StoreError
from btcbt.files import acquire_lock, open_regular, read_file, write_whole
from btcbt.storage.verdicts import MAX_JSON_BYTES
from btcbt.trees import tree_digest

DIGEST_LENGTH = 16
_LATEST = 2**53
"""Bound of times, ms UTC."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A study as it was frozen.

    Attributes
    ----------
    digest : str
        Of `study`; see `study_digest`.
    registered : str
        When, ISO 8601 in UTC.
    study : mapping
        Configuration, hypotheses, weights and code, as JSON values.
    candles : mapping
        The candles that existed then: ``first`` and ``end`` in ms UTC, and ``stretch``, their digest.
    commit : str or None
        Git commit of the code; for readers.
    """

    digest: str
    registered: str
    study: Mapping[str, Any]
    candles: Mapping[str, Any]
    commit: str | None


def study_digest(study: Mapping[str, Any]) -> str:
    """Digest (16 hex digits) of a study, given as JSON values."""
    return tree_digest(study)[:DIGEST_LENGTH]


def write_registration(root: Path, name: str, registration: Registration) -> Registration:
    """Write a registration, or read that of the same study, which is never overwritten.

    Parameters
    ----------
    root : Path
        Folder of the runs.
    name : str
        Of the study.
    registration : Registration

    Returns
    -------
    Registration
        The one on disk: an earlier one, if the same study was registered before.

    Raises
    ------
    StoreError
        If the folder cannot be written, or the existing file is damaged.
    """
    folder = root / REGISTRATIONS_FOLDER / name
    file = folder / f"{registration.digest}.json"
    tree = asdict(registration)
    content = {"checksum": tree_digest(tree), "registration": tree}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_regular(folder / ".lock", "ab+") as lock:
            acquire_lock(lock)
            if file.exists():
                return _read(file)
            write_whole(file, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise StoreError(
            f"{folder}: the registration cannot be written ({error.strerror}); make it writable, or choose another "
            "store.root"
        ) from None
    return registration


def read_registrations(root: Path, name: str) -> list[Registration]:
    """The registrations of a name, oldest first.

    Raises
    ------
    StoreError
        If one was changed after it was written, or cannot be read.
    """
    found = [_read(file) for file in sorted((root / REGISTRATIONS_FOLDER / name).glob("*.json"))]
    return sorted(found, key=lambda one: (one.registered, one.digest))


def _read(file: Path) -> Registration:
    remedy = "restore it from a copy, or delete it and register the study again"
    try:
        content = json.loads(read_file(file, MAX_JSON_BYTES))
        tree = content["registration"]
        whole = set(tree) == {one.name for one in fields(Registration)} and content["checksum"] == tree_digest(tree)
        if whole and tree["digest"] == study_digest(tree["study"]) == file.stem and _well_typed(tree):
            return Registration(**tree)
    except OSError as error:
        raise StoreError(f"{file}: the registration cannot be read ({error.strerror}); fix its permissions") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise StoreError(f"{file}: not a registration; {remedy}") from None
    raise StoreError(f"{file}: the registration was changed after it was written (checksum); {remedy}")


def _well_typed(tree: Mapping[str, Any]) -> bool:
    """Whether what a right checksum covers is a time, a study, and a stretch of candles; see `Registration`."""
    first, end, stretch = (tree["candles"][key] for key in ("first", "end", "stretch"))
    return (
        datetime.fromisoformat(tree["registered"]).tzinfo is not None
        and isinstance(tree["study"], dict)
        and isinstance(stretch, str)
        and isinstance(tree["commit"], str | None)
        and type(first) is type(end) is int
        and -_LATEST < first <= end < _LATEST
    )
