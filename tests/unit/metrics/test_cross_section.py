"""Ranking of symbols: against loops over origins and scipy, placebos against their definition, a small simulation."""

import numpy as np
import pytest
from scipy import stats

from btcbt.metrics.cross_section import cross_section
from btcbt.metrics.cross_section_scores import CROSS_SECTION_SCORES, cross_section_rows
from btcbt.metrics.inference import mean_test, regime_cosine_terms
from btcbt.metrics.ranking import FEWEST_SYMBOLS, MEASURES, rank_symbols
from btcbt.metrics.table import dotted_key, find_score, is_headline, score
from tests.unit.metrics.designs import HORIZON
from tests.unit.metrics.panels import panel

OVERLAP = 4


@pytest.fixture
def tables(rng):
    """Forecasts with ties and outcomes of eleven symbols, some of which are not there, and rows that rank nothing."""
    outcome = rng.standard_t(3, (200, 11)) * 50.0
    forecast = np.round(0.01 * outcome + rng.normal(size=outcome.shape), 1)
    forecast[rng.random(outcome.shape) < 0.2] = np.nan
    outcome[rng.random(outcome.shape) < 0.2] = np.nan
    forecast[5, 2:] = np.nan
    forecast[6] = 0.5
    outcome[7] = 0.0
    return forecast, outcome


def tail(values, places, sign):
    """Membership of the `places` highest (sign 1) or lowest: ties share what is left."""
    out = np.zeros(len(values))
    for i, value in enumerate(values):
        beyond, equal = np.sum(sign * values > sign * value), np.sum(values == value)
        out[i] = min(max((places - beyond) / equal, 0.0), 1.0)
    return out / places


def one_origin(f, y, share=0.2):
    """The four measures and the chance of hits at one origin, with scipy; None if it is left out."""
    both = np.isfinite(f) & np.isfinite(y)
    f, y = f[both], y[both]
    if len(f) < FEWEST_SYMBOLS or np.ptp(f) == 0.0 or np.ptp(y) == 0.0:
        return None
    places = max(1, int(share * len(f)))
    spread = tail(f, places, 1) @ y - tail(f, places, -1) @ y
    above, up = (np.sign(np.where(np.isclose(x, x.mean(), rtol=0.0, atol=1e-12), 0.0, x - x.mean())) for x in (f, y))
    hits = np.mean([1.0 if a == u != 0 else 0.5 if a * u == 0 else 0.0 for a, u in zip(above, up, strict=True)])
    measures = [stats.pearsonr(f, y)[0], stats.spearmanr(f, y)[0], spread, hits]
    return measures, 0.5 + 0.5 * above.mean() * up.mean()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_every_measure_equals_a_loop_over_origins(tables, share):
    forecast, outcome = tables
    found = rank_symbols(forecast, outcome, share=share)
    left_out = 0
    for t in range(len(forecast)):
        expected = one_origin(forecast[t], outcome[t], share)
        if expected is None:
            left_out += 1
            assert np.isnan(found.values[:, t]).all()
            continue
        np.testing.assert_allclose(found.values[:, t], expected[0], rtol=1e-9, atol=1e-12)
        assert found.chance[3, t] == pytest.approx(expected[1])
    assert left_out == 3
    assert (found.too_few, found.tied) == (1, 2)
    assert np.nanmax(np.abs(found.forecast.sum(axis=2))) < 1e-12


def test_means_intervals_and_p_values_are_those_of_the_overlap_aware_test(tables):
    forecast, outcome = tables
    found = cross_section(forecast, outcome, OVERLAP, runs=0)
    rows = [one for f, y in zip(forecast, outcome, strict=True) if (one := one_origin(f, y)) is not None]
    assert found.origins == len(rows) == 197
    terms = regime_cosine_terms(len(rows), OVERLAP)
    for k, name in enumerate(MEASURES):
        values, chance = np.array([m[k] for m, _ in rows]), np.array([c if k == 3 else 0.0 for _, c in rows])
        measure, mean, test = (
            found.measures[name],
            mean_test(values, OVERLAP, terms),
            mean_test(values - chance, OVERLAP, terms),
        )
        assert (measure.mean, measure.p_value) == (pytest.approx(mean.mean), pytest.approx(test.p_value))
        assert (measure.low, measure.high) == pytest.approx(mean.interval())
        assert measure.positive == pytest.approx(np.mean(values - chance > 1e-12), abs=0.02)
        assert measure.chance == pytest.approx(chance.mean())
        assert measure.smallest_detectable > 2.8 * test.standard_error
    valid = np.isfinite(forecast) & np.isfinite(outcome)
    assert found.symbols == pytest.approx(np.delete(valid.sum(axis=1), [5, 6, 7]).mean())


def test_placebos_shuffle_the_symbols_of_an_origin_and_hold_the_shuffle_over_blocks(tables):
    """The slow twin: each run moves the forecasts themselves, and every measure is computed anew."""
    forecast, outcome = tables
    keep = [t for t in range(len(forecast)) if one_origin(forecast[t], outcome[t]) is not None]
    f, y = forecast[keep], outcome[keep]
    found = cross_section(forecast, outcome, OVERLAP, runs=39, seed=3)
    means, statistics = np.empty((4, 39)), np.empty((4, 39))
    terms = regime_cosine_terms(len(keep), OVERLAP)
    for run in range(39):
        rng = np.random.default_rng((3, run))
        phase = int(rng.integers(OVERLAP))
        keys = rng.random(((len(f) - 1 + phase) // OVERLAP + 1, f.shape[1]))
        moved = np.full_like(f, np.nan)
        for t in range(len(f)):
            known = np.flatnonzero(np.isfinite(f[t]) & np.isfinite(y[t]))
            moved[t, known] = f[t, known[np.argsort(keys[(t + phase) // OVERLAP][known])]]
        shuffled = rank_symbols(moved, y)
        for k in range(4):
            means[k, run] = shuffled.values[k].mean()
            statistics[k, run] = mean_test(shuffled.values[k] - shuffled.chance[k], OVERLAP, terms).statistic
    for k, name in enumerate(MEASURES):
        one = found.measures[name]
        real = mean_test(one.series, OVERLAP, terms).statistic
        assert one.placebo_p == pytest.approx((1 + np.sum(statistics[k] >= real)) / 40)
        assert (one.placebo_low, one.placebo_high) == pytest.approx(tuple(np.quantile(means[k], [0.025, 0.975])))


def test_a_forecaster_that_knows_is_found_and_one_that_is_reversed_is_not(rng):
    outcome = rng.normal(size=(400, 6))
    forecast = 0.5 * outcome + rng.normal(size=outcome.shape)
    for measure in cross_section(forecast, outcome, OVERLAP).measures.values():
        assert measure.p_value < 0.01
        assert measure.placebo_p == 1 / 200
        assert measure.low > max(measure.placebo_high, measure.chance)
    for measure in cross_section(-forecast, outcome, OVERLAP).measures.values():
        assert measure.p_value < 0.01
        assert measure.placebo_p == 1.0


def test_ranks_and_sides_do_not_depend_on_units_or_on_what_all_symbols_share(rng):
    outcome, forecast = rng.normal(size=(2, 300, 5))
    market = rng.normal(size=(300, 1))
    one, other = (
        cross_section(*given, OVERLAP, runs=19)
        for given in ((forecast, outcome), (7 * forecast + market, outcome - 9 * market))
    )
    for name in MEASURES:
        assert other.measures[name].mean == pytest.approx(one.measures[name].mean)
        assert other.measures[name].placebo_p == one.measures[name].placebo_p


def test_two_symbols_short_records_and_nothing_known_give_nan_and_are_counted(rng):
    f, y = rng.normal(size=(2, 100, 2))
    found = cross_section(f, y, OVERLAP)
    assert (found.origins, found.too_few, found.tied) == (0, 100, 0)
    assert all(np.isnan([one.mean, one.p_value, one.placebo_p, one.low]).all() for one in found.measures.values())
    f, y = rng.normal(size=(2, 15, 5))
    short = cross_section(f, y, OVERLAP)
    assert short.origins == 15
    assert np.isfinite(short.measures["ic"].mean)
    assert np.isnan([short.measures["ic"].p_value, short.measures["ic"].placebo_p]).all()
    flat = cross_section(np.zeros((100, 5)), rng.normal(size=(100, 5)), OVERLAP)
    assert (flat.origins, flat.tied) == (0, 100)
    assert cross_section(np.empty((0, 5)), np.empty((0, 5)), OVERLAP).origins == 0


def test_tables_that_do_not_fit_are_refused(rng):
    f, y = rng.normal(size=(2, 100, 5))
    with pytest.raises(ValueError, match="not two tables"):
        cross_section(f, y[:, :4], OVERLAP)
    with pytest.raises(ValueError, match="share"):
        cross_section(f, y, OVERLAP, share=0.6)


def test_a_run_of_the_placebos_does_not_depend_on_their_number(rng):
    f, y = rng.normal(size=(2, 200, 5))
    few, many = (cross_section(f, y, OVERLAP, runs=runs).measures["ic"] for runs in (1, 2))
    assert few.placebo_low == few.placebo_high
    assert many.placebo_low < many.placebo_high
    span = (many.placebo_high - many.placebo_low) / 0.95
    ends = np.array([many.placebo_low - 0.025 * span, many.placebo_high + 0.025 * span])
    assert np.abs(ends - few.placebo_low).min() < 1e-9


def test_the_rows_have_every_statistic_and_each_key_leads_to_its_entry(tables):
    forecast, outcome = tables
    given = {"v1.2": {1: forecast, 24: forecast}, "zero": {1: np.zeros_like(forecast)}}
    rows = list(cross_section_rows(given, {1: outcome, 24: outcome[::-1]}, OVERLAP, runs=9))
    assert {row.metric for _, row in rows} == {one.name for one in CROSS_SECTION_SCORES}
    numbers = {}
    for name, row in rows:
        key = dotted_key(name, row)
        assert find_score(key) is score("cross_section", row.metric)
        assert is_headline(row, 24)
        numbers[key] = row.value
    assert len(numbers) == len(rows) == 3 * len(CROSS_SECTION_SCORES)
    found = cross_section(forecast, outcome, OVERLAP, runs=9)
    assert numbers["forecast.v1.2.cross_section.rank_ic.h1.mean"] == found.measures["rank_ic"].mean
    assert (
        numbers["forecast.v1.2.cross_section.hit_rate.h1.detectable"] == found.measures["hit_rate"].smallest_detectable
    )
    assert numbers["forecast.v1.2.cross_section.ranked.h1.tied"] == 2.0
    assert numbers["forecast.v1.2.cross_section.ic.h1.adjusted_p"] >= found.measures["ic"].p_value - 1e-12
    assert numbers["forecast.zero.cross_section.ranked.h1.origins"] == 0.0
    assert np.isnan(numbers["forecast.zero.cross_section.ic.h1.adjusted_p"])
    assert find_score("forecast.zero.cross_section") is None
    assert list(cross_section_rows({}, {}, OVERLAP)) == []


def test_forecasts_that_know_nothing_are_found_to_rank_about_as_often_as_stated(rng):
    """The small version of `test_panels_proof`: forecasts follow betas, so that their shuffles are less noisy."""
    found = [
        cross_section(*panel(rng, 480, 5, unbalanced=True, follows_beta=3.0).ranked(), HORIZON, runs=19, seed=i)
        for i in range(200)
    ]
    for name in ("ic", "rank_ic", "hit_rate"):
        assert np.mean([one.measures[name].p_value <= 0.05 for one in found]) <= 0.09
        assert np.mean([one.measures[name].placebo_p <= 0.05 for one in found]) <= 0.09
