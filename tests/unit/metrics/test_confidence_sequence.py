"""Confidence sequences against the formula written out, and what they may know."""

import numpy as np
import pytest
from scipy import stats

from btcbt.metrics.confidence_sequence import MIN_STRETCHES, confidence_sequence, latest_interval
from btcbt.metrics.inference import cosine_projections, cosine_terms, regime_cosine_terms
from tests.unit.metrics.designs import overlapping


def test_an_interval_is_the_formula_written_out(rng):
    x = overlapping(rng, 1, 2400, 12)[0]
    found = confidence_sequence(x, 12, level=0.9, best_at=100)
    for n in (90 * 12, 150 * 12, 2400):
        sums = x[:n].reshape(-1, 12).sum(axis=1)
        deviations = []
        for terms in (cosine_terms(n, 12), regime_cosine_terms(n, 12)):
            variance = np.mean(cosine_projections(sums, 1, terms) ** 2) / 12
            deviations.append(np.sqrt(variance) * stats.t.isf(0.05, terms) / stats.norm.isf(0.05))
        rho = (-2 * np.log(0.1) + np.log(1 - 2 * np.log(0.1))) / 1200
        half = max(deviations) * np.sqrt(2 * (n * rho + 1) / (n * n * rho) * np.log(np.sqrt(n * rho + 1) / 0.1))
        assert found.mean[n - 1] == pytest.approx(x[:n].mean())
        assert (found.low[n - 1], found.high[n - 1]) == pytest.approx((x[:n].mean() - half, x[:n].mean() + half))


def test_there_is_no_interval_before_enough_stretches(rng):
    found = confidence_sequence(overlapping(rng, 1, 2600)[0], 24)
    assert np.isinf(found.low[: MIN_STRETCHES * 24 - 1]).all()
    assert np.isfinite(found.low[MIN_STRETCHES * 24 - 1 :]).all()
    assert confidence_sequence(np.ones(50), 24).excludes() == 0.0


def test_nothing_that_happens_later_changes_an_earlier_interval(rng):
    x = overlapping(rng, 1, 3000)[0]
    changed = x.copy()
    changed[2500:] += 50.0
    one, other = confidence_sequence(x, 24), confidence_sequence(changed, 24)
    assert (one.high[:2500] == other.high[:2500]).all()


def test_many_records_at_once_are_each_on_its_own_and_nan_are_refused(rng):
    x = overlapping(rng, 3, 2600).T
    together = confidence_sequence(x, 24)
    for k in range(3):
        assert together.low[:, k] == pytest.approx(confidence_sequence(x[:, k], 24).low)
    x[4, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        confidence_sequence(x, 24)


def test_a_year_of_looks_seldom_leaves_the_truth_out_and_finds_a_large_difference(rng):
    """A small version of the proof."""
    x = overlapping(rng, 60, 8760).T
    assert confidence_sequence(x, 24).excludes().sum() <= 8
    assert confidence_sequence(x + 5.0 * 24 / np.sqrt(8760), 24).excludes().mean() > 0.7


@pytest.mark.parametrize("n", [2159, 2160, 2900])
def test_the_latest_interval_is_the_last_of_the_sequence(rng, n):
    x = overlapping(rng, 1, n)[0] + 3.0
    whole = confidence_sequence(x, 24, level=0.9)
    assert latest_interval(x, 24, level=0.9) == pytest.approx((whole.mean[-1], whole.low[-1], whole.high[-1]))
    assert np.isnan(latest_interval(x[:0], 24)[0])
