"""Proofs by simulation: tests reject a true null as often as they say, and find what is there.

Each rate is over at least 2,000 records. Run by `make proof`, which prints the table; small versions of each
are in the ordinary suite.
"""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from btcbt.metrics import accuracy, sharpe
from btcbt.metrics.comparison import (
    backtest_overfitting,
    held_where_missing,
    model_confidence_set,
    superior_predictive_ability,
)
from btcbt.metrics.distribution import uniformity_test
from btcbt.metrics.inference import diebold_mariano

pytestmark = pytest.mark.proof
RECORDS = 2000
HORIZON = 24


def rejection_rate(p_value: Callable[[np.random.Generator], float], rng, records=RECORDS, size=0.05) -> float:
    return float(np.mean([p_value(rng) <= size for _ in range(records)]))


def report(request, rate: float) -> None:
    print(f"{request.node.name}: {100 * rate:.2f} %")


def losses(rng, n: int, k: int = 1, horizon: int = HORIZON):
    """Losses of overlapping forecasts: moving averages of squared shocks whose volatility persists."""
    noise = rng.normal(size=(n + horizon - 1, k))
    total = np.vstack([np.zeros((1, k)), np.cumsum(noise, axis=0)])
    return total[horizon:] - total[:-horizon]


def volatile(rng, n: int, persistence: float = 0.98):
    """Log-volatility of an hourly market: an autoregression with a half-life of a day and a half."""
    from scipy.signal import lfilter

    return np.exp(0.5 * lfilter([np.sqrt(1 - persistence**2)], [1, -persistence], rng.normal(size=n + 200))[200:])


def autoregressive(rng, n: int):
    from scipy.signal import lfilter

    return lfilter([1.0], [1.0, -0.9], rng.normal(size=n + 100))[100:]


@pytest.mark.parametrize(("n", "horizon"), [(300, 24), (720, 24), (2900, 24), (8760, 24), (300, 6), (300, 1)])
def test_diebold_mariano_holds_its_size(rng, request, n, horizon):
    def p(rng):
        return diebold_mariano(losses(rng, n, 1, horizon)[:, 0], np.zeros(n), horizon).p_value

    rate = rejection_rate(p, rng, 4000)
    report(request, rate)
    assert 0.03 <= rate <= 0.07


@pytest.mark.parametrize("n", [720, 2900])
def test_diebold_mariano_holds_its_size_where_volatility_clusters(rng, request, n):
    def p(rng):
        shocks = rng.normal(size=n + HORIZON - 1) * volatile(rng, n + HORIZON - 1)
        return diebold_mariano(np.convolve(shocks, np.ones(HORIZON), "valid"), np.zeros(n), HORIZON).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert 0.03 <= rate <= 0.07


@pytest.mark.parametrize("n", [300, 720, 2900])
def test_the_hln_version_holds_its_size_in_long_records_only(rng, request, n):
    """Why it is not the default."""
    rate = rejection_rate(lambda r: diebold_mariano(losses(r, n)[:, 0], np.zeros(n), HORIZON, "hln").p_value, rng)
    report(request, rate)
    assert rate > 0.07 if n == 300 else 0.03 <= rate <= (0.08 if n == 720 else 0.07)


@pytest.mark.parametrize("n", [300, 720, 2900])
def test_diebold_mariano_finds_a_difference_of_three_standard_errors(rng, request, n):
    def p(rng):
        shift = 3.0 * HORIZON / np.sqrt(n)  # the long-run standard deviation is the horizon
        return diebold_mariano(losses(rng, n)[:, 0] + shift, np.zeros(n), HORIZON).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    # With the variance known it would be 85 %.
    assert rate >= (0.55 if n == 300 else 0.70)


@pytest.mark.parametrize(("n", "k"), [(720, 8), (2900, 8), (2900, 40)])
def test_superior_predictive_ability_holds_its_size(rng, request, n, k):
    def p(rng):
        common = rng.standard_t(5, (n, 1)) * volatile(rng, n)[:, None]
        returns = 0.5 * common + rng.standard_t(5, (n, k))
        return superior_predictive_ability(returns, reps=199, seed=int(rng.integers(2**31))).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert 0.03 <= rate <= 0.07


def lacking(rng, n: int, k: int, share: str):
    """Hours (n, k) without a return: trials of other periods, down to a fifth of the hours, or gaps of ten days."""
    hour = np.arange(n)[:, None]
    if share == "other periods":
        length = rng.integers(n // 5, n + 1, size=k)
        start = rng.integers(0, n - length + 1)
        return (hour < start) | (hour >= start + length)
    gaps = rng.random((-(-n // 240), k)) < 0.25
    return gaps[hour // 240, np.arange(k)]


@pytest.mark.parametrize("share", ["other periods", "gaps"])
@pytest.mark.parametrize(("n", "k"), [(720, 8), (2900, 8), (2900, 40)])
def test_superior_predictive_ability_holds_its_size_where_trials_lack_hours(rng, request, n, k, share):
    def p(rng):
        market = 0.01 * rng.standard_t(5, n) * volatile(rng, n)
        excess = 0.01 * (0.5 * rng.standard_t(5, (n, 1)) * volatile(rng, n)[:, None] + rng.standard_t(5, (n, k)))
        returns = np.where(lacking(rng, n, k, share), np.nan, market[:, None] + excess)
        seed = int(rng.integers(2**31))
        return superior_predictive_ability(held_where_missing(returns, market), market, reps=199, seed=seed).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert 0.02 <= rate <= 0.07


def test_superior_predictive_ability_finds_one_winner_among_losers(rng, request):
    def p(rng):
        returns = rng.standard_t(5, (2900, 8)) * np.sqrt(3 / 5)
        returns[:, 0] += 4.0 / np.sqrt(2900)
        returns[:, 1:] -= np.linspace(0.0, 0.3, 7)
        return superior_predictive_ability(returns, reps=199, seed=int(rng.integers(2**31))).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert rate >= 0.80


@pytest.mark.parametrize(("n", "k"), [(720, 8), (2900, 3), (2900, 40)])
def test_overfitting_holds_its_size(rng, request, n, k):
    def p(rng):
        common = rng.standard_t(5, (n, 1)) * volatile(rng, n)[:, None]
        returns = 0.5 * common + rng.standard_t(5, (n, k))
        return backtest_overfitting(returns, reps=199, seed=int(rng.integers(2**31))).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert 0.03 <= rate <= 0.07


def test_overfitting_finds_one_winner(rng, request):
    def p(rng):
        returns = rng.standard_t(5, (2900, 8)) * np.sqrt(3 / 5)
        returns[:, 0] += 5.0 / np.sqrt(2900)
        return backtest_overfitting(returns, reps=199, seed=int(rng.integers(2**31))).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert rate >= 0.80


@pytest.mark.parametrize("n", [720, 2900])
def test_the_confidence_set_keeps_equal_models(rng, request, n):
    def p(rng):
        table = losses(rng, n) + losses(rng, n, 4)
        seed = int(rng.integers(2**31))
        return min(model_confidence_set(table, list("abcd"), HORIZON, reps=199, seed=seed).values())

    rate = rejection_rate(p, rng)
    report(request, rate)
    # A month of hours is 30 stretches; there it rejects a little too often.
    assert 0.03 <= rate <= (0.09 if n == 720 else 0.07)


@pytest.mark.parametrize("n", [720, 2900])
def test_direction_holds_its_size(rng, request, n):
    def p(rng):
        return accuracy.pesaran_timmermann(autoregressive(rng, n), losses(rng, n)[:, 0], HORIZON).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert 0.03 <= rate <= 0.07


@pytest.mark.parametrize("rank", [False, True])
@pytest.mark.parametrize("n", [720, 2900])
def test_information_coefficients_hold_their_size(rng, request, n, rank):
    def p(rng):
        forecast = autoregressive(rng, n)
        return accuracy.information_coefficient(forecast, losses(rng, n)[:, 0], HORIZON, rank=rank).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert 0.03 <= rate <= 0.07


@pytest.mark.parametrize("n", [720, 2900])
def test_the_uniformity_of_pits_holds_its_size(rng, request, n):
    def p(rng):
        return uniformity_test(stats.norm.cdf(losses(rng, n)[:, 0] / np.sqrt(HORIZON)), HORIZON).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert 0.03 <= rate <= 0.07


def test_the_uniformity_of_pits_finds_cones_that_are_too_narrow(rng, request):
    """A 90 % interval that holds 80 %, over four months."""
    factor = stats.norm.isf(0.05) / stats.norm.isf(0.10)

    def p(rng):
        z = factor * losses(rng, 2900)[:, 0] / np.sqrt(HORIZON)
        return uniformity_test(stats.norm.cdf(z), HORIZON).p_value

    rate = rejection_rate(p, rng)
    report(request, rate)
    assert rate >= 0.80


@pytest.mark.parametrize("n", [720, 2900])
def test_bootstrap_intervals_of_the_sharpe_ratio_hold_the_truth(rng, request, n):
    """Where volatility clusters and tails are fat, a 95 % interval holds the truth a little less often."""
    truth = 0.03

    def missed(rng):
        shocks = rng.standard_t(5, n) * np.sqrt(3 / 5) * volatile(rng, n)
        spread = np.sqrt(np.exp(0.5))  # root mean square of exp(N(0, 1/4))
        low, high = sharpe.bootstrap_interval(0.01 * (shocks / spread + truth), HORIZON, reps=199)["sharpe"]
        return 0.0 if low > truth or high < truth else 1.0

    rate = rejection_rate(missed, rng)
    report(request, rate)
    assert 0.03 <= rate <= 0.08
