"""Calibration, the trial ledger and placebos in whole runs."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.storage.ledger import Ledger
from btcbt.storage.runs import load_run

Write = Callable[..., Path]
Invoke = Callable[[Path], Result]
CALIBRATED = (
    "  ewma: {kind: ewma_volatility, n_paths: 8}",
    "  calm: {kind: calibrated, base: ewma}\n  ewma: {kind: ewma_volatility, n_paths: 8}",
)


def newest(tmp_path: Path) -> Path:
    return (tmp_path / "runs" / "small" / "latest").resolve()


def test_calibrated_forecasts_are_stored_and_do_not_depend_on_where_a_run_was_stopped(
    write: Write, invoke: Invoke, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    invoke(write(CALIBRATED))
    whole = load_run(newest(tmp_path))
    expected, key = whole.forecasts("calm").paths(), whole.manifest["forecasters"]["calm"]["key"]
    ewma = whole.forecasts("ewma").paths()
    np.testing.assert_allclose(expected[0], ewma[0], rtol=1e-6)
    assert (expected[10:] != ewma[10:]).any(axis=(1, 2, 3)).all()
    assert "strategy.threshold@calm.sharpe" in whole.metrics
    assert whole.metrics["forecast.calm.insane_high_too_low"] == 0.0
    assert (
        whole.manifest["forecasters"]["calm"]["identity"]["base"] == whole.manifest["forecasters"]["ewma"]["identity"]
    )
    shards = sorted((tmp_path / "runs" / "store" / key).glob("[0-9]*.parquet"))
    assert len(shards) == 4
    shards[1].unlink()
    shards[3].write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        assert invoke(write(CALIBRATED)).exit_code == 0
    again = load_run(newest(tmp_path))
    assert again.manifest["forecasters"]["calm"]["computed"] == 20 + 12
    assert again.manifest["forecasters"]["ewma"]["computed"] == 0
    assert again.forecasts("calm").paths().tobytes() == expected.tobytes()


def test_later_origins_keep_calibrated_forecasts_and_an_earlier_start_makes_others(
    write: Write, invoke: Invoke, tmp_path: Path
) -> None:
    invoke(write(CALIBRATED))
    before = load_run(newest(tmp_path)).forecasts("calm").paths()
    invoke(write(CALIBRATED, ("end: 2019-06-04", "end: 2019-06-05")))
    longer = load_run(newest(tmp_path))
    assert longer.manifest["forecasters"]["calm"]["reused"] == len(before)
    assert longer.forecasts("calm").paths()[: len(before)].tobytes() == before.tobytes()
    invoke(write(CALIBRATED, ("start: 2019-06-01", "start: 2019-05-31")))
    earlier = load_run(newest(tmp_path))
    assert earlier.manifest["forecasters"]["calm"]["reused"] == 0
    assert earlier.manifest["forecasters"]["ewma"]["reused"] == len(before)
    assert (earlier.forecasts("calm").paths()[24 + 10 :] != before[10:]).any()


def test_every_configuration_is_a_trial_and_none_counts_twice(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    def run(*changes: tuple[str, str]) -> dict[str, float]:
        assert invoke(write(*changes)).exit_code == 0
        return json.loads((newest(tmp_path) / "metrics.json").read_text())

    ledger = Ledger(tmp_path / "runs" / "trials.jsonl")
    first = run()
    assert sorted(trial.name for trial in ledger.trials()) == ["momentum", "threshold@ewma", "threshold@random_walk"]
    assert first["strategy.momentum.trials"] == 3
    # Another entry threshold, on both forecasters; momentum is what it was, and worth less.
    second = run(("entry_bps: 10.0", "entry_bps: 15.0"))
    assert second["strategy.momentum.trials"] == 5
    assert second["strategy.momentum.sharpe"] == first["strategy.momentum.sharpe"]
    assert second["strategy.momentum.deflated_sharpe"] < first["strategy.momentum.deflated_sharpe"]
    # Another name of a strategy, or the default of a parameter written out: nothing new.
    run(("  momentum:\n", "  impulse:\n"), ("entry_bps: 10.0", "entry_bps: 10.0, exit_bps: 0.0"))
    assert len(ledger.trials()) == 5
    # Other costs are other trials, counted together; candles that nothing has traded on start anew.
    assert run(("store:\n", "portfolio: {fee_bps: 1.0}\nstore:\n"))["strategy.momentum.trials"] == 8
    later = run(("start: 2019-06-01", "start: 2019-06-05"), ("end: 2019-06-04", "end: 2019-06-07"))
    assert later["strategy.momentum.trials"] == 3
    assert len(ledger.trials()) == 11


def test_neither_another_root_nor_an_end_moved_by_a_day_sheds_trials(
    write: Write, invoke: Invoke, tmp_path: Path
) -> None:
    ledger = f"store:\n  ledger: {tmp_path / 'shared'}\n"
    assert invoke(write(("store:\n", ledger))).exit_code == 0
    shutil.rmtree(tmp_path / "runs")
    result = invoke(
        write(("store:\n", ledger), ("entry_bps: 10.0", "entry_bps: 15.0"), ("end: 2019-06-04", "end: 2019-06-05"))
    )
    assert result.exit_code == 0, result.stderr
    metrics = json.loads((newest(tmp_path) / "metrics.json").read_text())
    assert metrics["strategy.momentum.trials"] == 5, "momentum is what it was, and counts once"
    assert metrics["selection.configurations"] == 5


def test_other_origins_and_other_decisions_are_other_trials(
    write: Write, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "runs" / "trials.jsonl")
    # An account that trades at other hours is another one, although it is made of the same.
    gap = [("start: 2019-06-01", "start: 2019-06-25"), ("end: 2019-06-04", "end: 2019-07-02")]
    longer = "  random_walk: {kind: random_walk, n_paths: 8}\n"
    invoke(write(*gap))
    tried = len(ledger.trials())
    anchored = f"{longer}  anchored: {{kind: kronos_anchored, n_paths: 2, block: 24}}\n"
    limited = ("params: {entry_bps: 10.0}", "params: {entry_bps: 10.0}\n    forecasters: [ewma, random_walk]")
    assert invoke(write(*gap, (longer, anchored), limited)).exit_code == 0
    runs = [load_run(path.parent) for path in (tmp_path / "runs" / "small").glob("*/manifest.json")]
    assert len({len(run.origins()) for run in runs}) == 2
    assert len(ledger.trials()) == 2 * tried - 1  # momentum uses no forecast, so that its account is the same
    # A module that the strategy's file imports is no part of its digest, but its decisions are.
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from btcbt.strategies.base import Strategy\nimport helper\n"
        "class Mine(Strategy):\n    def decide(self, forecast, holding):\n        return helper.WEIGHT\n"
    )
    for count, weight in enumerate((0.25, 0.5), start=1):
        (tmp_path / "helper.py").write_text(f"WEIGHT = {weight}{' ' * count}\n")
        for module in ("mine", "helper"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        change = ("threshold\n    params: {entry_bps: 10.0}", "mine:Mine")
        assert invoke(write(change)).exit_code == 0
        assert len([trial for trial in ledger.trials() if trial.name == "threshold@ewma"]) == 2 + count


def test_a_damaged_ledger_is_named_and_the_run_goes_on(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    before = invoke(write())
    assert "(3 trials)" in " ".join(before.stdout.split())
    ledger = tmp_path / "runs" / "trials.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-30])
    result = CliRunner().invoke(app, ["run", str(write()), "--force"])
    assert result.exit_code == 0
    assert f"{ledger}:3: damaged line of the trial ledger" in " ".join(result.stderr.split())
    assert len(Ledger(ledger).trials()) == 3


def test_placebos_rank_every_strategy_that_uses_a_forecast(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke(write(("store:\n", "placebos: 6\nstore:\n")))
    assert result.exit_code == 0, result.stderr
    run = load_run(newest(tmp_path))
    ranked = {key.split(".")[1] for key in run.metrics if key.startswith("placebo.")}
    assert ranked == {"threshold@random_walk", "threshold@ewma"}
    for name in ranked:
        assert run.metrics[f"placebo.{name}.runs"] == 6
        assert run.metrics[f"placebo.{name}.p_value"] * 7 == pytest.approx(
            round(run.metrics[f"placebo.{name}.p_value"] * 7)
        )
    assert "runs on forecasts without information" in " ".join(result.stdout.split())


def test_a_run_too_short_for_placebos_says_so(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke(write(("store:\n", "placebos: 6\nstore:\n"), ("end: 2019-06-04", "end: 2019-06-01T12:00:00Z")))
    assert result.exit_code == 0, result.stderr
    assert "No placebo runs" in result.stdout
    assert "too few origins" in result.stderr
