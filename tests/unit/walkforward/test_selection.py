"""Tests over every configuration tried: what is kept of each, and that the numbers are those of the metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable
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
from btcbt.walkforward.selection import selection_numbers
from btcbt.walkforward.trial_returns import aligned_returns, keep_returns

NAMES = ["flip", "half", "idle"]
Tried = tuple[Simulation, list[Trial], Candles]


@pytest.fixture
def tried(make_history: Callable[..., Candles]) -> Tried:
    candles = make_history(300)
    origins = candles.open_time[10:260] + candles.interval_ms
    weights = [np.arange(250) % 2, np.full(250, 0.5), np.zeros(250), np.ones(250)]
    simulation = simulate(candles, origins, np.column_stack(weights).astype(float), [*NAMES, BUY_AND_HOLD],
                          PortfolioConfig())  # fmt: skip
    return simulation, account_trials(simulation, candles, "x", {name: {"what": name} for name in NAMES}), candles


def returns_of(folder: Path, trials: list[Trial], candles: Candles) -> np.ndarray:
    return aligned_returns([folder], trials, candles, trials[0].start, trials[0].end)


def expected(simulation: Simulation, trials: list[Trial]) -> np.ndarray:
    columns = [
        equity_returns(simulation.equity[:, simulation.names.index(trial.name)], simulation.initial_cash)
        for trial in sorted(trials, key=lambda trial: trial.id)
    ]
    return np.column_stack(columns)


def test_returns_come_back_bit_for_bit_in_an_order_that_no_run_changes(tried: Tried, tmp_path: Path) -> None:
    simulation, trials, candles = tried
    keep_returns(tmp_path / "a", trials, simulation, candles)
    back = returns_of(tmp_path / "a", sorted(trials, key=lambda trial: trial.id), candles)
    assert back.tobytes() == expected(simulation, trials).tobytes()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").iterdir()}
    keep_returns(tmp_path / "a", trials, simulation, candles)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "a").iterdir()} == before


@pytest.mark.parametrize("harm", ["missing", "cut", "changed", "pickled", "longer"])
def test_damaged_returns_are_named_and_never_tested(
    tried: Tried, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    simulation, trials, candles = tried
    keep_returns(tmp_path, trials, simulation, candles)
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
        lost = np.isnan(returns_of(tmp_path, trials, candles)).all(axis=0)
    assert lost.tolist() == [True, False, False]
    assert "the returns of 1 of 3 trials are missing or damaged" in caplog.text
    keep_returns(tmp_path, trials, simulation, candles)  # as their experiment does when run again
    assert np.isfinite(returns_of(tmp_path, trials, candles)).all()


def test_a_disk_that_refuses_returns_is_one_line(tried: Tried, tmp_path: Path) -> None:
    simulation, trials, candles = tried
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="returns cannot be kept"):
        keep_returns(tmp_path / "file", trials, simulation, candles)


def test_the_numbers_are_those_of_the_tests(tried: Tried) -> None:
    simulation, trials, _ = tried
    returns = expected(simulation, [trial for trial in trials if trial.name != "idle"])
    with_idle = np.column_stack([returns, np.zeros(250)])
    numbers = selection_numbers(simulation, 6, with_idle)
    held = equity_returns(simulation.equity[:, 3], simulation.initial_cash)
    assert numbers["selection.configurations"] == 3
    assert numbers["selection.flat.p_value"] == superior_predictive_ability(returns, horizon=6).p_value
    against = superior_predictive_ability(returns, held, horizon=6)
    assert numbers["selection.buy_and_hold.p_value"] == against.p_value
    assert numbers["selection.buy_and_hold.superior"] == len(against.superior)
    chosen = backtest_overfitting(returns)
    assert numbers["selection.overfitting.probability"] == chosen.probability
    assert numbers["selection.overfitting.p_value"] == chosen.p_value
    assert numbers["selection.overfitting.loss_probability"] == chosen.loss_probability
    assert "selection.overfitting.probability" not in selection_numbers(simulation, 6, returns[:, :1])
    assert selection_numbers(simulation, 6, np.empty((0, 0))) == {"selection.configurations": 0.0}
    assert selection_numbers(simulation, 6, np.zeros((250, 1))) == {"selection.configurations": 1.0}


def test_flat_and_buy_and_hold_never_win_the_choice_among_losers(tried: Tried, rng: np.random.Generator) -> None:
    """All that is chosen from loses; a flat account used to win every half, with a probability of overfitting of 0."""
    simulation, _, _ = tried
    held = equity_returns(simulation.equity[:, 3], simulation.initial_cash)
    losers = rng.normal(-0.05, 0.01, (250, 4))
    numbers = selection_numbers(simulation, 6, np.column_stack([losers, np.zeros(250), held]))
    assert numbers["selection.overfitting.loss_probability"] == 1.0
    assert numbers["selection.overfitting.probability"] == backtest_overfitting(losers).probability
    alone = selection_numbers(simulation, 6, losers)
    assert numbers["selection.buy_and_hold.p_value"] == pytest.approx(alone["selection.buy_and_hold.p_value"])
    assert backtest_overfitting(np.column_stack([losers, np.zeros(250)])).loss_probability == 0.0


def test_a_configuration_is_tested_on_the_hours_that_it_has(tried: Tried, rng: np.random.Generator) -> None:
    simulation, _, _ = tried
    returns = rng.normal(0.0, 0.01, (250, 3))
    returns[:, 0] += 0.02
    returns[:20, 0] = np.nan
    numbers = selection_numbers(simulation, 1, returns)
    assert numbers["selection.flat.superior"] == 1
    assert numbers["selection.flat.p_value"] == superior_predictive_ability(np.nan_to_num(returns), horizon=1).p_value
    assert numbers["selection.overfitting.probability"] == backtest_overfitting(returns[20:]).probability
