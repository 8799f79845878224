"""Bands of equity curves."""

from __future__ import annotations

import numpy as np
import pytest

from btcbt.metrics.bands import equity_band
from btcbt.metrics.sharpe import bootstrap_interval


def test_the_band_ends_at_the_interval_of_the_total_return(rng: np.random.Generator) -> None:
    """Another bootstrap, by `arch`, of the end alone."""
    returns = rng.normal(0.0002, 0.01, 1500)
    low, high = equity_band(returns, 12, np.array([0, 1499]), reps=2000) - 1.0
    interval = bootstrap_interval(returns, 12, reps=2000)["total_return"]
    # Monte Carlo error of either end: 0.023 each, of a width of 1.5.
    assert np.log1p([low[1], high[1]]) == pytest.approx(np.log1p(interval), abs=0.1)
    assert low[0] < returns.mean() < high[0]
    assert high[0] - low[0] < 0.1 < high[1] - low[1]


def test_returns_that_repeat_have_a_band_around_themselves_and_short_records_none() -> None:
    swing = np.tile([0.01, -0.01], 200)
    band = equity_band(swing, 2, np.array([399]))
    assert band[0, 0] < np.prod(1 + swing) < band[1, 0]
    assert np.isnan(equity_band(np.zeros(100), 2, np.array([5, 9]))).all()
    assert np.isnan(equity_band(swing[:6], 2, np.array([5]))).all()


def test_ruin_is_a_finite_number(rng: np.random.Generator) -> None:
    returns = rng.normal(0, 0.01, 200)
    returns[50] = -1.0
    assert np.isfinite(equity_band(returns, 5, np.array([10, 199]))).all()
