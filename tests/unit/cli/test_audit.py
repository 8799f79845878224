"""``btcbt audit``: exit codes, the table, and the stamp."""

from __future__ import annotations

import json
import textwrap

import pytest
from typer.testing import CliRunner

from btcbt.cli.main import app

EXPERIMENT = """
name: small
candles: {path: "bundled:BTCUSD_1h"}
windows: {start: 2019-06-01, end: 2019-06-03, context: 30, horizon: 4}
forecasters: {random_walk: {kind: random_walk, n_paths: 2}}
strategies: {planted: {use: "%s"}}
store: {root: runs}
"""
LEAK = """
import numpy as np
from btcbt.candles import read_candles
from btcbt.strategies import Strategy

CANDLES = read_candles("bundled:BTCUSD_1h")

class Peeks(Strategy):
    uses_forecast = False

    def decide(self, forecast, holding):
        ahead = np.searchsorted(CANDLES.open_time, forecast.origin)
        return float(ahead < len(CANDLES) and CANDLES.values[ahead, 3] > forecast.last_close)
"""


@pytest.fixture
def audit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "peeks_of_a_user.py").write_text(textwrap.dedent(LEAK))

    def call(use, *options):
        (tmp_path / "experiment.yaml").write_text(EXPERIMENT % use)
        return CliRunner().invoke(app, ["audit", "experiment.yaml", "--sample", "2", "--no-fresh-process", *options])

    return call


def test_a_clean_experiment_exits_with_0_and_its_next_run_carries_the_verdict(audit, tmp_path):
    from btcbt.config import load_config
    from btcbt.walkforward.runner import run

    done = audit("momentum")
    assert done.exit_code == 0, done.output
    assert "clean" in done.output
    assert "the next run of this experiment carries it" in done.output
    finished = run(load_config(tmp_path / "experiment.yaml"))
    assert finished.manifest["audit"]["verdict"] == "clean"
    again = audit("momentum", "--seed", "5", "--quiet")
    assert "stamped into" in again.output
    manifest = json.loads((finished.directory / "manifest.json").read_text())
    assert manifest["audit"]["seed"] == 5
    assert json.loads((finished.directory / "audit.json").read_text())["subject"]["run"] == finished.directory.name


def test_a_leak_exits_with_1_and_names_its_place(audit):
    done = audit("peeks_of_a_user:Peeks")
    assert done.exit_code == 1
    assert "looks ahead" in done.output
    assert "strategy" in done.output
    assert "planted" in done.output, done.output


def test_a_wrong_experiment_exits_with_2_in_one_line(audit):
    done = audit("btcbt.strategies.momentum:NoSuch")
    assert done.exit_code == 2
    assert "has no class 'NoSuch'" in done.output
    assert "Traceback" not in done.output
