"""Tests over many configurations against loops, simple tests and planted winners."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from btcbt.metrics.comparison import (
    backtest_overfitting,
    model_confidence_set,
    superior_predictive_ability,
)
from btcbt.metrics.inference import diebold_mariano


def overlapping(rng, n, k, overlap=24):
    return np.column_stack([np.convolve(rng.normal(size=n + overlap - 1), np.ones(overlap), "valid") for _ in range(k)])


def test_the_confidence_set_keeps_the_good_and_drops_the_bad(rng):
    losses = overlapping(rng, 3000, 1) + overlapping(rng, 3000, 4)
    losses[:, 2] += 5.0
    p = model_confidence_set(losses, list("abcd"), 24, reps=300)
    assert p["c"] < 0.01
    assert min(p["a"], p["b"], p["d"]) > 0.05
    assert max(p.values()) == 1.0


def test_with_two_models_it_agrees_with_diebold_mariano(rng):
    losses = overlapping(rng, 5000, 2)
    losses[:, 1] += 0.75
    p = model_confidence_set(losses, ["a", "b"], 24, reps=2000)
    test = diebold_mariano(losses[:, 1], losses[:, 0], 24)
    assert p["a"] == 1.0
    assert p["b"] == pytest.approx(test.p_value, abs=0.05)


@pytest.mark.filterwarnings("error")
def test_models_with_identical_losses_share_their_fate(rng):
    losses = overlapping(rng, 1000, 2)
    losses[:, 1] += 20.0
    p = model_confidence_set(losses[:, [0, 1, 0, 1]], list("abcd"), 24, reps=100)
    assert p["a"] == p["c"] == 1.0
    assert p["b"] == p["d"] < 0.05
    assert model_confidence_set(losses[:, [0, 0]], ["a", "b"], 24) == {"a": 1.0, "b": 1.0}


def test_rows_with_nan_are_dropped_and_short_records_have_no_set(rng):
    losses = rng.normal(size=(200, 2))
    holed = np.insert(losses, [5, 50], np.nan, axis=0)
    assert model_confidence_set(holed, ["a", "b"], 1, reps=50) == model_confidence_set(losses, ["a", "b"], 1, reps=50)
    assert np.isnan(model_confidence_set(losses[:100], ["a", "b"], 24)["a"])
    with pytest.raises(ValueError, match="K=3"):
        model_confidence_set(losses, list("abc"), 1)


def test_spa_with_one_configuration_agrees_with_a_t_test(rng):
    r = rng.normal(0.02, 1.0, (4800, 1))
    expected = stats.ttest_1samp(r[:, 0].reshape(200, 24).sum(axis=1), 0.0, alternative="greater").pvalue
    test = superior_predictive_ability(r, reps=4000)
    assert test.p_value == pytest.approx(expected, abs=0.03)
    assert test.n == 200


def with_statistic(noise, t):
    """Shift hourly returns so that the t-statistic of their daily sums is t."""
    days = noise.reshape(-1, 24).sum(axis=1)
    return noise + (t * days.std(ddof=1) / np.sqrt(len(days)) - days.mean()) / 24


def test_a_wild_configuration_does_not_hide_a_steady_winner(rng):
    r = rng.normal(size=(4800, 3))
    r[:, 1] = with_statistic(r[:, 1], 5.0)
    r[:, 2] = with_statistic(30.0 * r[:, 2], -0.5)
    test = superior_predictive_ability(r, reps=300)
    assert test.best == 1
    assert test.superior == (1,)
    assert test.p_value < 0.01


def test_a_second_winner_is_found_once_the_first_is_out_of_the_way(rng):
    """At 5 % the larger of two must exceed about 1.95, one alone about 1.65."""
    r = rng.normal(size=(24_000, 2))
    r = np.column_stack([with_statistic(r[:, 0], 8.0), with_statistic(r[:, 1], 1.8)])
    assert superior_predictive_ability(r, reps=2000).superior == (0, 1)
    loser = with_statistic(r[:, 0], 0.0)
    assert superior_predictive_ability(np.column_stack([loser, r[:, 1]]), reps=2000).superior == ()


def test_trying_more_costs_more(rng):
    r = rng.normal(size=(2400, 200))
    r[:, 0] = with_statistic(r[:, 0], 2.0)
    alone = superior_predictive_ability(r[:, :1], reps=500).p_value
    among = superior_predictive_ability(r, reps=500).p_value
    assert alone < 0.05 < among


def test_the_benchmark_is_what_is_beaten(rng):
    market = rng.normal(0.1, 1.0, 2400)
    r = np.column_stack([market, 0.5 * market])
    flat = superior_predictive_ability(r, reps=300)
    hold = superior_predictive_ability(r, market, reps=300)
    assert flat.superior == (0, 1)
    assert hold.superior == ()
    assert hold.p_value > 0.5
    assert hold.best == 1


def test_configurations_that_equal_the_benchmark_have_nothing_to_show():
    test = superior_predictive_ability(np.zeros((500, 3)))
    assert (test.p_value, test.best, test.superior) == (1.0, -1, ())


def test_p_values_are_ordered_and_never_zero(rng):
    r = rng.normal(size=(1200, 6)) + np.linspace(-0.3, 0.3, 6)
    test = superior_predictive_ability(r, reps=99)
    assert 0.01 == test.p_lower <= test.p_value <= test.p_upper
    null = superior_predictive_ability(r - r.mean(axis=0) - np.linspace(0, 0.3, 6), reps=200)
    assert null.p_lower <= null.p_value <= null.p_upper


def test_where_nothing_beats_the_benchmark_the_p_value_is_one(rng):
    """Hansen's statistic is floored at zero; unfloored, a little below the benchmark looked like some evidence."""
    r = np.column_stack([with_statistic(rng.normal(size=2400), t) for t in (-0.01, -0.5)])
    test = superior_predictive_ability(r, reps=200)
    assert (test.p_lower, test.p_value, test.p_upper) == (1.0, 1.0, 1.0)
    assert test.superior == ()
    above = np.column_stack([r, with_statistic(rng.normal(size=2400), 0.01)])
    assert superior_predictive_ability(above, reps=200).p_value < 1.0


def test_wrong_or_short_returns(rng):
    assert np.isnan(superior_predictive_ability(rng.normal(size=(100, 2))).p_value)
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        superior_predictive_ability(np.zeros(5))
    with pytest.raises(ValueError, match="benchmark"):
        superior_predictive_ability(np.zeros((5, 2)), np.zeros(4))


def pbo_by_loop(returns, n_blocks):
    """Bailey et al. (2017), algorithm 2.3, one split at a time."""
    blocks = np.array_split(returns, n_blocks)
    overfit, losses, n_splits = 0, 0, 0
    for chosen in combinations(range(n_blocks), n_blocks // 2):
        inside = np.concatenate([blocks[i] for i in chosen])
        outside = np.concatenate([blocks[i] for i in range(n_blocks) if i not in chosen])
        scores = [np.nan_to_num(half.mean(axis=0) / half.std(axis=0, ddof=1)) for half in (inside, outside)]
        winner = int(np.argmax(scores[0]))
        rank = stats.rankdata(scores[1])[winner] / (returns.shape[1] + 1)
        overfit += np.log(rank / (1 - rank)) <= 0
        losses += outside.mean(axis=0)[winner] < 0
        n_splits += 1
    return overfit / n_splits, losses / n_splits


@pytest.mark.parametrize(("k", "n_blocks"), [(2, 4), (5, 6), (12, 8)])
def test_overfitting_equals_a_loop_over_splits(rng, k, n_blocks):
    r = rng.standard_t(4, size=(30 * n_blocks, k)) + 0.05
    test = backtest_overfitting(r, n_blocks=n_blocks, reps=9)
    assert (test.probability, test.loss_probability) == pytest.approx(pbo_by_loop(r, n_blocks))


@pytest.mark.filterwarnings("error")
def test_twins_and_flat_configurations_can_be_ranked(rng):
    r = rng.normal(size=(80, 2))
    table = np.column_stack([r, r[:, 0], np.zeros(80)])
    with np.errstate(invalid="ignore"):
        expected = pbo_by_loop(table, 8)
    test = backtest_overfitting(table, n_blocks=8, reps=19)
    assert (test.probability, test.loss_probability) == pytest.approx(expected)
    assert 0.0 < test.p_value <= 1.0


def test_a_real_winner_is_not_overfit_and_noise_is(rng):
    noise = rng.normal(size=(2000, 10))
    winner = noise.copy()
    winner[:, 4] += 0.15
    real, luck = backtest_overfitting(winner, reps=199), backtest_overfitting(noise, reps=199)
    assert real.probability < 0.02
    assert real.p_value < 0.02
    assert luck.probability > 0.2
    assert luck.p_value > 0.05
    assert real.splits == 252


def test_old_rows_and_nan_rows_are_dropped(rng):
    r = rng.normal(size=(803, 4))
    assert backtest_overfitting(r, reps=9) == backtest_overfitting(r[3:], reps=9)
    assert backtest_overfitting(np.insert(r[3:], 7, np.nan, axis=0), reps=9) == backtest_overfitting(r[3:], reps=9)
    assert np.isnan(backtest_overfitting(r[:15]).probability)
    for wrong in ({"returns": r[:, :1]}, {"returns": r, "n_blocks": 5}, {"returns": r, "n_blocks": 18}):
        with pytest.raises(ValueError, match=r"returns|n_blocks"):
            backtest_overfitting(**wrong)


def test_true_nulls_are_rejected_about_as_often_as_stated(rng):
    """A small version of the proof: 100 records of 60 days."""
    spa = pbo = 0
    for i in range(100):
        common = rng.normal(size=(1440, 1))
        r = 0.5 * common + rng.normal(size=(1440, 4))
        spa += superior_predictive_ability(r, reps=99, seed=i).p_value <= 0.05
        pbo += backtest_overfitting(r, n_blocks=8, reps=99, seed=i).p_value <= 0.05
    # Binomial(100, 0.05) is at most 14 with probability 0.9998.
    assert 0 < spa <= 14
    assert 0 < pbo <= 14
