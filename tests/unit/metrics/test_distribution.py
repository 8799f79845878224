"""Scores of samples against loops, scikit-learn, numpy and exact expectations."""

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.metrics import mean_pinball_loss

from btcbt.metrics import distribution as d


def crps_by_pairs(samples, outcome):
    n = len(samples)
    distance = sum(abs(x - outcome) for x in samples) / n
    return distance - sum(abs(x - y) for x in samples for y in samples) / (2 * n * (n - 1))


@pytest.mark.parametrize("n_paths", [2, 3, 30])
def test_crps_equals_a_sum_over_pairs(rng, n_paths):
    samples, outcome = rng.normal(size=(4, 3, n_paths)), rng.normal(size=(4, 3))
    samples[0] = np.round(samples[0])
    outcome[0] = np.round(outcome[0])
    samples[1] = 0.7
    expected = [[crps_by_pairs(samples[i, j], outcome[i, j]) for j in range(3)] for i in range(4)]
    np.testing.assert_allclose(d.crps(samples, outcome), expected, atol=1e-12)
    np.testing.assert_allclose(d.crps(np.sort(samples), outcome, is_sorted=True), expected, atol=1e-12)


def test_crps_estimates_the_integral_whatever_the_number_of_paths(rng):
    exact = integrate.quad(lambda x: (stats.norm.cdf(x) - (x >= 0.4)) ** 2, -8, 8, points=[0.4])[0]
    for n_paths in (2, 5, 50):
        scores = d.crps(rng.normal(size=(20_000, n_paths)), np.full(20_000, 0.4))
        assert scores.mean() == pytest.approx(exact, abs=4 * scores.std() / np.sqrt(20_000))


def test_one_path_is_scored_by_its_distance():
    np.testing.assert_allclose(d.crps([[1.0], [5.0]], [3.0, 5.0]), [2.0, 0.0])
    np.testing.assert_allclose(d.energy_score([[[3.0, 4.0]]], [[0.0, 0.0]]), [5.0])


def test_energy_score_equals_a_sum_over_pairs_and_is_crps_in_one_dimension(rng):
    samples, outcome = rng.normal(size=(3, 6, 4)), rng.normal(size=(3, 4))
    samples[1] = samples[1, 0]
    for b in range(3):
        near = sum(np.linalg.norm(x - outcome[b]) for x in samples[b]) / 6
        apart = sum(np.linalg.norm(x - y) for x in samples[b] for y in samples[b]) / (2 * 6 * 5)
        assert d.energy_score(samples, outcome)[b] == pytest.approx(near - apart)
    np.testing.assert_allclose(d.energy_score(samples[..., :1], outcome[:, :1]), d.crps(samples[..., 0], outcome[:, 0]))


@pytest.mark.filterwarnings("error")
def test_nan_in_a_sample_or_an_outcome_scores_nan(rng):
    samples, outcome = rng.normal(size=(3, 5)), rng.normal(size=3)
    samples[0, 2], outcome[1] = np.nan, np.nan
    pit = d.probability_integral_transform(samples, outcome, np.full(3, 0.5))
    for score in (d.crps(samples, outcome), pit):
        np.testing.assert_array_equal(np.isnan(score), [True, True, False])
    paths = np.repeat(samples[:, :, None], 2, axis=2)
    energy = d.energy_score(paths, np.repeat(outcome[:, None], 2, axis=1))
    np.testing.assert_array_equal(np.isnan(energy), [True, True, False])
    covered = d.interval_coverage(np.sort(samples), outcome, 80)
    np.testing.assert_array_equal(np.isnan(covered), [True, True, False])


@pytest.mark.parametrize("n_paths", [1, 2, 9, 30, 200])
def test_quantiles_are_those_of_numpy_type_six(rng, n_paths):
    samples = np.sort(rng.normal(size=(7, n_paths)), axis=-1)
    expected = np.quantile(samples, d.PROBABILITIES, axis=-1, method="weibull")
    np.testing.assert_allclose(d.sample_quantiles(samples), np.moveaxis(expected, 0, -1), atol=1e-12)


def test_pinball_loss_is_that_of_scikit_learn(rng):
    outcome, quantile = rng.normal(size=(2, 100))
    quantile[:5] = outcome[:5]
    for p in d.PROBABILITIES:
        assert d.pinball_loss(quantile, outcome, p).mean() == pytest.approx(
            mean_pinball_loss(outcome, quantile, alpha=p)
        )
    assert np.isnan(d.pinball_loss([np.nan, 1.0], [1.0, np.nan], 0.5)).all()


@pytest.mark.parametrize("n_paths", [1, 2, 3, 9, 30, 99])
@pytest.mark.parametrize("level", d.LEVELS)
def test_a_calibrated_forecast_covers_what_it_says(rng, n_paths, level):
    samples = np.sort(rng.standard_t(4, size=(20_000, n_paths)), axis=-1)
    covered = 100 * d.interval_coverage(samples, rng.standard_t(4, size=20_000), level).mean()
    assert covered == pytest.approx(d.attainable_level(n_paths, level), abs=1.4)  # four standard errors


def test_coverage_mixes_the_intervals_between_which_the_quantiles_lie(rng):
    samples = np.sort(rng.normal(size=(500, 30)), axis=-1)
    outcome = 1.5 * rng.normal(size=500)
    outcome[:30], outcome[30:60] = samples[:30, 0], samples[30:60, 28]
    for level, position in ((50, 7.75), (80, 3.1), (90, 1.55)):
        k, weight = int(position), position % 1
        for i in range(500):
            wide = samples[i, k - 1] <= outcome[i] <= samples[i, 30 - k]
            narrow = samples[i, k] <= outcome[i] <= samples[i, 29 - k]
            expected = (1 - weight) * wide + weight * narrow
            assert d.interval_coverage(samples[i], outcome[i], level) == pytest.approx(expected)
            lower, upper = d.interval(d.sample_quantiles(samples[i]), level)
            width = (1 - weight) * (samples[i, 30 - k] - samples[i, k - 1])
            assert upper - lower == pytest.approx(width + weight * (samples[i, 29 - k] - samples[i, k]))


def test_beyond_the_outermost_paths_an_interval_is_closed_by_them():
    samples = np.arange(30.0)
    assert d.attainable_level(30, 95) == pytest.approx(100 * 29 / 31)
    np.testing.assert_array_equal(
        d.interval_coverage(np.tile(samples, (4, 1)), [-0.1, 0.0, 29.0, 29.1], 95), [0.0, 1.0, 1.0, 0.0]
    )
    with pytest.raises(ValueError, match="level 42"):
        d.interval(np.zeros((3, 9)), 42)


@pytest.mark.parametrize("n_paths", [1, 4, 30])
def test_pit_is_uniform_for_a_calibrated_forecast_with_ties(rng, n_paths):
    """Half of all hours have no volume, as ties are where a PIT goes wrong."""
    samples = np.maximum(rng.normal(size=(4000, n_paths)), 0.0)
    outcome = np.maximum(rng.normal(size=4000), 0.0)
    pit = d.probability_integral_transform(samples, outcome, rng.random(4000))
    assert pit.min() >= 0.0
    assert pit.max() < 1.0
    assert stats.kstest(pit, "uniform").pvalue > 0.001
    assert d.uniformity_test(pit, 1).p_value > 0.001


def test_the_uniformity_statistic_is_a_sum_over_legendre_moments(rng):
    pit = rng.random(301)
    x = 2 * pit[::3] - 1
    moments = [
        np.sqrt(3) * x,
        np.sqrt(5) * (3 * x**2 - 1) / 2,
        np.sqrt(7) * (5 * x**3 - 3 * x) / 2,
        3 * (35 * x**4 - 30 * x**2 + 3) / 8,
    ]
    test = d.uniformity_test(pit, 3)
    assert test.n == 101
    assert test.statistic == pytest.approx(101 * sum(m.mean() ** 2 for m in moments))
    assert test.p_value == pytest.approx(stats.chi2.sf(test.statistic, 4))


@pytest.mark.parametrize("pit", ["too_narrow", "too_wide", "too_high", "heavy"])
def test_miscalibrated_forecasts_are_found(rng, pit):
    z = rng.normal(size=3000)
    forms = {
        "too_narrow": 1.4 * z,
        "too_wide": 0.7 * z,
        "too_high": z - 0.4,
        "heavy": rng.standard_t(2, 3000),
    }
    assert d.uniformity_test(stats.norm.cdf(forms[pit]), 6).p_value < 0.01


def test_overlap_is_not_taken_for_miscalibration(rng):
    rejected = 0
    for _ in range(300):
        z = np.convolve(rng.normal(size=1023), np.ones(24), "valid") / np.sqrt(24)
        rejected += d.uniformity_test(stats.norm.cdf(z), 24).p_value < 0.05
    assert 2 <= rejected <= 33  # Binomial(300, 0.05) with probability 0.9999
    assert np.isnan(d.uniformity_test(np.full(200, 0.5), 24).p_value)
