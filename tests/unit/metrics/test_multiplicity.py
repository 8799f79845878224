"""Adjusted p-values against statsmodels, loops and what they must do by construction."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from btcbt.metrics.inference import mean_test, regime_cosine_terms
from btcbt.metrics.multiplicity import _joint_null, _step_down, adjusted_tests, holm
from tests.unit.metrics.designs import overlapping


def table(rng, n=720, k=6, common=0.7):
    shared = overlapping(rng, 1, n)
    return (common * shared + overlapping(rng, k, n)).T


def test_holm_is_that_of_statsmodels(rng):
    for k in (1, 4, 30):
        p = rng.random(k) ** 3
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_leaves_nan_out():
    assert holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()


def test_the_step_down_is_a_loop_over_what_is_left(rng):
    statistic, null = np.abs(rng.normal(size=5)) * 2.0, np.abs(rng.normal(size=(400, 5)))
    expected, left, before = np.empty(5), list(range(5)), 0.0
    while left:
        largest = max(left, key=lambda k: statistic[k])
        reached = sum(max(draw[k] for k in left) >= statistic[largest] for draw in null)
        before = max(before, (1 + reached) / 401)
        expected[largest] = before
        left.remove(largest)
    assert _step_down(statistic, null) == pytest.approx(expected)


def test_a_single_comparison_needs_no_adjustment(rng):
    x = table(rng, k=1) + 20.0
    found = adjusted_tests(x, 24)
    assert found.p_value[0] == mean_test(x[:, 0], 24, regime_cosine_terms(720, 24)).p_value
    assert found.adjusted[0] == pytest.approx(found.p_value[0], abs=0.02)
    assert found.method == "romano-wolf"


def test_the_joint_null_has_students_margins_and_the_columns_correlations(rng):
    x = table(rng, n=8760, k=3, common=2.0)
    null = _joint_null(x, 24, 15, 20_000, 0)
    assert np.mean(null > 2.131, axis=0) == pytest.approx(0.05, abs=0.006)  # the 97.5 % point of Student's t(15)
    # The columns have correlations of 4 / 5; draw from that limit directly.
    draws = np.linalg.cholesky(np.full((3, 3), 0.8) + 0.2 * np.eye(3)) @ rng.normal(size=(20_000, 3, 16))
    direct = np.abs(draws[..., 0]) / np.sqrt(np.mean(draws[..., 1:] ** 2, axis=-1))
    for limit in (1.5, 2.131):
        assert np.mean((null > limit).all(axis=1)) == pytest.approx(np.mean((direct > limit).all(axis=1)), rel=0.35)
        assert np.mean((null > limit).any(axis=1)) == pytest.approx(np.mean((direct > limit).any(axis=1)), rel=0.15)


def test_adjusted_p_values_lie_between_their_own_and_holms(rng):
    x = table(rng)
    x[:, 0] += 60.0
    found = adjusted_tests(x, 24)
    assert (found.adjusted >= found.p_value).all()
    assert (found.adjusted <= holm(found.p_value) + 0.02).all()
    order = np.argsort(found.p_value)
    assert (np.diff(found.adjusted[order]) >= 0.0).all()


def test_copies_of_a_comparison_cost_nothing(rng):
    x = table(rng, k=1) + 15.0
    found = adjusted_tests(np.repeat(x, 20, axis=1), 24)
    assert found.adjusted == pytest.approx(found.p_value, abs=0.02)
    assert holm(found.p_value)[0] == pytest.approx(min(1.0, 20 * found.p_value[0]))


def test_a_comparison_that_does_not_vary_does_not_count(rng):
    x = table(rng, k=3)
    with_constant = np.column_stack([x, np.zeros(720)])
    one, other = adjusted_tests(x, 24), adjusted_tests(with_constant, 24)
    assert other.adjusted[:3] == pytest.approx(one.adjusted)
    assert np.isnan(other.adjusted[3])


def test_few_missing_rows_are_dropped_for_all_and_many_lead_to_holm(rng):
    x = table(rng, k=3)
    few, many = x.copy(), x.copy()
    few[5, 0], many[:300, 2] = np.nan, np.nan
    found = adjusted_tests(few, 24)
    assert found.method == "romano-wolf"
    assert found.p_value == pytest.approx(adjusted_tests(np.delete(x, 5, axis=0), 24).p_value)
    found = adjusted_tests(many, 24)
    assert found.method == "holm"
    assert found.adjusted == pytest.approx(holm(found.p_value))
    assert found.p_value[0] == mean_test(x[:, 0], 24, regime_cosine_terms(720, 24)).p_value


def test_the_same_seed_gives_the_same_answer_and_a_wrong_shape_is_refused(rng):
    x = table(rng)
    assert (adjusted_tests(x, 24, seed=3).adjusted == adjusted_tests(x, 24, seed=3).adjusted).all()
    with pytest.raises(ValueError, match=r"not \(n, K\)"):
        adjusted_tests(x[:, 0], 24)


def test_a_table_of_equal_forecasters_seldom_makes_a_claim(rng):
    """A small version of the proof."""
    claims = sum(adjusted_tests(table(rng), 24, reps=499, seed=i).adjusted.min() <= 0.05 for i in range(200))
    assert claims <= 22  # Binomial(200, 0.05) exceeds it once in 5,000
    single = sum((adjusted_tests(table(rng), 24, reps=9).p_value <= 0.05).any() for _ in range(200))
    assert single > 25
