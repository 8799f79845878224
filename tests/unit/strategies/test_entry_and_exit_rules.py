"""Threshold, probability and quantile: where they enter, stay and leave."""

from __future__ import annotations

import pytest

from btcbt.records import Holding
from btcbt.strategies.loading import load_strategy

FLAT, LONG, SHORT = Holding(0.0, 0), Holding(1.0, 5), Holding(-1.0, 5)


def build(use, **params):
    return load_strategy(use, params)


# Returns of four paths -> decision when flat, long and short; all with allow_short.
THRESHOLD = [
    ([0.004, 0.004, 0.002, 0.006], (1, 1, 1)),  # +40 bps: beyond the entry
    ([0.001, 0.001, 0.001, 0.001], (0, 1, 0)),  # +10 bps: kept, not entered
    ([0.0, 0.0, 0.0, 0.0], (0, 0, 0)),
    ([-0.001, -0.001, -0.003, 0.001], (0, 0, -1)),
    ([-0.004, -0.004, -0.004, -0.004], (-1, -1, -1)),
]


@pytest.mark.parametrize(("returns", "decisions"), THRESHOLD)
def test_threshold_enters_beyond_one_return_and_leaves_at_another(forecast_of, returns, decisions):
    strategy = build("threshold", entry_bps=30, exit_bps=0, allow_short=True)
    asked = tuple(strategy.decide(forecast_of(returns), holding) for holding in (FLAT, LONG, SHORT))
    assert asked == decisions


PROBABILITY = [
    ([0.1, 0.1, 0.1, -9e-1], (1, 1, 1)),  # 3 of 4 rise, whatever the size of the fall
    ([0.1, 0.1, 0.0, -0.1], (0, 1, 0)),  # 2.5 of 4: above the exit, below the entry
    ([0.1, 0.1, -0.1, -0.1], (0, 0, 0)),
    ([0.0, 0.0, 0.0, -0.1], (0, 0, -1)),
    ([-0.1, -0.1, -0.1, 0.9], (-1, -1, -1)),
]


@pytest.mark.parametrize(("returns", "decisions"), PROBABILITY)
def test_probability_counts_paths_that_rise(forecast_of, returns, decisions):
    strategy = build("probability", entry=0.7, exit=0.5, allow_short=True)
    asked = tuple(strategy.decide(forecast_of(returns), holding) for holding in (FLAT, LONG, SHORT))
    assert asked == decisions


# Eleven paths: the 10 % and 90 % quantiles are the second lowest and the second highest.
QUANTILE = [
    (-0.01, 0.02, (1, 1, 1)),  # twice as much to win
    (-0.01, 0.012, (0, 1, 0)),  # 1.2 times: kept, not entered
    (-0.01, 0.01, (0, 0, 0)),
    (-0.012, 0.01, (0, 0, -1)),
    (-0.02, 0.01, (-1, -1, -1)),
    (0.01, 0.02, (1, 1, 1)),  # nothing to lose
    (0.001, 0.002, (0, 1, 0)),  # ... but too little to win
    (-0.02, -0.01, (-1, -1, -1)),
]


@pytest.mark.parametrize(("low", "high", "decisions"), QUANTILE)
def test_quantile_weighs_the_tails(forecast_of, low, high, decisions):
    strategy = build("quantile", allow_short=True, min_reward_bps=30)
    forecast = forecast_of([-0.5, low, *[(low + high) / 2] * 7, high, 0.5])
    asked = tuple(strategy.decide(forecast, holding) for holding in (FLAT, LONG, SHORT))
    assert asked == decisions


@pytest.mark.parametrize(
    "use",
    [
        "threshold",
        "probability",
        "quantile",
    ],
)
def test_size_scales_and_shorts_are_off_unless_asked_for(forecast_of, use):
    rise, fall = forecast_of([0.05] * 5), forecast_of([-0.05] * 5)
    assert build(use, size=0.4).decide(rise, FLAT) == 0.4
    assert build(use, size=0.4).decide(fall, LONG) == 0.0
    assert build(use, size=0.4, allow_short=True).decide(fall, LONG) == -0.4
