"""E-processes against slow twins that settle every bet, and the bounds of score differences against brute force."""

import numpy as np
import pytest

from btcbt.metrics import ensembles, eprocess
from btcbt.metrics.eprocess import (
    average_e_process,
    conditional_e_process,
    crps_difference_bound,
    energy_difference_bound,
)

BOTH = pytest.mark.parametrize("process", [conditional_e_process, average_e_process])


def stakes_by_loop(x, lag):
    """Stakes by a loop over origins and what each knows."""
    out = []
    for i in range(len(x) + lag - 1):
        known = x[: max(i - lag + 1, 0)]
        out.append(min(max(known.sum() / ((known**2).sum() + eprocess._PRIOR * lag), 0.0), 0.5))
    return out


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_the_conditional_process_is_a_loop_over_sequences(rng, lag):
    x = rng.uniform(-1, 1, 23)
    stakes = stakes_by_loop(x, lag)
    values = conditional_e_process(-3.0 * x, 3.0, lag).values
    for t in range(23):
        total = 0.0
        for k in range(lag):
            product = 1.0
            for i in range(k, t + lag, lag):  # origins made before origin t's outcome is known
                product *= 1.0 + stakes[i] * (x[i] if i <= t else -1.0)
            total += product
        assert values[t] == pytest.approx(total / lag)


@pytest.mark.parametrize("lag", [1, 3])
def test_the_average_process_is_a_loop_over_sequences(rng, lag):
    x = rng.uniform(-1, 1, 17)
    values = average_e_process(-x, np.ones(17), lag).values
    for t in (0, 1, 8, 16):
        total = 0.0
        for rate in eprocess._RATES:
            psi = (-np.log(1 - 2 * rate) - 2 * rate) / 4
            for k in range(lag):
                exponent = 0.0
                for i in range(k, t + lag, lag):
                    known = x[: max(i - lag + 1, 0)]
                    centre = known.mean() if len(known) else 0.0
                    outcomes = [x[i]] if i <= t else np.linspace(-1, 1, 201)
                    exponent += min(rate * y - psi * (y - centre) ** 2 for y in outcomes)
                total += np.exp(exponent)
        assert values[t] == pytest.approx(total / lag / len(eprocess._RATES))


@BOTH
def test_without_overlap_a_fair_coin_leaves_the_expectation_at_one_or_less(process):
    """Exactly: the mean over all 2^12 records, and stopped at the first look at 1.2."""
    records = np.array(np.meshgrid(*[[-1.0, 1.0]] * 12)).reshape(12, -1)
    values = process(records, 1.0, 1).values
    assert (values.mean(axis=1) <= 1.0 + 1e-9).all()
    stopped = np.where((values >= 1.2).any(axis=0), (values >= 1.2).argmax(axis=0), 11)
    assert np.take_along_axis(values, stopped[None], axis=0).mean() <= 1.0 + 1e-9


@BOTH
@pytest.mark.parametrize("lag", [2, 3])
def test_a_look_at_any_origin_is_honest_with_overlap(process, lag):
    """Exactly, over all 2^12 records of overlapping sums: stopping when it is high has an expectation of at most 1."""
    shocks = np.array(np.meshgrid(*[[-1.0, 1.0]] * 12)).reshape(12, -1)
    d = sum(shocks[k : 12 - lag + 1 + k] for k in range(lag)) / lag
    values = process(d, 1.0, lag).values
    for level in (1.05, 1.2, 1.5):
        reached = (values >= level).any(axis=0)
        assert reached.mean() <= 1.0 / level


@BOTH
def test_nothing_that_happens_later_changes_an_earlier_value(process, rng):
    d = rng.uniform(-1, 1, 200)
    changed = d.copy()
    changed[120:] = 1.0
    assert process(d, 1.0, 24).values[:120] == pytest.approx(process(changed, 1.0, 24).values[:120])


@BOTH
def test_many_records_at_once_are_each_on_its_own(process, rng):
    d, bound = rng.uniform(-1, 1, (90, 3)), rng.uniform(1, 2, (90, 3))
    together = process(d, bound, 6)
    for k in range(3):
        assert together.values[:, k] == pytest.approx(process(d[:, k], bound[:, k], 6).values)
    assert together.rejects().shape == (3,)


@BOTH
def test_the_side_and_the_size_of_an_edge_show(process, rng):
    d = rng.uniform(-1, 1, 3000)
    better, worse = process(np.clip(d - 0.3, -1, 1), 1.0, 6), process(np.clip(d + 0.3, -1, 1), 1.0, 6)
    assert better.rejects() == 1.0
    assert worse.rejects() == 0.0
    assert worse.values.max() < 1.5
    assert (np.diff(better.p_value) <= 0.0).all()
    assert better.p_value[-1] == pytest.approx(1.0 / better.values.max())


@BOTH
def test_missing_differences_count_as_zero(process, rng):
    d = rng.uniform(-1, 1, 100)
    holed, zero = d.copy(), d.copy()
    holed[[4, 50]], zero[[4, 50]] = np.nan, 0.0
    assert (process(holed, 1.0, 5).values == process(zero, 1.0, 5).values).all()


@BOTH
def test_a_difference_beyond_its_bound_is_refused(process):
    with pytest.raises(ValueError, match="origin 1 exceeds its bound"):
        process([0.5, 1.5], 1.0, 1)
    with pytest.raises(ValueError, match="lag 0"):
        process([0.5], 1.0, 0)


def test_the_bound_of_crps_differences_is_what_the_worst_outcome_shows(rng):
    a, b = rng.normal(size=(5, 12)), 0.3 + 1.5 * rng.normal(size=(5, 7))
    bound = crps_difference_bound(a, b)
    outcomes = np.concatenate([np.linspace(-9, 9, 20_001), [-1e6, 1e6]])
    for i in range(5):
        largest = 0.0
        for kinds in (("independent", "dependent"), ("dependent", "independent")):
            ours = ensembles.crps(np.broadcast_to(a[i], (len(outcomes), 12)), outcomes, kinds[0])
            theirs = ensembles.crps(np.broadcast_to(b[i], (len(outcomes), 7)), outcomes, kinds[1])
            largest = max(largest, np.abs(ours - theirs).max())
        assert largest <= bound[i] + 1e-9
        assert largest == pytest.approx(bound[i], rel=1e-3)
    assert np.isnan(crps_difference_bound([[1.0, np.nan]], [[1.0, 2.0]])).all()


def test_the_bound_of_energy_differences_holds(rng):
    a, b = rng.normal(size=(4, 9, 3)), 0.5 + 0.7 * rng.normal(size=(4, 9, 3))
    bound = energy_difference_bound(a, b)
    for scale in (0.1, 1.0, 5.0, 100.0):
        for kinds in (("independent", "dependent"), ("dependent", "independent"), ("dependent", "dependent")):
            y = scale * rng.normal(size=(4, 3))
            gap = ensembles.energy_score(a, y, kinds[0]) - ensembles.energy_score(b, y, kinds[1])
            assert (np.abs(gap) <= bound).all()
    b[1, 0, 0] = np.nan
    assert np.isnan(energy_difference_bound(a, b)).tolist() == [False, True, False, False]
