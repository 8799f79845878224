"""Intervals of differences and rates against scipy, statsmodels and simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from btcbt.metrics.inference import mean_test, regime_cosine_terms
from btcbt.metrics.intervals import _wilson, direction_hits, loss_difference, rate_interval, smallest_detectable
from tests.unit.metrics.designs import flipped, overlapping, switching, t_rejections
from tests.unit.metrics.whole_panel import directional_accuracy


def test_the_difference_and_its_interval_are_those_of_the_mean_test(rng):
    loss, reference = overlapping(rng, 2, 1500) + 30.0
    found = loss_difference(loss, reference, 24)
    test = mean_test(loss - reference, 24, regime_cosine_terms(1500, 24))
    assert (found.difference, found.p_value, found.n) == (test.mean, test.p_value, 1500)
    assert (found.low, found.high) == test.interval()
    assert found.relative_to == pytest.approx(reference.mean())
    assert found.terms == test.degrees


def test_the_interval_leaves_out_zero_exactly_where_the_test_rejects(rng):
    for shift in np.linspace(0.0, 3.0, 13):
        found = loss_difference(overlapping(rng, 1, 800)[0] + shift, np.zeros(800), 24)
        assert (found.p_value < 0.05) == (found.low > 0.0 or found.high < 0.0)


def test_origins_without_either_loss_are_dropped(rng):
    loss, reference = overlapping(rng, 2, 400)
    holed = loss.copy()
    holed[[3, 90]] = np.nan
    keep = np.delete(np.arange(400), [3, 90])
    assert loss_difference(holed, reference, 24) == loss_difference(loss[keep], reference[keep], 24)


def test_a_record_of_less_than_four_overlaps_has_a_difference_and_no_interval(rng):
    found = loss_difference(np.ones(90), np.zeros(90), 24)
    assert found.difference == 1.0
    assert np.isnan([found.low, found.high, found.p_value, found.smallest_detectable]).all()
    with pytest.raises(ValueError, match="two series of one length"):
        loss_difference(np.ones(3), np.ones(4), 1)


def test_the_smallest_detectable_difference_is_known_in_closed_form_with_many_terms():
    expected = stats.norm.isf(0.025) + stats.norm.ppf(0.8)
    assert smallest_detectable(1.0, 1e6) == pytest.approx(expected, abs=1e-3)
    assert smallest_detectable(2.0, 1e6) == pytest.approx(2.0 * expected, abs=2e-3)


def test_the_smallest_detectable_difference_is_that_of_statsmodels(rng):
    for n in (5, 12, 41):
        effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
        assert smallest_detectable(1.0 / np.sqrt(n), n - 1) == pytest.approx(effect, rel=1e-6)
    assert np.isnan(smallest_detectable(0.0, 5))
    assert np.isnan(smallest_detectable(float("nan"), 5))
    with pytest.raises(ValueError, match="power"):
        smallest_detectable(1.0, 5, power=0.01)


def test_wilson_is_that_of_statsmodels():
    for share, n in ((0.5, 40), (0.95, 300), (1.0, 25), (0.0, 25)):
        expected = proportion_confint(share * n, n, method="wilson")
        assert _wilson(share, n, stats.norm.isf(0.025)) == pytest.approx(expected, abs=1e-9)


def test_overlapping_hits_are_worth_fewer_origins(rng):
    hits = (overlapping(rng, 1, 8760)[0] > 0.0).astype(float)
    rate = rate_interval(hits, 24)
    # An orthant probability gives the covariance of two signs at lag k: the arcsine of the correlation.
    covariance = np.arcsin(1.0 - np.arange(24) / 24.0) / (2.0 * np.pi)
    worth = 8760 * 0.25 / (covariance[0] + 2.0 * covariance[1:].sum())
    assert 0.5 * worth < rate.effective_n < 2.0 * worth
    assert rate.low < 0.5 < rate.high
    assert rate.high - rate.low > 3.0 * (lambda ends: ends[1] - ends[0])(proportion_confint(4380, 8760))


def test_a_rate_of_one_has_an_interval_below_one():
    rate = rate_interval(np.ones(2400), 24)
    quantile = stats.t.isf(0.025, regime_cosine_terms(2400, 24))
    assert rate.high == pytest.approx(1.0)
    assert rate.low == pytest.approx(100.0 / (100.0 + quantile**2))


def test_rates_leave_out_nan_and_refuse_what_is_no_share():
    hits = np.tile([1.0, 0.0, 1.0, np.nan], 100)
    assert rate_interval(hits, 4).share == pytest.approx(2 / 3)
    assert np.isnan(rate_interval(np.ones(5), 24).low)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        rate_interval([95.0, 90.0], 1)


def test_direction_hits_average_to_directional_accuracy(rng):
    forecast, outcome = rng.integers(-2, 3, (2, 300)).astype(float)
    outcome[5] = np.nan
    hits = direction_hits(forecast, outcome)
    assert np.nanmean(hits) == pytest.approx(float(directional_accuracy(forecast, outcome)))
    assert np.isnan(hits[forecast == 0.0]).all()


def test_the_terms_for_regimes_are_fewer_and_their_test_is_the_fast_twin(rng):
    assert [regime_cosine_terms(n, 24) for n in (95, 96, 720, 2922, 8760)] == [0, 2, 2, 7, 15]
    with pytest.raises(ValueError, match="overlap 0"):
        regime_cosine_terms(10, 0)
    x = overlapping(rng, 40, 720)
    slow = np.mean([mean_test(row, 24, 5).p_value < 0.05 for row in x])
    assert t_rejections(x, 5) == slow


def test_regimes_of_ten_days_mislead_many_terms_and_not_few(rng):
    """A small version of the proof."""
    x = switching(rng, 600, 2922, edge=0.2)
    assert t_rejections(x, 40) > 0.15
    assert t_rejections(x, regime_cosine_terms(2922, 24)) < 0.13


def test_flipped_signs_keep_sizes_and_whole_blocks(rng):
    x = flipped(rng, np.arange(1.0, 101.0), 3000, 24)
    assert (np.abs(x) == np.arange(1.0, 101.0)).all()
    assert np.abs(np.mean(x, axis=0) / np.arange(1.0, 101.0)).max() < 0.1
    changes = np.diff(np.sign(x), axis=1) != 0.0
    assert changes.mean() == pytest.approx(0.5 / 24, rel=0.1)
    assert all((np.diff(np.flatnonzero(row)) % 24 == 0).all() for row in changes[:50])
