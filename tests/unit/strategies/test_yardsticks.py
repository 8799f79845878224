"""Momentum, buy and hold, and flat."""

from __future__ import annotations

import numpy as np
import pytest

from btcbt.errors import StrategyError
from btcbt.records import Holding
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward.decisions import decide_all

MOMENTUM = "momentum"


def test_momentum_follows_the_return_over_its_lookback_alone(forecast_of):
    past = np.r_[np.full(10, 500.0), np.full(3, 1000.0), [990.0, 1010.0]]
    strategy = load_strategy(MOMENTUM, {"lookback": 4, "threshold_bps": 50, "size": 0.6, "allow_short": True})
    assert strategy.decide(forecast_of([-0.5], past=past), Holding()) == 0.6
    assert strategy.decide(forecast_of([0.5], past=[*past[:-1], 989.0]), Holding()) == -0.6
    assert strategy.decide(forecast_of([0.5], past=[*past[:-1], 1004.0]), Holding(0.6)) == 0.0
    long_only = load_strategy(MOMENTUM, {"lookback": 4})
    assert long_only.decide(forecast_of([0.5], past=[*past[:-1], 989.0]), Holding(0.6)) == 0.0


def test_momentum_needs_one_candle_more_than_its_lookback(forecast_of):
    strategy = load_strategy(MOMENTUM, {"lookback": 30})
    assert strategy.context == 31
    with pytest.raises(StrategyError, match="IndexError"):
        decide_all(strategy, [forecast_of([0.0])])
    assert load_strategy(MOMENTUM, {"lookback": 29}).decide(forecast_of([0.0]), Holding()) == 0.0


def test_buy_and_hold_holds_and_flat_does_not(forecast_of):
    forecast = forecast_of([-0.5])
    assert load_strategy("buy_and_hold").decide(forecast, Holding()) == 1.0
    assert load_strategy("flat").decide(forecast, Holding(1.0)) == 0.0
