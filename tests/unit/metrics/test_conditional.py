"""Conditional ability and fluctuation against loops, t tests and the published table."""

import numpy as np
import pytest

from btcbt.metrics.conditional import conditional_ability, fluctuation, fluctuation_null, instruments
from btcbt.metrics.inference import cosine_projections, cosine_terms, long_run_variance, mean_test
from tests.unit.metrics.designs import clustered, overlapping, switching

PUBLISHED = {0.1: 3.393, 0.2: 3.179, 0.3: 3.012, 0.4: 2.890, 0.5: 2.779, 0.6: 2.634, 0.7: 2.560, 0.8: 2.433, 0.9: 2.248}
"""Giacomini and Rossi (2010), table I, two-sided, 5 %."""


def test_with_a_constant_alone_it_is_the_test_of_the_mean(rng):
    d = overlapping(rng, 1, 900)[0] + 1.5
    found, test = conditional_ability(d, np.ones((900, 1)), 24), mean_test(d, 24)
    assert found.statistic == pytest.approx(test.statistic**2)
    assert found.p_value == pytest.approx(test.p_value)
    assert found.coefficients == pytest.approx([d.mean()])


def test_the_statistic_is_a_quadratic_form_written_out(rng):
    d, known = overlapping(rng, 1, 500)[0], np.column_stack([np.ones(500), rng.normal(size=(500, 2))])
    found = conditional_ability(d, known, 24)
    z = known * d[:, None]
    terms = cosine_terms(500, 24)
    omega = sum(np.outer(row, row) for row in cosine_projections(z, 24)) / terms
    wald = 500 * z.mean(axis=0) @ np.linalg.inv(omega) @ z.mean(axis=0)
    assert found.statistic == pytest.approx(wald * (terms - 2) / (3 * terms))
    assert found.degrees == (3.0, terms - 2)


def test_it_does_not_depend_on_the_units_of_instruments(rng):
    d, known = overlapping(rng, 1, 800)[0], np.column_stack([np.ones(800), rng.normal(size=800)])
    one, other = conditional_ability(d, known, 24), conditional_ability(d * 1e-3, known @ [[1, 5.0], [0, 100.0]], 24)
    assert one.p_value == pytest.approx(other.p_value)


def test_instruments_are_what_is_known_at_the_origin(rng):
    d, volatility = rng.normal(size=(2, 200))
    known = instruments(d, volatility, 24)
    assert (known[:, 0] == 1.0).all()
    assert np.isnan(known[:24, 1]).all()
    assert known[24:, 1] == pytest.approx(d[:-24] / d.std())
    for i in (1, 2, 77, 199):
        assert known[i, 2] == float(volatility[i] > np.median(volatility[:i]))
    assert np.isnan(known[0, 2])
    changed = volatility.copy()
    changed[100:] += 5.0
    assert (instruments(d, changed, 24)[1:100, 2] == known[1:100, 2]).all()


def test_a_winner_that_switches_with_known_regimes_is_found(rng):
    calm = np.repeat(np.arange(12) % 2, 240).astype(float)
    d = overlapping(rng, 1, 2880)[0] + 6.0 * (2.0 * calm - 1.0)
    found = conditional_ability(d, np.column_stack([np.ones(2880), calm]), 24)
    assert found.p_value < 0.01
    assert mean_test(d, 24).p_value > 0.05
    assert found.coefficients[1] == pytest.approx(12.0, abs=4.0)


def test_too_short_records_and_collinear_instruments_have_no_conditional_test(rng):
    d = rng.normal(size=200)
    assert np.isnan(conditional_ability(d, np.ones((200, 2)), 1).p_value)
    assert np.isnan(conditional_ability(d[:90], np.ones((90, 1)), 24).p_value)
    with pytest.raises(ValueError, match=r"\(n, q\)"):
        conditional_ability(d, np.ones(200), 1)
    with pytest.raises(ValueError, match="two series of one length"):
        instruments(d, d[1:], 1)


def test_rows_with_nan_are_dropped_from_the_conditional_test(rng):
    d, known = rng.normal(size=300), np.column_stack([np.ones(300), rng.normal(size=300)])
    holed = d.copy()
    holed[7] = np.nan
    one, other = conditional_ability(holed, known, 1), conditional_ability(np.delete(d, 7), np.delete(known, 7, 0), 1)
    assert one.p_value == other.p_value
    assert one.n == 299


def test_the_fluctuation_path_is_a_loop_over_windows(rng):
    d = overlapping(rng, 1, 600)[0]
    found = fluctuation(d, 24, 0.25)
    spread = np.sqrt(long_run_variance(d, 24))
    by_hand = [d[i : i + 150].sum() / np.sqrt(150) / spread for i in range(451)]
    assert found.path == pytest.approx(by_hand)
    assert found.statistic == pytest.approx(np.max(np.abs(by_hand)))
    assert found.start == np.argmax(np.abs(by_hand))
    assert (found.p_value <= 0.05) == (found.statistic >= found.critical_value)


@pytest.mark.parametrize("share", sorted(PUBLISHED))
def test_critical_values_with_the_variance_known_are_the_published_ones(share):
    assert np.quantile(fluctuation_null(share, 0), 0.95) == pytest.approx(PUBLISHED[share], abs=0.06)


def test_few_cosine_terms_need_larger_critical_values():
    quantiles = [np.quantile(fluctuation_null(0.3, terms), 0.95) for terms in (3, 7, 15)]
    assert quantiles[0] > quantiles[1] > quantiles[2]


def test_an_edge_that_comes_and_goes_is_found_with_its_time(rng):
    d = overlapping(rng, 1, 2880)[0]
    d[1400:2000] -= 20.0
    d[:1400] += 20.0 * 600 / 1400
    found = fluctuation(d, 24, 0.2)
    assert found.p_value < 0.05
    assert abs(found.start + found.window / 2 - 1700) < 300
    assert found.path[found.start] < 0.0


def test_short_or_constant_records_have_no_fluctuation_test(rng):
    assert np.isnan(fluctuation(np.ones(300), 1).p_value)
    assert np.isnan(fluctuation(rng.normal(size=90), 24).p_value)
    assert np.isnan(fluctuation(rng.normal(size=100), 24, 0.1).p_value)
    with pytest.raises(ValueError, match=r"share 1\.5"):
        fluctuation(rng.normal(size=100), 1, 1.5)


def test_true_nulls_are_rejected_about_as_often_as_stated(rng):
    """A small version of the proof."""
    d, volatility = clustered(rng, 200, 1500)
    rejected = sum(
        conditional_ability(a, instruments(a, v, 24), 24).p_value < 0.05 for a, v in zip(d, volatility, strict=True)
    )
    assert rejected <= 26
    assert sum(fluctuation(a, 24).p_value < 0.05 for a in overlapping(rng, 200, 1500)) <= 23
    assert sum(fluctuation(a, 24).p_value < 0.05 for a in switching(rng, 100, 2922, 0.4)) > 15
