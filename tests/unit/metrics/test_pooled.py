"""Two forecasters on a panel of symbols: against loops, in the cases that are known, and by a small simulation."""

from dataclasses import asdict

import numpy as np
import pytest

from btcbt.metrics.ensembles import path_noise_share
from btcbt.metrics.inference import long_run_variance
from btcbt.metrics.intervals import loss_difference
from btcbt.metrics.multiplicity import adjusted_tests, holm
from btcbt.metrics.pooled import effective_symbols, percent_factors, pooled_comparison
from btcbt.metrics.pooled_versus import POOLED_SCORES, pooled_versus
from btcbt.metrics.score import ALL
from btcbt.metrics.table import dotted_key, find_score, is_headline, score
from btcbt.metrics.versus import Losses
from tests.unit.metrics.designs import HORIZON, overlapping
from tests.unit.metrics.panels import panel

OVERLAP = 4


@pytest.fixture
def losses(rng):
    """Losses of two forecasters on four symbols of different scale, with gaps and a late listing."""
    scale = np.array([1.0, 3.0, 10.0, 30.0])
    a, b = scale * rng.gamma(20.0, 0.5, (2, 300, 4))
    a[:100, 3] = np.nan
    b[40:60, 0] = np.nan
    a[200] = np.nan
    return a, b


def test_the_pooled_difference_is_the_mean_of_the_symbols_at_each_origin_then_of_the_origins(losses):
    a, b = losses
    known = np.isfinite(a) & np.isfinite(b)
    at_origins = []
    for t in range(len(a)):
        own = []
        for i in range(a.shape[1]):
            if known[t, i]:
                own.append(100.0 * (a[t, i] - b[t, i]) / np.mean([b[s, i] for s in range(len(b)) if known[s, i]]))
        if own:
            at_origins.append(np.mean(own))
    found = pooled_comparison(a, b, OVERLAP)
    expected = loss_difference(at_origins, np.zeros(len(at_origins)), OVERLAP)
    assert found.pooled.n == 299
    for name in ("difference", "low", "high", "p_value", "smallest_detectable", "standard_error"):
        assert getattr(found.pooled, name) == pytest.approx(getattr(expected, name), rel=1e-9)
    np.testing.assert_allclose(found.series[np.isfinite(found.series)], at_origins)
    assert np.isnan(found.series[200])


def test_each_symbols_row_is_its_own_difference_in_percent(losses):
    a, b = losses
    found = pooled_comparison(a, b, OVERLAP)
    for i, one in enumerate(found.symbols):
        alone = loss_difference(a[:, i], b[:, i], OVERLAP)
        assert (one.n, one.terms) == (alone.n, alone.terms)
        assert one.p_value == pytest.approx(alone.p_value)
        assert one.difference == pytest.approx(100.0 * alone.difference / alone.relative_to)
        assert one.high == pytest.approx(100.0 * alone.high / alone.relative_to)
        assert one.relative_to == pytest.approx(100.0)


def test_a_panel_of_one_symbol_is_that_symbol(losses):
    a, b = losses
    found = pooled_comparison(a[:, :1], b[:, :1], OVERLAP)
    for name in ("difference", "low", "high", "p_value", "n"):
        assert getattr(found.pooled, name) == pytest.approx(getattr(found.symbols[0], name))
    assert found.effective_symbols == pytest.approx(1.0)
    assert found.joint_p >= found.pooled.p_value


def test_a_volatile_symbol_weighs_no_more_than_a_calm_one(losses):
    a, b = losses
    units = np.array([1.0, 1e-3, 1e6, 7.0])
    found, scaled = pooled_comparison(a, b, OVERLAP), pooled_comparison(units * a, units * b, OVERLAP)
    assert scaled.pooled.difference == pytest.approx(found.pooled.difference)
    assert scaled.pooled.p_value == pytest.approx(found.pooled.p_value)


def test_the_joint_hypothesis_is_tested_by_the_package_s_adjustment_over_symbols(losses):
    a, b = losses
    found = pooled_comparison(a, b, OVERLAP)
    tests = adjusted_tests(found.percent * (a - b), OVERLAP)
    np.testing.assert_array_equal(found.tests.adjusted, tests.adjusted)
    assert found.tests.method == "holm"  # a symbol lacks a third of the origins
    np.testing.assert_array_equal(tests.adjusted, holm(tests.p_value))
    assert found.joint_p == tests.adjusted.min()
    whole = slice(101, 200)
    assert pooled_comparison(a[whole], b[whole], OVERLAP).tests.method == "romano-wolf"


def test_a_difference_of_opposite_sign_on_two_symbols_shows_jointly_and_not_pooled(rng):
    b = rng.gamma(20.0, 0.5, (600, 4))
    a = b * (1.0 + 0.05 * np.array([1.0, -1.0, 0.0, 0.0])) + 0.5 * rng.normal(size=b.shape)
    found = pooled_comparison(a, b, OVERLAP)
    assert found.pooled.p_value > 0.05
    assert found.joint_p < 0.01
    assert (found.tests.adjusted < 0.05).tolist() == [True, True, False, False]


def test_effective_symbols_are_one_if_all_move_as_one_and_all_if_they_are_independent(rng):
    together = np.tile(overlapping(rng, 1, 3000), (5, 1)).T
    assert effective_symbols(together, HORIZON) == pytest.approx(1.0)
    independent = overlapping(rng, 5, 3000).T
    assert 3.8 < effective_symbols(independent, HORIZON) <= 5.0
    # A factor that makes up half of each variance: 1 / (1/2 + 1/2 / 5).
    half = np.mean(
        [effective_symbols((overlapping(rng, 1, 3000) + overlapping(rng, 5, 3000)).T, 24) for _ in range(20)]
    )
    assert half == pytest.approx(1.0 / 0.6, rel=0.1)


def test_effective_symbols_are_the_ratio_of_variances_that_the_formula_says(rng):
    d = overlapping(rng, 3, 500, OVERLAP).T + rng.normal(size=(500, 1))
    terms = int(min(0.4 * 500 ** (2 / 3), 500 / (3 * OVERLAP)))
    each = np.mean([long_run_variance(column, OVERLAP, terms) for column in d.T])
    expected = each / long_run_variance(d.mean(axis=1), OVERLAP, terms)
    assert effective_symbols(d, OVERLAP) == pytest.approx(expected)


def test_effective_symbols_never_exceed_those_that_are_listed(rng):
    d = rng.normal(size=(600, 4))
    d[:300, 1:] = np.nan
    assert 1.0 <= effective_symbols(d, OVERLAP) <= 600 / (300 + 300 / 4)
    mirrored = np.column_stack([d[:, 0], -d[:, 0]])
    assert effective_symbols(mirrored, OVERLAP) == 2.0
    assert np.isnan(effective_symbols(np.zeros((600, 2)), OVERLAP))
    assert np.isnan(effective_symbols(np.full((600, 2), np.nan), OVERLAP))


def test_a_symbol_that_is_hardly_known_or_has_no_positive_loss_is_left_out(losses):
    a, b = losses
    a[: len(a) - 4 * OVERLAP + 1, 1] = np.nan
    b[:, 2] = -b[:, 2]
    found = pooled_comparison(a, b, OVERLAP)
    assert np.isfinite(found.percent).tolist() == [True, False, False, True]
    others = pooled_comparison(a[:, [0, 3]], b[:, [0, 3]], OVERLAP)
    assert asdict(found.pooled) == pytest.approx(asdict(others.pooled))
    assert found.symbols[1].n == 0
    assert np.isnan(found.tests.adjusted[1])
    assert found.effective_symbols == pytest.approx(others.effective_symbols)


def test_nothing_known_gives_nan_and_wrong_shapes_are_refused(losses):
    a, b = losses
    found = pooled_comparison(a[:10], b[:10], OVERLAP)
    assert np.isnan([found.pooled.difference, found.pooled.p_value, found.joint_p, found.effective_symbols]).all()
    assert found.pooled.n == 0
    for left, right in ((a, b[:, :3]), (a[:, 0], b[:, 0]), (a[:, :0], b[:, :0])):
        with pytest.raises(ValueError, match="not two tables"):
            percent_factors(left, right, OVERLAP)


def test_the_table_of_a_panel_has_every_statistic_and_each_key_leads_to_its_entry(losses, rng):
    a, b = losses
    noise = rng.uniform(0.1, 0.2, a.shape)
    made = {"har": {("crps_bps", 6): Losses(b, noise)}, "v1.2": {("crps_bps", 6): Losses(a, 2.0 * noise)}}
    rows = list(pooled_versus(made, "har", ["BTC", "ETH", "SOL.P", "XRP"], OVERLAP))
    assert {row.group for _, row in rows} == {"pooled=har"} | {
        f"pooled=har,symbol={name}" for name in ("BTC", "ETH", "SOL.P", "XRP")
    }
    assert {row.metric.rpartition(".")[2] for _, row in rows} == {one.name for one in POOLED_SCORES}
    numbers = {}
    for name, row in rows:
        key = dotted_key(name, row)
        assert find_score(key) is score("pooled", row.metric.rpartition(".")[2])
        assert is_headline(row, 6) == (",symbol=" not in row.group)
        numbers[key] = row.value
    assert len(numbers) == len(rows)
    found, key = pooled_comparison(a, b, OVERLAP), "forecast.v1.2.pooled."
    assert numbers[f"{key}crps_bps.close.h6.difference_pct"] == found.pooled.difference
    assert numbers[f"{key}crps_bps.close.h6.joint_p"] == found.joint_p
    assert numbers[f"{key}crps_bps.close.h6.symbols"] == 4.0
    assert numbers[f"{key}by_symbol.SOL.P.crps_bps.close.h6.low_pct"] == found.symbols[2].low
    assert numbers[f"{key}by_symbol.ETH.crps_bps.close.h6.adjusted_p"] == found.tests.adjusted[1]
    assert numbers[f"{key}comparisons"] == 1.0
    alone = path_noise_share(
        *(np.mean(found.percent * x, axis=1) for x in (2.0 * noise, noise)), found.pooled.standard_error
    )
    assert numbers[f"{key}crps_bps.close.h6.path_noise"] == pytest.approx(alone)
    assert next(row for _, row in rows if row.channel == ALL).metric == "comparisons"


def test_pooled_p_values_are_adjusted_for_the_table(losses, rng):
    a, b = losses
    noise = np.zeros_like(a)
    made = {
        name: {("crps_bps", h): Losses(x * (1 + 0.1 * (h == 1)), noise) for h in (1, 6)}
        for name, x in (("a", a), ("c", a[::-1]))
    }
    made["har"] = {("crps_bps", h): Losses(b, noise) for h in (1, 6)}
    found = {dotted_key(name, row): row.value for name, row in pooled_versus(made, "har", list("wxyz"), OVERLAP)}
    series = [pooled_comparison(made[n]["crps_bps", h].loss, b, OVERLAP).series for n in ("a", "c") for h in (1, 6)]
    expected = adjusted_tests(np.column_stack(series), OVERLAP)
    keys = [f"forecast.{n}.pooled.crps_bps.close.h{h}" for n in ("a", "c") for h in (1, 6)]
    np.testing.assert_array_equal([found[f"{key}.adjusted_p"] for key in keys], expected.adjusted)
    assert found["forecast.a.pooled.romano_wolf"] == 1.0
    assert found[f"{keys[0]}.adjusted_p"] < 0.05


def test_a_table_needs_two_forecasters_and_a_column_for_each_symbol(losses):
    a, b = losses
    noise = np.zeros_like(a)
    assert list(pooled_versus({"har": {("crps_bps", 1): Losses(b, noise)}}, "har", list("wxyz"), OVERLAP)) == []
    made = {"har": {("crps_bps", 1): Losses(b, noise)}, "x": {("crps_bps", 1): Losses(a, noise)}}
    with pytest.raises(ValueError, match="one column for each of"):
        list(pooled_versus(made, "har", ["BTC"], OVERLAP))


def test_equal_forecasters_on_coins_with_a_common_factor_are_told_apart_about_as_often_as_stated(rng):
    """The small version of `test_panels_proof`: 5 % of 200 records, and 2.6 standard errors above."""
    found = [pooled_comparison(*panel(rng, 720, 5, unbalanced=True).losses(), HORIZON) for _ in range(200)]
    assert np.mean([one.pooled.p_value <= 0.05 for one in found]) <= 0.09
    assert np.mean([one.joint_p <= 0.05 for one in found]) <= 0.09
    assert 1.5 < np.mean([one.effective_symbols for one in found]) < 3.5
