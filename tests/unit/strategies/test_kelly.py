"""The growth-optimal weight against closed forms and a fine grid."""

from __future__ import annotations

import numpy as np
import pytest

from btcbt.records import Holding
from btcbt.strategies.kelly import growth_optimal_weight
from btcbt.strategies.loading import load_strategy

USE = "kelly"


def growth(weights, returns, held, cost):
    """Slow twin: expected log growth of each weight, (W,)."""
    added = np.maximum(weights - max(held, 0), 0) + np.maximum(min(held, 0) - weights, 0)
    wealth = 1 + weights[:, None] * returns - cost * added[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(wealth.min(axis=1) > 0, np.log(wealth).mean(axis=1), -np.inf)


def test_a_coin_with_even_odds_gets_kellys_fraction():
    # Win or lose half the stake with probability 3/5: (2p - 1) / 0.5.
    returns = np.array([0.5] * 3 + [-0.5] * 2)
    assert growth_optimal_weight(returns, lowest=-1, highest=1) == pytest.approx(0.4, abs=1e-11)
    assert growth_optimal_weight(-returns, lowest=-1, highest=1) == pytest.approx(-0.4, abs=1e-11)


def test_a_small_gaussian_edge_gets_mean_over_variance(rng):
    returns = rng.normal(0, 0.02, 100_000)
    returns += 0.0002 - returns.mean()
    assert growth_optimal_weight(returns, lowest=-1, highest=1) == pytest.approx(0.0002 / 0.0004, rel=1e-2)


@pytest.mark.parametrize("cost", [0.0, 0.002])
def test_the_weight_is_the_best_of_a_fine_grid(rng, cost):
    grid = np.linspace(-2, 2, 4001)
    kinds = set()
    for _ in range(60):
        returns = rng.normal(rng.normal(0, 0.01), rng.uniform(0.01, 0.3), 30)
        held = float(rng.choice([0.0, rng.uniform(-2, 2)]))
        weight = growth_optimal_weight(returns, lowest=-2, highest=2, held=held, cost=cost)
        best = growth(grid, returns, held, cost).max()
        at = growth(np.array([weight]), returns, held, cost)[0]
        assert at >= best - 1e-12
        kinds.add("held" if weight == held else "bound" if abs(weight) == 2 else "within")
    assert kinds == ({"bound", "within", "held"} if cost else {"bound", "within"})


def test_a_path_that_loses_all_keeps_the_weight_below_ruin():
    returns = np.array([3.0, 3.0, 3.0, -1.0])
    # (3/4) 3 / (1 + 3 w) = (1/4) / (1 - w)
    assert growth_optimal_weight(returns, lowest=-1, highest=1) == pytest.approx(2 / 3, abs=1e-11)
    assert growth_optimal_weight(-returns, lowest=-1, highest=1) == pytest.approx(-2 / 3, abs=1e-11)


def test_costs_make_a_region_in_which_nothing_is_traded():
    returns = np.array([0.021, -0.02])  # a mean of 5 bps
    best = growth_optimal_weight(returns, lowest=-2, highest=2)
    assert 1.1 < best < 1.3
    assert growth_optimal_weight(returns, lowest=-2, highest=2, cost=0.001) == 0.0
    for held in (0.3, 0.9, 1.1):
        assert growth_optimal_weight(returns, lowest=-2, highest=2, held=held, cost=0.001) == held
    # What is held beyond the optimum is cut back to it: that costs nothing that would not be paid anyway.
    over = growth_optimal_weight(returns, lowest=-2, highest=2, held=1.5, cost=0.001)
    assert over == pytest.approx(best, abs=1e-9)


def test_a_fraction_of_the_weight_is_held(forecast_of):
    forecast = forecast_of([0.5] * 3 + [-0.5] * 2)
    for fraction in (0.25, 0.5, 1.0):
        strategy = load_strategy(USE, {"fraction": fraction, "cost_bps": 0})
        assert strategy.decide(forecast, Holding()) == pytest.approx(fraction * 0.4, abs=1e-6)


def test_a_sure_gain_is_held_at_the_limit_and_a_sure_loss_is_shorted_only_if_allowed(forecast_of):
    gain, loss = forecast_of([0.05, 0.01]), forecast_of([-0.05, -0.01])
    assert load_strategy(USE, {"max_weight": 0.8}).decide(gain, Holding()) == pytest.approx(0.8)
    assert load_strategy(USE).decide(loss, Holding(0.5)) == 0.0
    assert load_strategy(USE, {"allow_short": True}).decide(loss, Holding(0.5)) == -1.0


def test_an_edge_below_the_costs_is_no_bet_and_no_reason_to_sell(forecast_of):
    forecast = forecast_of([0.021, -0.02])
    strategy = load_strategy(USE, {"cost_bps": 12})
    assert strategy.decide(forecast, Holding()) == 0.0
    assert strategy.decide(forecast, Holding(0.31)) == 0.31
