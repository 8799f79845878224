"""Tests over every configuration tried: what is kept of each, and that the numbers are those of the metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from btcbt.config import PortfolioConfig
from btcbt.errors import StoreError
from btcbt.metrics.comparison import backtest_overfitting, superior_predictive_ability
from btcbt.metrics.returns import equity_returns
from btcbt.portfolio import Simulation, simulate
from btcbt.records import Candles
from btcbt.storage.ledger import Trial
from btcbt.walkforward.accounts import BUY_AND_HOLD, account_trials
from btcbt.walkforward.selection import keep_returns, kept_returns, selection_numbers

NAMES = ["flip", "half", "idle"]


@pytest.fixture
def tried(make_history: Callable[..., Candles]) -> tuple[Simulation, list[Trial]]:
    candles = make_history(300)
    origins = candles.open_time[10:260] + candles.interval_ms
    weights = [np.arange(250) % 2, np.full(250, 0.5), np.zeros(250), np.ones(250)]
    simulation = simulate(candles, origins, np.column_stack(weights).astype(float), [*NAMES, BUY_AND_HOLD],
                          PortfolioConfig())  # fmt: skip
    return simulation, account_trials(simulation, candles, "x", {name: {"what": name} for name in NAMES})


def expected(simulation: Simulation, trials: list[Trial]) -> np.ndarray:
    columns = [
        equity_returns(simulation.equity[:, simulation.names.index(trial.name)], simulation.initial_cash)
        for trial in sorted(trials, key=lambda trial: trial.id)
    ]
    return np.column_stack(columns)


def test_returns_come_back_bit_for_bit_in_an_order_that_no_run_changes(
    tried: tuple[Simulation, list[Trial]], tmp_path: Path
) -> None:
    simulation, trials = tried
    keep_returns(tmp_path / "a", trials, simulation)
    back = kept_returns(tmp_path / "a", trials[::-1], trials[0].stretch)
    assert back.tobytes() == expected(simulation, trials).tobytes()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").iterdir()}
    keep_returns(tmp_path / "a", trials, simulation)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "a").iterdir()} == before


def test_trials_on_other_candles_are_left_out(tried: tuple[Simulation, list[Trial]], tmp_path: Path) -> None:
    simulation, trials = tried
    keep_returns(tmp_path, trials, simulation)
    elsewhere = replace(trials[0], stretch="another")
    assert kept_returns(tmp_path, [elsewhere, *trials[1:]], trials[1].stretch).shape == (250, 2)
    assert kept_returns(tmp_path, trials, "a third").size == 0


@pytest.mark.parametrize("harm", ["missing", "cut", "changed", "pickled", "longer"])
def test_damaged_returns_are_named_and_never_tested(
    tried: tuple[Simulation, list[Trial]], tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    simulation, trials = tried
    keep_returns(tmp_path, trials, simulation)
    file = tmp_path / f"{trials[0].id}.npy"
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "changed":
        content = bytearray(file.read_bytes())
        content[-3] ^= 64
        file.write_bytes(content)
    elif harm == "pickled":
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        np.save(file, np.zeros(251))
    with caplog.at_level(logging.WARNING):
        assert kept_returns(tmp_path, trials, trials[0].stretch).shape == (250, 2)
    assert "the returns of 1 of 3 trials are missing or damaged" in caplog.text
    keep_returns(tmp_path, trials, simulation)  # as the experiment does that they belong to, when it is run again
    assert kept_returns(tmp_path, trials, trials[0].stretch).shape == (250, 3)


def test_a_disk_that_refuses_returns_is_one_line(tried: tuple[Simulation, list[Trial]], tmp_path: Path) -> None:
    simulation, trials = tried
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="returns cannot be stored"):
        keep_returns(tmp_path / "file", trials, simulation)


def test_the_numbers_are_those_of_the_tests(tried: tuple[Simulation, list[Trial]]) -> None:
    simulation, trials = tried
    returns = expected(simulation, trials)
    numbers = selection_numbers(simulation, 6, returns)
    held = equity_returns(simulation.equity[:, 3], simulation.initial_cash)
    assert numbers["selection.configurations"] == 3
    assert numbers["selection.flat.p_value"] == superior_predictive_ability(returns, horizon=6).p_value
    against = superior_predictive_ability(returns, held, horizon=6)
    assert numbers["selection.buy_and_hold.p_value"] == against.p_value
    assert numbers["selection.buy_and_hold.superior"] == len(against.superior)
    chosen = backtest_overfitting(returns)
    assert numbers["selection.overfitting.probability"] == chosen.probability
    assert numbers["selection.overfitting.p_value"] == chosen.p_value
    assert "selection.overfitting.probability" not in selection_numbers(simulation, 6, returns[:, :1])
    assert selection_numbers(simulation, 6, np.empty((0, 0))) == {"selection.configurations": 0.0}
