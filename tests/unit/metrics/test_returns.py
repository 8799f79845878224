"""Equity statistics against pandas, loops and accounts worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from btcbt.metrics import summarise_returns
from btcbt.metrics.returns import drawdown, equity_returns, longest_drawdown, monthly_returns, sortino_ratio

HOUR_MS = 3_600_000


def test_an_account_worked_out_by_hand():
    numbers = summarise_returns([110.0, 99.0, 99.0, 118.8], initial=100.0, horizon=1)
    assert numbers["candles"] == 4.0
    assert numbers["total_return"] == pytest.approx(0.188)
    assert numbers["max_drawdown"] == pytest.approx(0.1)
    assert numbers["max_drawdown_candles"] == 2.0
    assert numbers["hit_rate"] == pytest.approx(2 / 3)
    assert numbers["active"] == 0.75
    assert numbers["best_candle"] == pytest.approx(0.2)
    assert numbers["worst_candle"] == pytest.approx(-0.1)
    assert numbers["sortino"] == pytest.approx(0.05 / math.sqrt(0.01 / 4) * math.sqrt(8766))
    assert numbers["annual_return"] == pytest.approx(1.188 ** (8766 / 4) - 1)
    assert numbers["calmar"] == pytest.approx(numbers["annual_return"] / 0.1)


def test_annual_numbers_equal_those_of_pandas(rng):
    equity = pd.Series(1e4 * np.cumprod(1 + rng.normal(2e-5, 0.005, 3000)))
    numbers = summarise_returns(equity, horizon=24, reps=20)
    r = equity.pct_change().dropna()
    assert numbers["annual_volatility"] == pytest.approx(r.std() * math.sqrt(8766))
    assert numbers["sharpe"] == pytest.approx(r.mean() / r.std() * math.sqrt(8766))
    assert numbers["sharpe_per_candle"] == pytest.approx(r.mean() / r.std())
    assert numbers["max_drawdown"] == pytest.approx(-(equity / equity.cummax() - 1).min())
    four_hours = summarise_returns(equity, horizon=24, reps=20, interval_ms=4 * HOUR_MS)
    assert four_hours["sharpe"] == pytest.approx(numbers["sharpe"] / 2)


def test_drawdowns_equal_a_loop(rng):
    r = rng.normal(0.0, 0.05, 200)
    value, top, expected, run, longest = 1.0, 1.0, [], 0, 0
    for x in r:
        value *= 1 + x
        top = max(top, value)
        expected.append(1 - value / top)
        run = run + 1 if expected[-1] > 1e-15 else 0
        longest = max(longest, run)
    np.testing.assert_allclose(drawdown(r), expected, atol=1e-12)
    assert longest_drawdown(r) == longest


@pytest.mark.filterwarnings("error")
def test_an_account_that_never_trades_has_no_ratios():
    numbers = summarise_returns(np.full(100, 5.0), np.full(100, 5.0), initial=5.0, trade_returns=[])
    assert numbers["total_return"] == numbers["max_drawdown"] == numbers["active"] == 0.0
    for key in ("sharpe", "sortino", "calmar", "hit_rate", "p_value", "sharpe_low", "beta", "trade_hit_rate"):
        assert math.isnan(numbers[key])


@pytest.mark.filterwarnings("error")
def test_ruin_is_total_and_final():
    returns = equity_returns([50.0, -10.0, 20.0, 30.0], initial=100.0)
    np.testing.assert_array_equal(returns, [-0.5, -1.0, 0.0, 0.0])
    numbers = summarise_returns([50.0, 0.0, 0.0] + [0.0] * 20, initial=100.0, horizon=1, reps=20)
    assert numbers["total_return"] == numbers["annual_return"] == -1.0
    assert numbers["max_drawdown"] == 1.0


def test_an_equity_that_is_not_known_is_refused():
    for equity, message in (
        ([1.0, np.nan], "finite"),
        ([0.0, 1.0], "not above zero"),
        ([1.0], "two values"),
        ([[1.0, 2.0]], "one finite series"),
    ):
        with pytest.raises(ValueError, match=message):
            summarise_returns(equity)


def test_months_multiply_to_the_whole(rng):
    equity = 100 * np.cumprod(1 + rng.normal(0.0, 0.01, 1500))
    open_time = 1_559_347_200_000 + HOUR_MS * np.arange(1500)
    months = monthly_returns(equity, open_time, 100.0)
    assert sorted(months) == [f"2019-0{m}" for m in (6, 7, 8)]
    assert math.prod(1 + v for v in months.values()) - 1 == pytest.approx(equity[-1] / 100 - 1)
    series = pd.Series(equity, pd.to_datetime(open_time, unit="ms"))
    assert months["2019-06"] == pytest.approx(series["2019-06"].iloc[-1] / 100 - 1)


def test_costs_and_turnover_are_shares_of_the_equity_before():
    numbers = summarise_returns([99.0, 99.0, 97.0], initial=100.0, horizon=1, traded=[100, 0, 99], costs=[1, 0, 2])
    assert numbers["turnover"] == pytest.approx(2.0 / 3 * 8766)
    assert numbers["costs"] == pytest.approx(0.01 + 2 / 99)
    assert numbers["cost_bps"] == pytest.approx(1e4 * (0.01 + 2 / 99) / 2)
    # Before costs the account neither gains nor loses, so nothing is left to pay them with.
    assert numbers["break_even_bps"] == pytest.approx(0.0, abs=1e-6)
    idle = summarise_returns([99.0, 99.0], initial=100.0, horizon=1, traded=[0, 0], costs=[0, 0])
    assert math.isnan(idle["break_even_bps"])
    assert math.isnan(idle["cost_bps"])


def test_an_account_that_hardly_trades_has_no_break_even_cost():
    """Buy and hold over four months showed -243.7 bps: what holding lost, divided by the one trade that began it."""
    n = 2920
    equity, traded = np.linspace(100.0, 90.0, n), np.zeros(n)
    traded[::500] = 99.0  # 6 trades, 9 round trips a year
    few = summarise_returns(equity, initial=100.0, horizon=1, traded=traded, costs=traded * 1e-3)
    assert few["turnover"] < 20.0
    assert math.isnan(few["break_even_bps"])
    traded[::400] = 99.0
    enough = summarise_returns(equity, initial=100.0, horizon=1, traded=traded, costs=traded * 1e-3)
    assert enough["turnover"] > 20.0
    assert math.isfinite(enough["break_even_bps"])


def test_trades_are_counted():
    numbers = summarise_returns([1.0, 1.1], trade_returns=[0.02, -0.01, 0.03, 0.0])
    assert numbers["trades"] == 4.0
    assert numbers["trade_hit_rate"] == 0.5
    assert numbers["profit_factor"] == pytest.approx(5.0)
    assert numbers["trade_mean_bps"] == pytest.approx(100.0)


def test_a_benchmark_gives_beta_alpha_and_the_excess(rng):
    b = rng.normal(1e-4, 0.01, 2000)
    r = 1e-4 + 0.5 * b + rng.normal(0.0, 1e-3, 2000)
    numbers = summarise_returns(
        np.cumprod(1 + r), np.cumprod(1 + b), initial=1.0, reps=20, trial_sharpes=[0.0, 0.05, 0.1]
    )
    slope, intercept = np.polyfit(b, r, 1)
    assert numbers["beta"] == pytest.approx(slope)
    assert numbers["alpha"] == pytest.approx(intercept * 8766)
    assert numbers["benchmark.total_return"] == pytest.approx(np.prod(1 + b) - 1)
    assert numbers["excess.total_return"] == pytest.approx(np.prod(1 + r) - np.prod(1 + b))
    excess = r - b
    expected = excess.mean() / excess.std(ddof=1) * math.sqrt(8766)
    assert numbers["excess.information_ratio"] == pytest.approx(expected)
    assert 0.0 < numbers["deflated_sharpe"] < numbers["probabilistic_sharpe"]
    assert numbers["trials"] == 3.0
    with pytest.raises(ValueError, match="benchmark"):
        summarise_returns([1.0, 2.0, 3.0], [1.0, 2.0])


def test_the_interval_holds_the_measured_ratio_and_the_p_value_knows_its_side(rng):
    r = rng.normal(4e-4, 0.005, 3000)
    up, down = (summarise_returns(np.cumprod(1 + s * r), initial=1.0, reps=200) for s in (1, -1))
    assert up["sharpe_low"] < up["sharpe"] < up["sharpe_high"]
    assert up["total_return_low"] < up["total_return"] < up["total_return_high"]
    assert up["p_value"] < 0.01 < 0.99 < down["p_value"]


def test_sortino_without_losses_is_not_defined():
    assert math.isnan(sortino_ratio([0.1, 0.0]))
    assert math.isnan(sortino_ratio([]))
