"""Provenance: versions of this package and of those it depends on, and the git commit."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "arch",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "scipy",
    "torch",
    "vectorbt",
)


def code_version() -> str:
    """Version of this package, ``unknown`` if it is not installed."""
    return _version("btcbt")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the numbers of a run."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def package_sha256() -> str:
    """SHA-256 (hex) of the Python files of this package: what ran, whatever the commit says."""
    package, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def git_commit() -> str | None:
    """Commit of the checkout that this package is imported from, ``-dirty`` appended if files were changed.

    None without git, outside of a checkout, and for an installed package.
    """
    package = Path(__file__).resolve().parents[1]
    if _git(package, "ls-files", "--error-unmatch", str(package / "records.py")) is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(package, "status", "--porcelain", "--untracked-files=no")
    return commit + ("-dirty" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
