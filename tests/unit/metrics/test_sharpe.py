"""Sharpe ratios and their probabilities against pandas, published figures and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from btcbt.metrics import sharpe
from btcbt.metrics.sharpe import sharpe_difference_interval, sharpe_ratio


def test_the_ratio_is_that_of_pandas(rng):
    r = pd.Series(rng.normal(0.001, 0.01, 500))
    assert sharpe.sharpe_ratio(r) == pytest.approx(r.mean() / r.std())


@pytest.mark.filterwarnings("error")
def test_returns_that_do_not_vary_have_no_ratio():
    for returns in ([], [0.1], np.zeros(50), np.full(50, 0.1), [0.1, np.nan, 0.2]):
        assert math.isnan(sharpe.sharpe_ratio(returns))
        assert math.isnan(sharpe.probabilistic_sharpe(returns))
        assert math.isnan(sharpe.minimum_track_record(returns))
        assert math.isnan(sharpe.deflated_sharpe(returns, [0.0, 0.1]))


def test_probabilistic_sharpe_follows_from_the_moments_that_pandas_finds(rng):
    r = pd.Series(rng.standard_t(5, 400) + 0.1)
    n, ratio = 400, r.mean() / r.std()
    centred = r - r.mean()
    skew = (centred**3).mean() / (centred**2).mean() ** 1.5
    kurtosis = (centred**4).mean() / (centred**2).mean() ** 2
    spread = math.sqrt(1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2)
    expected = stats.norm.cdf((ratio - 0.02) * math.sqrt(n - 1) / spread)
    assert sharpe.probabilistic_sharpe(r, 0.02) == pytest.approx(expected)


def test_for_normal_returns_it_is_near_the_p_value_of_a_t_test(rng):
    r = rng.normal(0.05, 1.0, 1000)
    expected = stats.ttest_1samp(r, 0.0, alternative="greater").pvalue
    assert 1 - sharpe.probabilistic_sharpe(r) == pytest.approx(expected, abs=0.005)


def test_the_published_example_of_the_deflated_sharpe_ratio_is_reproduced():
    """Bailey and Lopez de Prado (2014), "A numerical example": 100 trials over five years of days, DSR 0.9004.

    A skewness of -3 with a kurtosis of 10 is at the limit of what is possible, so the record has two values.
    """
    trials = np.tile([1.0, -1.0], 50)
    trials = trials / trials.std(ddof=1) * math.sqrt(0.5 / 250)
    assert sharpe.expected_best_sharpe(trials) == pytest.approx(0.1132, abs=5e-5)
    z = stats.zscore(np.repeat([-1.0, 0.0], [105, 1145]), ddof=1)
    assert (stats.skew(z), stats.kurtosis(z, fisher=False)) == pytest.approx((-3.0, 10.0), rel=2e-3)
    returns = z + 2.5 / math.sqrt(250)
    assert sharpe.sharpe_ratio(returns) == pytest.approx(2.5 / math.sqrt(250))
    assert sharpe.deflated_sharpe(returns, trials) == pytest.approx(0.9004, abs=2e-3)


def test_the_best_of_many_worthless_trials_is_expected_where_simulation_finds_it(rng):
    best = rng.normal(0.0, 0.02, (4000, 50)).max(axis=1).mean()
    trials = 0.02 * np.sqrt(49 / 50) * stats.zscore(rng.normal(size=50), ddof=0) * np.sqrt(50 / 49)
    assert sharpe.expected_best_sharpe(trials) == pytest.approx(best, rel=0.04)


def test_more_trials_deflate_more_and_one_trial_not_at_all(rng):
    r = rng.normal(0.05, 1.0, 1000)
    trials = rng.normal(0.0, 0.02, 20)
    few, many = sharpe.deflated_sharpe(r, trials), sharpe.deflated_sharpe(r, trials, n_trials=2000)
    assert many < few < sharpe.probabilistic_sharpe(r)
    assert sharpe.deflated_sharpe(r, [0.05]) == sharpe.probabilistic_sharpe(r)
    assert math.isnan(sharpe.expected_best_sharpe([np.nan, 0.1, np.nan]))


def test_a_record_of_minimum_length_is_just_significant(rng):
    r = 0.04 + stats.zscore(rng.normal(size=1000))
    shortest = sharpe.minimum_track_record(r, alpha=0.05)
    ratio = sharpe.sharpe_ratio(r)
    spread = math.sqrt(1 - stats.skew(r) * ratio + (stats.kurtosis(r, fisher=False) - 1) / 4 * ratio**2)
    assert stats.norm.sf(ratio * math.sqrt(shortest - 1) / spread) == pytest.approx(0.05)
    assert math.isnan(sharpe.minimum_track_record(-r))


def test_compounding_equals_a_product_and_ruin_is_total():
    assert sharpe.compound([0.1, -0.2, 0.05]) == pytest.approx(1.1 * 0.8 * 1.05 - 1)
    assert sharpe.compound([0.5, -1.0, 0.0]) == -1.0


def test_the_bootstrap_interval_is_near_the_asymptotic_one(rng):
    r = 0.01 * rng.normal(0.02, 1.0, 3000)
    low, high = sharpe.bootstrap_interval(r, 24, reps=600)["sharpe"]
    assert low < sharpe.sharpe_ratio(r) < high
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(3000), rel=0.25)


def test_serial_dependence_widens_the_interval(rng):
    noise = rng.normal(size=3000)
    momentum = np.convolve(noise, np.ones(12), "valid")
    shuffled = rng.permutation(momentum)
    wide = sharpe.bootstrap_interval(0.01 * momentum, 24, reps=300)["total_return"]
    narrow = sharpe.bootstrap_interval(0.01 * shuffled, 24, reps=300)["total_return"]
    assert math.log1p(wide[1]) - math.log1p(wide[0]) > 2 * (math.log1p(narrow[1]) - math.log1p(narrow[0]))


def test_blocks_are_no_shorter_than_the_horizon_and_a_seed_fixes_the_draws(rng):
    r = 0.01 * rng.normal(size=500)
    assert sharpe.bootstrap_block(r, 24) >= 24
    assert sharpe.bootstrap_block(r, 126) == 0
    assert sharpe.bootstrap_interval(r, 24, reps=50) == sharpe.bootstrap_interval(r, 24, reps=50)
    assert sharpe.bootstrap_interval(r, 24, reps=50) != sharpe.bootstrap_interval(r, 24, reps=50, seed=1)
    assert math.isnan(sharpe.bootstrap_interval(r, 126)["sharpe"][0])
    assert math.isnan(sharpe.bootstrap_interval(np.zeros(500), 24)["total_return"][0])
    with pytest.raises(ValueError, match="block 0"):
        sharpe.bootstrap_block(r, 0)


def test_the_interval_of_a_difference_is_near_the_asymptotic_one_and_narrower_for_twins(rng):
    """Memmel (2003), Finance Letters 1, of Jobson and Korkie: (2 - 2 rho + small terms) / n."""
    n, rho = 4000, 0.8
    common = rng.normal(size=n)
    first, second = (0.0001 + 0.01 * (rho**0.5 * common + (1 - rho) ** 0.5 * rng.normal(size=n)) for _ in range(2))
    low, high = sharpe_difference_interval(first, second, 4, reps=2000)
    measured = np.corrcoef(first, second)[0, 1]
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt((2 - 2 * measured) / n), rel=0.12)
    assert low < sharpe_ratio(first) - sharpe_ratio(second) < high
    shuffled = rng.permutation(second)
    wide = sharpe_difference_interval(first, shuffled, 4, reps=2000)
    assert wide[1] - wide[0] > 1.7 * (high - low)
    assert sharpe_difference_interval(second, first, 4, reps=2000) == pytest.approx((-high, -low))


def test_a_difference_of_the_same_or_of_constant_returns_has_no_interval(rng):
    returns = rng.normal(size=400)
    for other in (returns, np.zeros(400)):
        assert np.isnan(sharpe_difference_interval(returns, other, 5)).all()
    assert np.isnan(sharpe_difference_interval(returns[:10], returns[10:20], 5)).all()


@pytest.mark.proof
def test_the_interval_of_a_difference_misses_equal_ratios_in_about_five_percent(rng):
    """Fat tails, volatility regimes of a day, and a market that both share."""
    missed, n = [], 1500
    for seed in range(300):
        volatility = np.exp(0.5 * np.repeat(rng.normal(size=n // 25), 25))
        market = rng.standard_t(5, size=n)
        pair = (volatility * (market + rng.standard_t(5, size=n)) for _ in range(2))
        low, high = sharpe_difference_interval(*pair, 24, reps=400, seed=seed)
        missed.append(not low <= 0.0 <= high)
    # 2.5 standard errors of 300 draws around a rate of 5 to 6 %.
    assert 0.02 <= np.mean(missed) <= 0.095
