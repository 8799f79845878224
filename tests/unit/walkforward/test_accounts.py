"""Scores and trials of accounts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from btcbt.config import BUY_AND_HOLD, PortfolioConfig
from btcbt.metrics import sharpe
from btcbt.portfolio import simulate
from btcbt.records import Candles
from btcbt.storage.ledger import Trial
from btcbt.walkforward.accounts import account_trials, comparable_sharpe, score_accounts


def test_costs_and_turnover_of_an_account_are_those_of_its_orders(make_history: Callable[..., Candles]) -> None:
    candles = make_history(80)
    origins = candles.open_time[10:60] + candles.interval_ms
    targets = np.column_stack([np.arange(50) % 2, np.ones(50)]).astype(float)
    config = PortfolioConfig(fee_bps=20.0, slippage_bps=5.0)
    simulation = simulate(candles, origins, targets, ["flip", BUY_AND_HOLD], config)
    trials = account_trials(simulation, candles, "x", {name: {"what": name} for name in simulation.names})
    scores = score_accounts(simulation, 6, trials, "X")
    numbers = scores.headline
    assert numbers["strategy.flip.fees"] == pytest.approx(simulation.orders.query("strategy == 'flip'")["fee"].sum())
    # 49 orders of all there is, at 25 bps each.
    assert numbers["strategy.flip.costs"] == pytest.approx(49 * 25e-4, rel=0.02)
    assert numbers[f"strategy.{BUY_AND_HOLD}.costs"] == pytest.approx(25e-4, rel=0.01)
    total = simulation.equity[-1, 0] / simulation.initial_cash - 1
    assert numbers["strategy.flip.total_return"] == pytest.approx(total)
    assert numbers["strategy.flip.excess.total_return"] == pytest.approx(
        total - (simulation.equity[-1, 1] / simulation.initial_cash - 1)
    )
    assert numbers["strategy.flip.trials"] == 2
    gross = sharpe.expected_best_sharpe([trial.gross_sharpe for trial in trials])
    assert numbers["strategy.flip.sharpe_hurdle"] == pytest.approx(gross * np.sqrt(8766))
    (month,) = [row for row in scores.tables[0].to_pylist() if row["group"].startswith("month=")]
    assert (month["forecaster"], month["symbol"], month["channel"]) == ("flip", "X", "account")
    assert (month["metric"], month["value"]) == ("total_return", pytest.approx(total))


def test_hours_without_a_decision_are_counted_and_left_out_of_what_the_others_made(
    make_history: Callable[..., Candles],
) -> None:
    candles = make_history(80)
    origins = candles.open_time[10:60] + candles.interval_ms
    targets = np.ones((50, 2))
    targets[20:30, 0] = np.nan
    simulation = simulate(candles, origins, targets, ["held", BUY_AND_HOLD], PortfolioConfig())
    trials = account_trials(simulation, candles, "x", {name: {"what": name} for name in simulation.names})
    numbers = score_accounts(simulation, 6, trials, "X").headline
    assert numbers["strategy.held.undecided"] == 10
    assert numbers[f"strategy.{BUY_AND_HOLD}.undecided"] == 0
    equity = np.concatenate([[simulation.initial_cash], simulation.equity[:, 0]])
    expected = equity[20] / equity[0] * equity[50] / equity[30] - 1
    assert numbers["strategy.held.decided_return"] == pytest.approx(expected)
    assert numbers[f"strategy.{BUY_AND_HOLD}.decided_return"] == numbers[f"strategy.{BUY_AND_HOLD}.total_return"]


def test_a_trial_holds_the_moments_of_the_account_and_is_known_by_its_content(
    make_history: Callable[..., Candles],
) -> None:
    candles = make_history(80)
    origins = candles.open_time[10:60] + candles.interval_ms
    targets = np.column_stack([np.arange(50) % 2, np.zeros(50)]).astype(float)
    simulation = simulate(candles, origins, targets, ["flip", "idle"], PortfolioConfig())
    flip, idle = account_trials(simulation, candles, "x", {"flip": {"a": 1}, "idle": {"a": 2}})
    returns = np.diff(simulation.equity[:, 0], prepend=simulation.initial_cash)
    returns /= np.concatenate([[simulation.initial_cash], simulation.equity[:-1, 0]])
    centred = returns - returns.mean()
    assert flip.n == len(returns) == 50
    assert flip.sharpe == pytest.approx(returns.mean() / returns.std(ddof=1))
    assert flip.skew == pytest.approx((centred**3).mean() / (centred**2).mean() ** 1.5)
    assert flip.kurtosis == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2)
    assert np.isnan([idle.sharpe, idle.skew, idle.kurtosis]).all()
    assert flip.id != idle.id
    assert (flip.start, flip.end) == (origins[0], origins[-1] + candles.interval_ms)
    again = account_trials(simulation, candles, "renamed", {"flip": {"a": 1}})[0]
    assert again.id == flip.id
    other = make_history(80)  # other prices
    assert account_trials(simulation, other, "x", {"flip": {"a": 1}})[0].id != flip.id


def test_a_trial_knows_its_sharpe_ratio_before_costs(make_history: Callable[..., Candles]) -> None:
    candles = make_history(80)
    origins = candles.open_time[10:60] + candles.interval_ms
    targets = (np.arange(50) % 2).astype(float)[:, None]
    costly, free = (
        account_trials(
            simulate(candles, origins, targets, ["flip"], PortfolioConfig(fee_bps=fee, slippage_bps=0.0)),
            candles, "x", {"flip": {"a": 1}},
        )[0]
        for fee in (20.0, 0.0)
    )  # fmt: skip
    assert free.gross_sharpe == free.sharpe
    assert costly.sharpe < costly.gross_sharpe == pytest.approx(free.sharpe, abs=0.01)


def test_a_large_edge_passes_although_costs_spread_the_sharpe_ratios_of_the_trials(rng: np.random.Generator) -> None:
    """A true annual Sharpe ratio of 8 among 33 trials that costs ruin more or less: it used not to pass."""
    n = 2900
    returns = 8.0 / np.sqrt(8766) + rng.standard_normal(n)
    luck, paid = rng.standard_normal(33) / np.sqrt(n), np.linspace(0.0, 0.2, 33)
    trials = [trial(sharpe=one - cost, gross_sharpe=one, n=n) for one, cost in zip(luck, paid, strict=True)]
    assert sharpe.deflated_sharpe(returns, [one.sharpe for one in trials]) < 0.5
    assert sharpe.deflated_sharpe(returns, [comparable_sharpe(one, n) for one in trials]) > 0.95


def test_a_short_trial_or_one_without_a_ratio_before_costs_is_compared_by_its_luck() -> None:
    assert comparable_sharpe(trial(sharpe=0.1, n=100), 400) == pytest.approx(0.05)
    assert comparable_sharpe(trial(sharpe=0.1, n=800), 400) == 0.1
    assert np.isnan(comparable_sharpe(trial(sharpe=float("nan"), n=400), 400))


def trial(**changes: float) -> Trial:
    given = {"name": "x", "experiment": "x", "candles": "", "stretch": "", "start": 0, "end": 1}
    return Trial(**{"id": "x", **given, "skew": 0.0, "kurtosis": 3.0, **changes})  # type: ignore[arg-type]
