"""Break-even cost and power against simulation of what they promise."""

import math

import numpy as np
import pytest

from btcbt.metrics.power import break_even_cost_bps, candles_to_significance


def test_at_the_break_even_cost_nothing_is_left(rng):
    gross = rng.normal(5e-4, 0.01, 500)
    turnover = rng.exponential(size=500) * (rng.random(500) < 0.2)
    cost = break_even_cost_bps(gross, turnover)
    assert np.prod(1 + gross - cost / 1e4 * turnover) == pytest.approx(1.0)
    assert np.prod(1 + gross - (cost + 1) / 1e4 * turnover) < 1.0


def test_a_strategy_that_loses_before_costs_would_have_to_be_paid():
    cost = break_even_cost_bps([-0.1, -0.2], [1.0, 2.0])
    assert cost < 0
    assert (1 - 0.1 - cost / 1e4) * (1 - 0.2 - 2 * cost / 1e4) == pytest.approx(1.0)


def test_one_trade_breaks_even_at_its_gain():
    assert break_even_cost_bps([0.02], [1.0]) == pytest.approx(200.0)
    assert break_even_cost_bps([0.0, 0.0], [0.0, 3.0]) == pytest.approx(0.0, abs=1e-9)


def test_without_trades_or_after_ruin_there_is_no_break_even_cost():
    assert math.isnan(break_even_cost_bps([0.1], [0.0]))
    assert math.isnan(break_even_cost_bps([0.1, -1.0], [1.0, 1.0]))
    assert math.isnan(break_even_cost_bps([], []))
    with pytest.raises(ValueError, match="one length"):
        break_even_cost_bps([0.1], [1.0, 2.0])


def test_the_length_asked_for_has_the_power_promised(rng):
    """The formula at the true moments, then a thousand records of that length."""
    pattern = np.tile([1.0, -1.0], 2000)
    more = candles_to_significance(0.1 + pattern + 0.3 * rng.normal(size=4000), alpha=0.05, power=0.8)
    assert more == 0.0
    noise = rng.normal(size=400)
    short = 0.1 + (noise - noise.mean()) / noise.std()
    needed = 400 + candles_to_significance(short)
    records = 0.1 + short.std() * rng.normal(size=(1000, int(needed)))
    found = records.mean(axis=1) / records.std(axis=1) * math.sqrt(needed) > 1.645
    # The long-run variance of 400 candles is known to within some 20 %, hence the band.
    assert 0.65 < found.mean() < 0.92


def test_no_edge_has_no_length(rng):
    assert math.isnan(candles_to_significance(-0.1 + rng.normal(size=2000)))
    assert math.isnan(candles_to_significance(np.full(100, 0.1)))
    assert math.isnan(candles_to_significance([]))
    with pytest.raises(ValueError, match="alpha"):
        candles_to_significance([0.1], alpha=0.9)
