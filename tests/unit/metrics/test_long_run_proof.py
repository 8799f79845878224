"""Proofs by simulation of tests and intervals of loss differences: where regimes switch, in tables, over time.

Run by `make proof`, which prints the figures; small versions are in the ordinary suite.
"""

import numpy as np
import pytest
from scipy import stats

from btcbt.metrics.conditional import conditional_ability, fluctuation, instruments
from btcbt.metrics.inference import cosine_terms, regime_cosine_terms
from btcbt.metrics.intervals import rate_interval, smallest_detectable
from btcbt.metrics.multiplicity import adjusted_tests, holm
from tests.unit.metrics.designs import HORIZON, clustered, flipped, overlapping, switching, t_rejections

pytestmark = pytest.mark.proof
RECORDS, CHUNK = 4000, 500
DESIGNS = {"overlap": overlapping, "regimes": switching}


def report(request, **rates: float) -> None:
    print(f"{request.node.name}: " + ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items()))


def rejections(rng, design, n: int, terms: int, shift: float = 0.0) -> float:
    chunks = (design(rng, CHUNK, n) + shift for _ in range(RECORDS // CHUNK))
    return float(np.mean([t_rejections(chunk, terms) for chunk in chunks]))


@pytest.mark.parametrize("n", [720, 2922, 8760])
@pytest.mark.parametrize("design", DESIGNS)
def test_few_terms_hold_the_size_in_both_designs(rng, request, design, n):
    few, many = (rejections(rng, DESIGNS[design], n, rule(n, HORIZON)) for rule in (regime_cosine_terms, cosine_terms))
    report(request, few=few, many=many)
    # A month has three regimes: no test knows much about them.
    assert 0.04 <= few <= (0.085 if n == 720 and design == "regimes" else 0.07)
    assert (many > 0.085) == (design == "regimes")


@pytest.mark.parametrize("n", [720, 2922, 8760])
def test_what_few_terms_cost_in_power(rng, request, n):
    shift = 3.0 * HORIZON / np.sqrt(n)
    few, many = (
        rejections(rng, overlapping, n, rule(n, HORIZON), shift) for rule in (regime_cosine_terms, cosine_terms)
    )
    report(request, few=few, many=many)
    # A month of hours is 30 stretches and three regimes: there is not much to know a variance from.
    assert few >= {720: 0.35, 2922: 0.70, 8760: 0.77}[n]


@pytest.mark.parametrize("n", [720, 2922, 8760])
def test_the_smallest_detectable_difference_is_found_four_times_in_five(rng, request, n):
    terms = regime_cosine_terms(n, HORIZON)
    found = rejections(rng, overlapping, n, terms, smallest_detectable(HORIZON / np.sqrt(n), terms))
    report(request, found=found)
    assert 0.77 <= found <= 0.83


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("n", [720, 2922, 8760])
def test_intervals_of_rates_hold_the_truth(rng, request, n, share):
    """Direction (half right) and coverage (nine in ten) of forecasts that overlap."""
    limit = stats.norm.ppf(share) * np.sqrt(HORIZON)
    missed = 0
    for _ in range(4):
        for hits in overlapping(rng, CHUNK, n) < limit:
            rate = rate_interval(hits, HORIZON)
            missed += not rate.low <= share <= rate.high
    report(request, missed=missed / 2000)
    assert 0.02 <= missed / 2000 <= 0.07


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("n", "k"), [(720, 12), (2922, 12), (2922, 28)])
def test_tables_of_equal_forecasters_make_no_claim_in_95_of_100(rng, request, design, n, k):
    any_adjusted = any_raw = any_holm = 0
    for i in range(2000):
        table = (0.7 * DESIGNS[design](rng, 1, n) + overlapping(rng, k, n)).T
        found = adjusted_tests(table, HORIZON, reps=999, seed=i)
        any_adjusted += found.adjusted.min() <= 0.05
        any_holm += holm(found.p_value).min() <= 0.05
        any_raw += found.p_value.min() <= 0.05
    report(request, adjusted=any_adjusted / 2000, holm=any_holm / 2000, not_adjusted=any_raw / 2000)
    assert any_adjusted / 2000 <= 0.07


def test_the_step_down_finds_more_than_holm(rng, request):
    """Two of twelve comparisons differ by four standard errors; all have a correlation of a half."""
    found = by_holm = 0
    for i in range(2000):
        table = (overlapping(rng, 1, 2922) + overlapping(rng, 12, 2922)).T
        table[:, :2] += 4.0 * np.sqrt(2.0) * HORIZON / np.sqrt(2922)
        tests = adjusted_tests(table, HORIZON, reps=999, seed=i)
        found += (tests.adjusted[:2] <= 0.05).mean()
        by_holm += (holm(tests.p_value)[:2] <= 0.05).mean()
    report(request, step_down=found / 2000, holm=by_holm / 2000)
    assert found > by_holm


@pytest.mark.parametrize("n", [720, 2922, 8760])
def test_conditional_ability_holds_its_size(rng, request, n):
    rejected = 0
    for _ in range(20):
        for d, v in zip(*clustered(rng, 100, n), strict=True):
            rejected += conditional_ability(d, instruments(d, v, HORIZON), HORIZON).p_value <= 0.05
    report(request, rejected=rejected / 2000)
    # Products of two heavy-tailed losses: it rejects a little too often in a month.
    assert 0.03 <= rejected / 2000 <= (0.09 if n == 720 else 0.075)


def test_conditional_ability_finds_regimes_that_cancel_on_average(rng, request):
    found = unconditional = 0
    for d, v in zip(*clustered(rng, 2000, 2922), strict=True):
        d = d + 5.0 * np.sign(v - 1.0)
        found += conditional_ability(d, instruments(d, v, HORIZON), HORIZON).p_value <= 0.05
        unconditional += t_rejections(d[None], cosine_terms(2922, HORIZON))
    report(request, found=found / 2000, unconditional=unconditional / 2000)
    assert found / 2000 > 0.5


@pytest.mark.parametrize("n", [720, 2922, 8760])
def test_fluctuation_holds_its_size(rng, request, n):
    rejected = np.mean([[fluctuation(d, HORIZON).p_value <= 0.05 for d in overlapping(rng, 500, n)] for _ in range(4)])
    report(request, rejected=rejected)
    # In a month the overlap smooths a good part of each window, and it rejects too seldom.
    assert (0.02 if n == 720 else 0.03) <= rejected <= 0.07


def test_fluctuation_finds_an_edge_that_comes_and_goes(rng, request):
    """Better by four standard errors of a third of the record in one third, worse by half of that in the rest."""
    edge = 4.0 * HORIZON / np.sqrt(2922 / 3) * np.repeat([1.0, -0.5, -0.5], 974)
    found = unconditional = 0
    for d in overlapping(rng, 2000, 2922) + edge:
        found += fluctuation(d, HORIZON).p_value <= 0.05
        unconditional += t_rejections(d[None], cosine_terms(2922, HORIZON))
    report(request, found=found / 2000, unconditional=unconditional / 2000)
    assert found / 2000 > 0.6


@pytest.fixture(scope="module")
def real_difference(tmp_path_factory):
    """CRPS of two cheap forecasters at 24 h, a year of bundled hours: its tails, clusters and overlap are real."""
    import btcbt
    from btcbt.config import RunConfig

    config = {
        "name": "real",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"start": "2018-06-01", "end": "2019-06-01", "context": 168, "horizon": HORIZON},
        "forecasters": {
            "walk": {"kind": "random_walk", "n_paths": 50},
            "ewma": {"kind": "ewma_volatility", "n_paths": 50},
        },
        "store": {"root": str(tmp_path_factory.mktemp("real"))},
    }
    losses = btcbt.run(RunConfig.model_validate(config)).losses()
    difference = (losses["ewma.crps_bps.h24"] - losses["walk.crps_bps.h24"]).to_numpy()
    return difference[np.isfinite(difference)]


@pytest.mark.parametrize("months", [4, 12])
@pytest.mark.parametrize("block", [24, 240, 480])
def test_the_size_on_a_real_difference_with_signs_flipped_in_blocks(rng, request, real_difference, block, months):
    real_difference = real_difference[-730 * months :]
    n = len(real_difference)
    rates = {
        name: float(
            np.mean(
                [
                    t_rejections(flipped(rng, real_difference, CHUNK, block), rule(n, HORIZON))
                    for _ in range(RECORDS // CHUNK)
                ]
            )
        )
        for name, rule in (("few", regime_cosine_terms), ("many", cosine_terms))
    }
    report(request, **rates)
    # Few blocks of unequal weight (one volatile month) leave little to know a variance from.
    assert rates["few"] <= (0.06 if block == HORIZON else 0.10)
