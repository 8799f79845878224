"""Realised variance and its scores against loops."""

import math

import numpy as np
import pytest

from btcbt.metrics import volatility


def test_realised_variance_is_a_running_sum_of_squared_log_returns(rng):
    close = 100.0 * np.exp(0.01 * rng.normal(size=(3, 2, 5)).cumsum(axis=-1))
    last = np.array([100.0, 99.0, 101.0])
    result = volatility.realised_variance(close, last[:, None])
    for b in range(3):
        for s in range(2):
            before, total = last[b], 0.0
            for h in range(5):
                total += math.log(close[b, s, h] / before) ** 2
                before = close[b, s, h]
                assert result[b, s, h] == pytest.approx(total)


@pytest.mark.filterwarnings("error")
def test_a_close_that_is_not_positive_makes_the_rest_nan():
    result = volatility.realised_variance([[101.0, 0.0, 102.0]], [100.0])
    assert np.isfinite(result[0, 0])
    assert np.isnan(result[0, 1:]).all()


def test_qlike_is_zero_for_the_truth_and_punishes_too_little_more():
    assert volatility.qlike_loss(2.0, 2.0) == 0.0
    assert volatility.qlike_loss(1.0, 2.0) == pytest.approx(2.0 - math.log(2.0) - 1.0)
    assert volatility.qlike_loss(1.0, 2.0) > volatility.qlike_loss(4.0, 2.0)


@pytest.mark.filterwarnings("error")
def test_a_dead_market_has_no_qlike():
    losses = volatility.qlike_loss([1.0, 0.0, np.nan, 1.0, np.inf], [0.0, 1.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(np.isnan(losses), [True, True, True, False, True])


def test_qlike_is_smallest_at_the_mean_variance(rng):
    realised = rng.exponential(size=20_000)
    grid = np.linspace(0.5, 1.5, 101)
    best = grid[np.argmin([volatility.qlike_loss(np.full(20_000, f), realised).mean() for f in grid])]
    assert best == pytest.approx(realised.mean(), abs=0.011)


@pytest.mark.filterwarnings("error")
def test_the_volatility_error_is_in_basis_points():
    error = volatility.volatility_error([4e-4, -1.0, 0.0], [1e-4, 1e-4, 0.0])
    assert error[0] == pytest.approx(100.0)
    assert np.isnan(error[1])
    assert error[2] == 0.0
