"""The weight that brings volatility to its target."""

from __future__ import annotations

import numpy as np
import pytest

from btcbt.records import Holding
from btcbt.strategies.loading import load_strategy
from btcbt.strategies.volatility_target import annual_volatility

USE = "volatility_target"
HOURS_PER_YEAR = 365.25 * 24


def test_volatility_is_that_of_the_steps_scaled_to_a_year(forecast_of):
    # Each of 4 steps moves by 1 % of the last close, in either direction.
    forecast = forecast_of([0.04, -0.04])
    assert annual_volatility(forecast) == pytest.approx(0.01 * np.sqrt(HOURS_PER_YEAR), rel=1e-6)


def test_the_weight_is_target_over_volatility(forecast_of):
    forecast = forecast_of([0.04, -0.04, 0.04])
    strategy = load_strategy(USE, {"target": 0.3})
    expected = 0.3 / (0.01 * np.sqrt(HOURS_PER_YEAR))
    assert expected < 1
    assert strategy.decide(forecast, Holding()) == pytest.approx(expected, rel=1e-6)


def test_a_calm_forecast_is_held_at_the_largest_weight(forecast_of):
    assert load_strategy(USE, {"max_weight": 0.7}).decide(forecast_of([1e-4] * 3), Holding()) == 0.7


def test_a_fall_is_flat_or_short(forecast_of):
    forecast = forecast_of([-0.04, 0.04, -0.04])
    assert load_strategy(USE).decide(forecast, Holding(0.5)) == 0.0
    assert load_strategy(USE, {"allow_short": True}).decide(forecast, Holding(0.5)) < -0.2


def test_the_expected_signal_scales_with_mean_over_deviation(forecast_of):
    forecast = forecast_of([0.03, -0.01])  # mean 1 %, deviation 2 %
    sign = load_strategy(USE, {"target": 1.0, "band": 0}).decide(forecast, Holding())
    expected = load_strategy(USE, {"target": 1.0, "band": 0, "signal": "expected"}).decide(forecast, Holding())
    assert expected == pytest.approx(sign / 2, rel=1e-4)


def test_a_change_within_the_band_is_left_alone_unless_the_sign_changes(forecast_of):
    forecast = forecast_of([0.04, -0.04, 0.04])
    strategy = load_strategy(USE, {"band": 0.1})
    weight = strategy.decide(forecast, Holding())
    assert strategy.decide(forecast, Holding(weight + 0.09)) == weight + 0.09
    assert strategy.decide(forecast, Holding(weight + 0.11)) == weight
    assert strategy.decide(forecast_of([-0.04]), Holding(0.05)) == 0.0
