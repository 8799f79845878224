"""Leaks in positions, caches, files and the environment are found, and named for what they are."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import btcbt
from btcbt.audit import Stages, audit_experiment
from btcbt.audit.stamp import keep_report
from btcbt.candles import make_candles, write_candles
from btcbt.config import RunConfig
from btcbt.records import Forecast, Window
from btcbt.strategies import Strategy
from btcbt.walkforward.decisions import decide_all
from tests.contract import hidden_leaks

HOUR_MS = 3_600_000
START_MS = 1_546_300_800_000
IN_POSITIONS = (
    "StopAtTheNextLow",
    "TargetAtTheNextHigh",
    "CoversInTime",
    "LeavesOldPositionsInTime",
    "EntersFlatInTime",
    "LooksAheadOnceADay",
)


@pytest.fixture(scope="module")
def candle_file(tmp_path_factory):
    """Forty days of simulated hours."""
    rng = np.random.default_rng(5)
    close = 4000 * np.exp(np.cumsum(rng.standard_t(4, 960) * 0.006))
    opening = np.concatenate([[4000], close[:-1]])
    high = np.maximum(opening, close) * np.exp(0.004 * rng.exponential(size=960))
    low = np.minimum(opening, close) * np.exp(-0.004 * rng.exponential(size=960))
    values = np.stack([opening, high, low, close, np.ones(960), close], axis=1)
    file = tmp_path_factory.mktemp("candles") / "simulated.parquet"
    times = START_MS + HOUR_MS * np.arange(960, dtype=np.int64)
    write_candles(make_candles(times, values, interval="1h"), file)
    return file


def experiment(file, root, **strategies):
    tree = {
        "name": "hidden",
        "candles": {"path": str(file)},
        "windows": {"context": 48, "horizon": 6, "start": "2019-01-10", "end": "2019-02-05"},
        "forecasters": {"random_walk": {"kind": "random_walk", "n_paths": 4}},
        "strategies": strategies,
        "portfolio": {"max_short": 1.0},
        "store": {"root": str(root)},
    }
    return RunConfig.model_validate_json(json.dumps(tree))


def audit(config, kinds=(), *, sample=4, fresh_process=False):
    stages = Stages(strategies=partial(hidden_leaks.rules, kinds)) if kinds else Stages()
    return audit_experiment(config, stages=stages, sample=sample, fresh_process=fresh_process)


@pytest.fixture(scope="module")
def positions(candle_file, tmp_path_factory):
    """One audit of every rule that looks ahead in some positions alone, with an honest one among them."""
    config = experiment(candle_file, tmp_path_factory.mktemp("runs"))
    return audit(config, (*IN_POSITIONS, "HonestStop"), sample=6)


@pytest.mark.parametrize("kind", IN_POSITIONS)
def test_a_rule_that_looks_ahead_in_some_positions_alone_is_caught(kind, positions):
    found = [one for one in positions.findings if one.component == kind]
    assert {one.stage for one in found} == {"strategy"}
    assert {one.kind for one in found} == {"looks ahead"}


def test_an_honest_stop_is_not_accused(positions):
    assert positions.verdict == "looks ahead"
    assert {one.component for one in positions.findings} == set(IN_POSITIONS)


def test_caches_at_home_and_in_scratch_folders_are_not_found_by_a_fresh_process(candle_file, tmp_path, monkeypatch):
    for variable in ("HOME", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    report = audit(experiment(candle_file, tmp_path / "runs"), ("CachesAtHome", "CachesInScratch"), fresh_process=True)
    found = {(one.component, one.objects) for one in report.findings}
    assert found == {("CachesAtHome", "process"), ("CachesInScratch", "process")}
    assert report.verdict == "looks ahead"
    assert any("btcbt-test-level.pkl" in file for file in report.files)


SUFFIXES = ("json", "txt", "pkl", "joblib", "pt", "safetensors")


@pytest.fixture(scope="module")
def files(candle_file, tmp_path_factory):
    """One audit of strategies that read a level from a file, declared or not, or from the environment."""
    root = tmp_path_factory.mktemp("files")
    uses = {}
    for name, kind in {f"reads_{one}": "ReadsLevel" for one in SUFFIXES}.items():
        uses[name] = (kind, root / f"level.{name.removeprefix('reads_')}")
    uses |= {"before": ("DeclaresLevel", root / "before.json"), "during": ("DeclaresTestLevel", root / "during.json")}
    strategies = {"environment": {"use": "tests.contract.hidden_leaks:ReadsEnvironment"}}
    for name, (kind, file) in uses.items():
        file.write_text("4000.0")
        strategies[name] = {"use": f"tests.contract.hidden_leaks:{kind}", "params": {"path": str(file)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BTCBT_TEST_LEVEL", "1.0")
        return audit(experiment(candle_file, root, **strategies), sample=2, fresh_process=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_whose_contents_are_not_declared_is_named_as_undeclared(suffix, files):
    assert f"reads_{suffix}@random_walk" in files.undeclared
    assert any(file.endswith(f"level.{suffix}") for file in files.files)


def test_undeclared_files_alone_are_never_called_clean(files):
    assert replace(files, findings=()).verdict == "undeclared"
    assert replace(files, findings=(), undeclared=()).verdict == "clean"


def test_declared_files_are_clean_and_their_ranges_are_held_against_the_origins(files):
    assert {name.partition("@")[0] for name in files.undeclared} == {f"reads_{one}" for one in SUFFIXES}
    assert any("'during@random_walk'" in note and "seen" in note for note in files.notes)
    assert not any("'before@random_walk'" in note for note in files.notes)


def test_a_level_from_the_environment_is_not_found_by_a_fresh_process(files):
    assert {(one.component, one.objects) for one in files.findings} == {("environment", "process")}


def test_chance_and_state_are_named_as_such_and_not_as_look_ahead(candle_file, tmp_path):
    config = experiment(candle_file, tmp_path)
    chance = audit(config, ("TossesACoin", "HonestStop"), sample=2)
    assert chance.verdict == "not reproducible"
    assert {(one.component, one.objects) for one in chance.findings} == {("TossesACoin", "repeated")}
    state = audit(config, ("CountsInItself", "HonestStop"), sample=2)
    assert state.verdict == "clean"
    assert [note for note in state.notes if "keeps state" in note and "CountsInItself" in note]
    assert {one["trader"] for one in state.decisions} == {"HonestStop"}


def test_a_part_that_cannot_be_built_on_a_changed_history_is_not_judged(candle_file, tmp_path):
    report = audit(experiment(candle_file, tmp_path), ("RefusesJumps",), sample=2)
    assert not report.findings
    assert report.verdict == "not judged"
    assert any("what a price" in note for note in report.notes)


def test_a_strategy_is_given_arrays_that_lead_nowhere():
    class Looks(Strategy):
        def decide(self, forecast, holding):
            arrays = (forecast.window.values, forecast.window.open_time, forecast.paths)
            assert all(one.base is None for one in arrays)
            assert not any(one.flags.writeable for one in arrays)
            return 1.0

    history = np.arange(60.0 * 6).reshape(60, 6)
    window = Window(START_MS + HOUR_MS * np.arange(20), history[:20], HOUR_MS)
    paths = np.zeros((5, 3, 4, 6), dtype=np.float32)
    assert decide_all(Looks(), [Forecast(window, paths[2])]).tolist() == [1.0]


HELPER = "def level(last_close):\n    return 1.0\n"
MINE = """\
import importlib

from btcbt.strategies import Strategy


class Mine(Strategy):
    uses_forecast = False

    def decide(self, forecast, holding):
        return importlib.import_module("stamped_" + "helper").level(forecast.last_close)
"""


def test_a_stamp_does_not_outlive_a_change_of_a_helper_module(candle_file, tmp_path, monkeypatch):
    """A module whose name is put together as `decide` runs is in no digest, but among the files of the audit."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stamped_helper.py").write_text(HELPER)
    (tmp_path / "stamped_mine.py").write_text(MINE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = experiment(candle_file, tmp_path / "runs", mine={"use": "stamped_mine:Mine"})
    report = audit(config, sample=2, fresh_process=True)
    assert report.verdict == "clean"
    keep_report(report, config)
    assert btcbt.run(config).manifest["audit"]["stale"] is None
    (tmp_path / "stamped_helper.py").write_text(HELPER.replace("1.0", "0.5"))
    for name in ("stamped_helper", "stamped_mine"):
        sys.modules.pop(name, None)
    changed = btcbt.run(config).manifest["audit"]
    assert changed["stale"] == "stamped_helper.py has changed"
    # An audit of the changed code is not about a run of the old one.
    (tmp_path / "stamped_helper.py").write_text(HELPER)
    sys.modules.pop("stamped_helper")
    _, stale = keep_report(audit(config, sample=2, fresh_process=True), config)
    assert stale is not None
    assert "decides 1, not 0.5" in stale
