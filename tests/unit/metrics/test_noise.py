"""How far metrics may move, from the intervals stored with them."""

from __future__ import annotations

import math

import pytest

from btcbt.metrics.noise import StoredNoise, is_decisive
from btcbt.metrics.regression import Tolerances, compare_metrics
from btcbt.metrics.table import find_score

NUMBERS = {
    "forecast.a.b.crps_bps.close.h1": 50.0,
    "forecast.a.b.crps_bps.close.h24": 200.0,
    "forecast.a.b.mae_bps.open.h1": 70.0,
    "forecast.a.b.mae_bps.open.all": 300.0,
    "forecast.a.b.coverage90.close.h24": 88.0,
    "forecast.a.b.coverage90_low.h24": 80.0,
    "forecast.a.b.coverage90_high.h24": 94.0,
    "forecast.a.b.coverage90.close.all": 89.0,
    "forecast.a.b.opponent.crps_bps.close.h1.low_pct": -2.0,
    "forecast.a.b.opponent.crps_bps.close.h1.high_pct": 4.0,
    "forecast.c.opponent.crps_bps.close.h1.low_pct": -1.0,
    "forecast.c.opponent.crps_bps.close.h1.high_pct": 1.0,
    "forecast.c.opponent.crps_bps.close.h24.low_pct": -10.0,
    "forecast.c.opponent.crps_bps.close.h24.high_pct": 2.0,
    "forecast.c.opponent.crps_bps.close.h24.difference_pct": -4.0,
    "strategy.s@a.b.sharpe": 1.0,
    "strategy.s@a.b.sharpe_low": -0.5,
    "strategy.s@a.b.sharpe_high": 2.7,
    "strategy.s@a.b.max_drawdown": 0.1,
}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("strategy.s@a.b.sharpe", 1.6),
        ("forecast.a.b.coverage90.close.h24", 7.0),
        ("forecast.a.b.coverage90.close.all", 7.0),  # of the last step
        ("forecast.c.opponent.crps_bps.close.h24.difference_pct", 6.0),
        ("forecast.a.b.crps_bps.close.h1", 0.02 * 50),  # median of 3 % and 1 %
        ("forecast.a.b.crps_bps.close.h24", 0.06 * 200),
        ("forecast.a.b.mae_bps.open.h1", 0.02 * 70),
        ("forecast.a.b.mae_bps.open.all", 0.06 * 300),
        ("strategy.s@a.b.max_drawdown", math.nan),
    ],
)
def test_noise_is_half_of_the_interval_or_that_of_the_crps(metric: str, expected: float) -> None:
    score = find_score(metric)
    assert score is not None
    assert StoredNoise(NUMBERS).of(metric, score) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("metric", "now", "verdict"),
    [
        ("forecast.a.b.crps_bps.close.h1", 50.9, "within"),
        ("forecast.a.b.crps_bps.close.h1", 51.1, "worse"),
        ("forecast.a.b.crps_bps.close.h1", 48.0, "better"),
        ("strategy.s@a.b.sharpe", -0.5, "within"),
        ("strategy.s@a.b.sharpe", -0.7, "worse"),
        ("strategy.s@a.b.sharpe", 3.0, "better"),
        ("forecast.a.b.coverage90.close.h24", 82.0, "within"),
        ("forecast.a.b.coverage90.close.h24", 80.0, "worse"),
        ("strategy.s@a.b.max_drawdown", 0.4, "moved"),
    ],
)
def test_a_change_within_the_noise_is_none_and_an_improvement_is_never_worse(
    metric: str, now: float, verdict: str
) -> None:
    (one,) = (one for one in compare_metrics(NUMBERS, {**NUMBERS, metric: now}, Tolerances()) if one.metric == metric)
    assert one.verdict == verdict


def test_without_intervals_nothing_is_known_of_noise() -> None:
    score = find_score("forecast.a.crps_bps.close.h1")
    assert score is not None
    assert math.isnan(StoredNoise({"forecast.a.crps_bps.close.h1": 1.0}).of("forecast.a.crps_bps.close.h1", score))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("forecast.a.crps_bps.close.h1", True),
        ("forecast.a.crps_bps.open.h1", False),
        ("forecast.a.energy_bps", True),
        ("forecast.a.by_month.2019-06.crps_bps.close.h1", False),
        ("strategy.a.sharpe", True),
        ("strategy.a.at_cost_bps.5.sharpe", False),
        ("strategy.a.turnover", False),
    ],
)
def test_few_metrics_decide(metric: str, expected: bool) -> None:
    score = find_score(metric)
    assert score is not None
    assert is_decisive(metric, score) is expected
