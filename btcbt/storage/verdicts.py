"""Audit verdicts on disk, and in the manifest of the audited run.

A verdict is stored under the digest of what was audited, which is the name of the run's folder: configuration,
candles, forecasters (weights included), sources of strategies and version of the code. A later run reads it from
there; the manifest of an earlier run is updated when the audit ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from btcbt.config import STORE_FOLDER
from btcbt.errors import StoreError
from btcbt.files import read_file, write_whole

AUDIT_FILE = "audit.json"
MAX_JSON_BYTES = 1 << 28
"""Most bytes of each JSON file of a run; an audit's decisions and a run's digests take some megabytes."""
_STAMPED = ("verdict", "findings", "stages", "origins", "eligible", "seed", "finished", "commit")


def keep_verdict(
    root: Path, name: str, digest: str, verdict: Mapping[str, Any], stale: str | None = None
) -> Path | None:
    """Store a verdict for later runs, and add it to the manifest of the existing one.

    Parameters
    ----------
    root : Path
        Folder of the runs.
    name, digest : str
        Name of the experiment, and digest of its run.
    verdict : mapping
        JSON values.
    stale : str, optional
        Why it is not about the existing run, if it is not.

    Returns
    -------
    Path or None
        Folder of the run whose manifest was updated, now with an ``audit.json``; None if there is no run yet.

    Raises
    ------
    StoreError
        If a file cannot be written.
    """
    kept, folder = _kept(root, digest), root / name / digest
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write(kept, verdict)
        manifest_file = folder / "manifest.json"
        if not manifest_file.is_file():
            return None
        manifest = json.loads(read_file(manifest_file, MAX_JSON_BYTES))
        _write(folder / AUDIT_FILE, verdict)
        _write(manifest_file, {**manifest, "audit": stamp(verdict, stale)})
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder}: the verdict cannot be stored ({error}); audit again") from None
    return folder


def stored_verdict(root: Path, digest: str) -> dict[str, Any] | None:
    """The newest verdict for a run digest; None if not audited, or if it cannot be read."""
    try:
        verdict = json.loads(read_file(_kept(root, digest), MAX_JSON_BYTES))
        stamp(verdict, None)
        return {"files": dict(verdict["files"]), "decisions": list(verdict["decisions"]), **verdict}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stamp(verdict: Mapping[str, Any], stale: str | None) -> dict[str, Any]:
    """A verdict as it goes into a manifest; ``stale`` says why it is not about the run, None if it is."""
    return {**{key: verdict[key] for key in _STAMPED}, "stale": stale}


def _kept(root: Path, digest: str) -> Path:
    return root / STORE_FOLDER / "audits" / f"{digest}.json"


def _write(file: Path, value: object) -> None:
    write_whole(file, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
