"""The verdict of an audit on disk, and stamped into the manifest of the run that it is about.

A verdict is kept under the digest of what was audited, which is the name of the run's folder: configuration,
candles, forecasters (weights included), sources of strategies and version of the code. A run that is made
after the audit finds it there; one that was made before is stamped when the audit ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from btcbt.config import STORE_FOLDER
from btcbt.errors import StoreError
from btcbt.files import write_whole

AUDIT_FILE = "audit.json"
_STAMPED = ("verdict", "findings", "stages", "origins", "eligible", "seed", "finished", "commit")


def keep_verdict(
    root: Path, name: str, digest: str, verdict: Mapping[str, Any], stale: str | None = None
) -> Path | None:
    """Keep a verdict for runs to come, and stamp the run that is there.

    Parameters
    ----------
    root : Path
        Where runs are kept.
    name, digest : str
        Of the experiment, and of the run that it makes.
    verdict : mapping
        JSON values.
    stale : str, optional
        Why it is not about the run that is there, if it is not.

    Returns
    -------
    Path or None
        The folder of the stamped run, which now has an ``audit.json``; None if there is no such run yet.

    Raises
    ------
    StoreError
        If the disk refuses.
    """
    kept, folder = _kept(root, digest), root / name / digest
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write(kept, verdict)
        manifest_file = folder / "manifest.json"
        if not manifest_file.is_file():
            return None
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        _write(folder / AUDIT_FILE, verdict)
        _write(manifest_file, {**manifest, "audit": stamp(verdict, stale)})
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder}: the verdict cannot be kept ({error}); audit again") from None
    return folder


def stored_verdict(root: Path, digest: str) -> dict[str, Any] | None:
    """What the newest audit of the experiment with this run digest said.

    None if it was never audited, or if what it left cannot be read.
    """
    try:
        verdict = json.loads(_kept(root, digest).read_text(encoding="utf-8"))
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
