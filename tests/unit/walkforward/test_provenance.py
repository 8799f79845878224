"""Which code and packages a run was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from btcbt.walkforward import provenance


def test_the_commit_is_that_of_the_checkout() -> None:
    root = Path(provenance.__file__).parents[2]
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    commit = provenance.git_commit()
    if done.returncode:
        assert commit is None
    else:
        assert commit is not None
        assert len(commit.removesuffix("-dirty")) == 40


def test_no_git_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() is None


def test_versions_of_unknown_packages_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    versions = provenance.package_versions()
    assert versions["numpy"] == np.__version__
    assert versions["no-such-package"] == "unknown"
