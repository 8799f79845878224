"""Long-run variances and Diebold-Mariano against statsmodels and loops; size on a small scale."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from btcbt.metrics.inference import (
    cosine_projections,
    cosine_terms,
    diebold_mariano,
    long_run_variance,
    mean_test,
)


def overlapping(rng, n, overlap):
    """A moving average of order overlap - 1: losses of overlapping horizons."""
    return np.convolve(rng.normal(size=n + overlap - 1), np.ones(overlap), "valid")


def test_projections_equal_a_sum_over_cosines(rng):
    x = overlapping(rng, 97, 5)
    projections = cosine_projections(x, 5)
    for j, value in enumerate(projections, start=1):
        by_hand = sum(np.sqrt(2 / 97) * x[t] * np.cos(np.pi * j * (t + 0.5) / 97) for t in range(97))
        assert value == pytest.approx(by_hand)
    assert long_run_variance(x, 5) == pytest.approx(np.mean(projections**2))


def test_the_long_run_variance_finds_that_of_a_moving_average(rng):
    x = overlapping(rng, 200_000, 24)
    assert long_run_variance(x, 24) == pytest.approx(24**2, rel=0.12)


def test_without_dependence_the_mean_test_is_near_students(rng):
    x = rng.normal(0.1, 1.0, 2000)
    test = mean_test(x, 1)
    assert test.statistic == pytest.approx(stats.ttest_1samp(x, 0.0).statistic, rel=0.25)
    low, high = test.interval(0.95)
    assert low < test.mean < high
    assert test.p_greater == pytest.approx(test.p_value / 2)


def test_the_hln_statistic_is_that_of_statsmodels_with_a_uniform_kernel(rng):
    a, b = overlapping(rng, 400, 6) + 0.5, overlapping(rng, 400, 6)
    test = diebold_mariano(a, b, 6, "hln")
    options = {"maxlags": 5, "kernel": "uniform", "use_correction": False}
    fit = sm.OLS(a - b, np.ones(400)).fit(cov_type="HAC", cov_kwds=options)
    factor = np.sqrt((400 + 1 - 12 + 6 * 5 / 400) / 400)
    assert test.statistic == pytest.approx(factor * fit.tvalues[0])
    assert test.p_value == pytest.approx(2 * stats.t.sf(abs(test.statistic), 399))


def test_hln_falls_back_to_bartlett_where_the_rectangular_variance_is_negative():
    x = np.tile([1.0, -1.0], 20) + np.linspace(0.0, 0.1, 40)
    lags = [x - x.mean()]
    covariance = [lags[0][: 40 - k] @ lags[0][k:] / 40 for k in range(2)]
    assert covariance[0] + 2 * covariance[1] < 0
    test = diebold_mariano(x, np.zeros(40), 2, "hln")
    expected = (covariance[0] + covariance[1]) / 40
    assert test.standard_error**2 == pytest.approx(expected)


def test_swapping_forecasters_changes_the_sign_alone(rng):
    a, b = overlapping(rng, 500, 4), overlapping(rng, 500, 4)
    for method in ("cosine", "hln"):
        one, two = diebold_mariano(a, b, 4, method), diebold_mariano(b, a, 4, method)
        assert one.statistic == pytest.approx(-two.statistic)
        assert one.p_value == pytest.approx(two.p_value)


@pytest.mark.parametrize("method", ["cosine", "hln"])
def test_losses_without_a_varying_difference_have_no_test(rng, method):
    a = rng.normal(size=100)
    assert np.isnan(diebold_mariano(a, a, 1, method).p_value)
    assert np.isnan(diebold_mariano(np.full(100, 0.3), np.full(100, 0.1), 1, method).p_value)
    assert np.isnan(diebold_mariano([1.0], [2.0], 1, method).p_value)
    assert diebold_mariano([], [], 1, method).n == 0


def test_a_record_shorter_than_four_overlaps_has_no_test(rng):
    assert cosine_terms(95, 24) == 0
    assert cosine_terms(96, 24) == 2
    assert np.isnan(mean_test(rng.normal(size=95), 24).p_value)
    assert mean_test(rng.normal(size=96), 24).p_value >= 0.0


def test_nan_losses_are_dropped_in_pairs(rng):
    a, b = rng.normal(size=(2, 50))
    holed_a, holed_b = a.copy(), b.copy()
    holed_a[3], holed_b[7] = np.nan, np.nan
    keep = np.delete(np.arange(50), [3, 7])
    assert diebold_mariano(holed_a, holed_b, 1) == diebold_mariano(a[keep], b[keep], 1)


def test_wrong_arguments_are_refused(rng):
    with pytest.raises(ValueError, match="overlap 0"):
        cosine_terms(10, 0)
    with pytest.raises(ValueError, match="method 'nw'"):
        diebold_mariano(np.ones(5), np.ones(5), 1, "nw")
    with pytest.raises(ValueError, match="one dimension"):
        diebold_mariano(np.ones((5, 2)), np.ones((5, 2)), 1)


def test_a_true_null_with_overlap_is_rejected_about_as_often_as_stated(rng):
    """A small version of the proof: 500 records of 30 days, horizon 24."""
    rejected = sum(mean_test(overlapping(rng, 720, 24), 24).p_value < 0.05 for _ in range(500))
    # Binomial(500, 0.05) is inside with probability 0.9999.
    assert 8 <= rejected <= 46
    students = sum(stats.ttest_1samp(overlapping(rng, 720, 24), 0.0).pvalue < 0.05 for _ in range(100))
    assert students > 50


def test_a_real_difference_is_found(rng):
    rejected = 0
    for _ in range(100):
        base = overlapping(rng, 2000, 24)
        worse = base + overlapping(rng, 2000, 24) + 2.0
        rejected += diebold_mariano(worse, base, 24).p_greater < 0.05
    assert rejected > 80
