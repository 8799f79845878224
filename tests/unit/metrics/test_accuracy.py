"""Signs and correlations against statsmodels, pandas and plain counts."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from btcbt.metrics import accuracy
from btcbt.metrics.inference import mean_test


def pesaran_timmermann_by_counting(x, y):
    """The 1992 statistic from counts alone."""
    n = len(x)
    px, py = sum(v > 0 for v in x) / n, sum(v > 0 for v in y) / n
    hits = sum((a > 0) == (b > 0) for a, b in zip(x, y, strict=True)) / n
    chance = px * py + (1 - px) * (1 - py)
    v1 = chance * (1 - chance) / n
    v2 = (2 * py - 1) ** 2 * px * (1 - px) / n + (2 * px - 1) ** 2 * py * (1 - py) / n
    v2 += 4 * px * py * (1 - px) * (1 - py) / n**2
    return hits, chance, (hits - chance) / (v1 - v2) ** 0.5


def test_pesaran_timmermann_equals_counting(rng):
    y = rng.normal(0.2, 1.0, 300)
    x = 0.3 * y + rng.normal(size=300)
    test = accuracy.pesaran_timmermann(x, y)
    assert (test.accuracy, test.expected, test.statistic) == pytest.approx(pesaran_timmermann_by_counting(x, y))


def test_pesaran_timmermann_squared_is_near_chi_squared_of_the_sign_table(rng):
    y = rng.normal(size=2000)
    x = 0.3 * y + rng.normal(size=2000)
    table = pd.crosstab(x > 0, y > 0).to_numpy()
    chi2 = stats.chi2_contingency(table, correction=False).statistic
    test = accuracy.pesaran_timmermann(x, y, 1)
    assert test.statistic**2 == pytest.approx(chi2, rel=0.01)
    assert test.p_value < 0.01
    assert accuracy.pesaran_timmermann(-x, y, 1).p_value > 0.99


def test_overlap_weakens_a_run_of_right_signs(rng):
    """Thirty days of one trend in forecast and outcome are one hit, not seven hundred."""
    outcome = np.convolve(rng.normal(size=743), np.ones(24), "valid")
    forecast = outcome + np.convolve(rng.normal(size=743), np.ones(24), "valid")
    independent, honest = (accuracy.pesaran_timmermann(forecast, outcome, overlap) for overlap in (1, 24))
    assert independent.statistic == honest.statistic
    assert 0.0 < honest.statistic_overlap < 0.6 * honest.statistic
    products = (forecast > 0) - np.mean(forecast > 0), (outcome > 0) - np.mean(outcome > 0)
    assert honest.statistic_overlap == pytest.approx(mean_test(products[0] * products[1], 24).statistic)


def test_a_forecast_that_always_rises_has_no_direction_test():
    test = accuracy.pesaran_timmermann(np.ones(50), np.tile([1.0, -1.0], 25))
    assert test.accuracy == 0.5
    assert np.isnan(test.p_value)
    assert accuracy.pesaran_timmermann([0.0], [1.0]).n == 0


def test_information_coefficients_equal_those_of_pandas_with_ties(rng):
    x = np.round(rng.normal(size=400), 1)
    y = np.round(0.2 * x + rng.normal(size=400), 1)
    frame = pd.DataFrame({"x": x, "y": y})
    assert accuracy.information_coefficient(x, y).mean == pytest.approx(frame.corr().loc["x", "y"])
    assert accuracy.information_coefficient(x, y, rank=True).mean == pytest.approx(frame.corr("spearman").loc["x", "y"])


def test_the_ic_statistic_is_near_that_of_a_regression_with_robust_errors(rng):
    x = rng.normal(size=3000)
    y = 0.05 * x + rng.normal(size=3000) * (1 + 0.5 * np.abs(x))
    robust = sm.OLS(y, sm.add_constant(x)).fit(cov_type="HC0").tvalues[1]
    assert accuracy.information_coefficient(x, y).statistic == pytest.approx(robust, rel=0.15)


def test_an_ic_without_variation_is_nan_and_nan_pairs_are_dropped(rng):
    x = rng.normal(size=100)
    assert np.isnan(accuracy.information_coefficient(np.full(100, 0.1), x).mean)
    assert np.isnan(accuracy.information_coefficient([1.0], [2.0]).statistic)
    y = x.copy()
    y[::10] = np.nan
    test = accuracy.information_coefficient(x, y)
    assert test.mean == pytest.approx(1.0)
    assert test.n == 90


def test_overlapping_outcomes_widen_the_error_of_an_ic(rng):
    steps = rng.normal(size=5000)
    outcome = np.convolve(steps, np.ones(24), "valid")
    forecast = np.convolve(rng.normal(size=5000), np.ones(24), "valid")
    naive = accuracy.information_coefficient(forecast, outcome, 1)
    honest = accuracy.information_coefficient(forecast, outcome, 24)
    assert honest.standard_error > 0.9 * naive.standard_error
    # Both series are moving averages of 24, so the product's variance is (2/3) x 24 times the naive 1 / n.
    assert honest.standard_error == pytest.approx(np.sqrt(16 / len(outcome)), rel=0.35)
