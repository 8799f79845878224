"""Verdicts are kept under what they are about, and stamped into the manifest of its run."""

from __future__ import annotations

import json

import pytest

from btcbt.errors import StoreError
from btcbt.storage.verdicts import keep_verdict, stamp, stored_verdict

VERDICT = {
    "verdict": "clean",
    "findings": 0,
    "stages": [],
    "origins": 18,
    "eligible": 2204,
    "seed": 0,
    "finished": "2024-01-01T00:00:00+00:00",
    "commit": None,
    "files": {},
    "decisions": [],
    "listed": [],
    "notes": ["something"],
}
STAMP = {key: value for key, value in VERDICT.items() if key not in ("listed", "notes", "files", "decisions")}
STAMP |= {"stale": None}


def test_a_verdict_is_kept_for_runs_to_come(tmp_path):
    assert stored_verdict(tmp_path, "abc") is None
    assert keep_verdict(tmp_path, "walk", "abc", VERDICT) is None
    kept = stored_verdict(tmp_path, "abc")
    assert kept == VERDICT
    assert stamp(kept, None) == STAMP
    assert stamp(kept, "helper.py has changed")["stale"] == "helper.py has changed"
    assert stored_verdict(tmp_path, "def") is None
    assert not (tmp_path / "walk").exists()


def test_a_run_that_is_there_is_stamped_and_keeps_its_manifest(tmp_path):
    folder = tmp_path / "walk" / "abc"
    folder.mkdir(parents=True)
    manifest = {"name": "walk", "audit": None, "seed": 7}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert keep_verdict(tmp_path, "walk", "abc", VERDICT) == folder
    assert json.loads((folder / "manifest.json").read_text()) == {**manifest, "audit": STAMP}
    assert json.loads((folder / "audit.json").read_text()) == VERDICT
    assert sorted(file.name for file in folder.iterdir()) == ["audit.json", "manifest.json"]


def test_the_newest_verdict_counts(tmp_path):
    keep_verdict(tmp_path, "walk", "abc", VERDICT)
    keep_verdict(tmp_path, "walk", "abc", {**VERDICT, "verdict": "looks ahead", "findings": 3})
    assert stored_verdict(tmp_path, "abc")["verdict"] == "looks ahead"


def test_a_damaged_verdict_is_none(tmp_path):
    keep_verdict(tmp_path, "walk", "abc", VERDICT)
    (file,) = tmp_path.rglob("abc.json")
    for content in ("{", "[]", "{}"):
        file.write_text(content)
        assert stored_verdict(tmp_path, "abc") is None


def test_a_damaged_manifest_is_an_error_in_one_line(tmp_path):
    folder = tmp_path / "walk" / "abc"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="audit again"):
        keep_verdict(tmp_path, "walk", "abc", VERDICT)
