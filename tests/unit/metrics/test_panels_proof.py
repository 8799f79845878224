"""Proofs by simulation for panels of symbols: pooled tests and rankings hold their size, and what pooling is worth.

Run by `make proof`, which prints the figures; small versions are in `test_pooled.py` and `test_cross_section.py`.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from btcbt.candles import bundled_names, read_candles
from btcbt.metrics.cross_section import CrossSection, cross_section
from btcbt.metrics.pooled import PooledComparison, pooled_comparison
from btcbt.metrics.ranking import MEASURES
from btcbt.records import CLOSE
from tests.unit.metrics.designs import HORIZON
from tests.unit.metrics.panels import panel

pytestmark = pytest.mark.proof
RECORDS = 2000
MONTH = 720


def report(request, **rates: float) -> None:
    print(f"{request.node.name}: " + ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items()))


def compared(rng, n, k, edge=0.0, **design) -> list[PooledComparison]:
    return [pooled_comparison(*panel(rng, n, k, **design).losses(edge), HORIZON) for _ in range(RECORDS)]


def ranked(rng, n, k, edge=0.0, runs=39, **design) -> list[CrossSection]:
    return [cross_section(*panel(rng, n, k, **design).ranked(edge), HORIZON, runs=runs, seed=i) for i in range(RECORDS)]


def as_if_independent(found: PooledComparison) -> float:
    """P-value of the pooled difference if symbols were taken for independent of each other."""
    error = np.sqrt(sum(one.standard_error**2 for one in found.symbols)) / len(found.symbols)
    return float(2.0 * stats.t.sf(abs(found.pooled.difference) / error, sum(one.terms for one in found.symbols)))


@pytest.mark.parametrize(
    ("n", "k", "unbalanced"), [(MONTH, 5, False), (MONTH, 10, True), (2 * MONTH, 5, True), (4 * MONTH, 5, False)]
)
def test_pooled_tests_hold_their_size(rng, request, n, k, unbalanced):
    found = compared(rng, n, k, unbalanced=unbalanced, follows_beta=1.0)
    pooled = float(np.mean([one.pooled.p_value <= 0.05 for one in found]))
    joint = float(np.mean([one.joint_p <= 0.05 for one in found]))
    one_symbol = float(np.mean([one.symbols[0].p_value <= 0.05 for one in found]))
    stacked = float(np.mean([as_if_independent(one) <= 0.05 for one in found]))
    report(request, pooled=pooled, joint=joint, one_symbol=one_symbol, as_if_independent=stacked)
    print(f"  effective symbols {np.mean([one.effective_symbols for one in found]):.1f} of {k}")
    assert 0.03 <= pooled <= 0.07
    # Holm's adjustment, where symbols are not listed all the time, is careful.
    assert 0.01 <= joint <= 0.07
    assert stacked > 0.075


def test_pooling_finds_what_one_symbol_cannot_show(rng, request):
    """A difference of 3 % over four months of five coins."""
    found = compared(rng, 4 * MONTH, 5, edge=0.03, follows_beta=1.0)
    pooled = float(np.mean([one.pooled.p_value <= 0.05 for one in found]))
    one_symbol = float(np.mean([one.symbols[0].p_value <= 0.05 for one in found]))
    report(request, pooled=pooled, one_symbol=one_symbol)
    detectable = np.median([[one.pooled.smallest_detectable, one.symbols[0].smallest_detectable] for one in found], 0)
    print(f"  smallest detectable difference: pooled {detectable[0]:.1f} %, one symbol {detectable[1]:.1f} %")
    assert pooled > 1.5 * one_symbol


@pytest.fixture(scope="module")
def coins():
    """CRPS at 24 h of normal forecasts with two volatilities (EWMA, a week) on the bundled coins, 2019-06 .. 09."""
    histories = {name: read_candles(f"bundled:{name}") for name in bundled_names() if name.endswith("_1h")}
    close = pd.DataFrame({k: pd.Series(np.log(one.values[:, CLOSE]), one.open_time) for k, one in histories.items()})
    hourly, outcome = close.diff(), close.shift(-HORIZON) - close
    spreads = hourly.ewm(alpha=0.06).std(), hourly.rolling(168, min_periods=160).std()
    rows = close.index >= pd.Timestamp("2019-06-01").value // 1_000_000

    def crps(spread):
        z = outcome / spread
        return (spread * (z * (2.0 * stats.norm.cdf(z) - 1.0) + 2.0 * stats.norm.pdf(z) - np.pi**-0.5))[rows].to_numpy()

    return tuple(crps(spread * np.sqrt(HORIZON)) for spread in spreads)


def test_five_real_coins_are_worth_fewer(request, coins):
    found = pooled_comparison(*coins, HORIZON)
    print(f"\n{request.node.name}: effective symbols {found.effective_symbols:.1f} of {len(found.symbols)}")
    for one in (found.pooled, *found.symbols):
        print(
            f"  {one.difference:+.1f} % ({one.low:+.1f} .. {one.high:+.1f}), detectable {one.smallest_detectable:.1f} %"
        )
    assert 1.2 < found.effective_symbols < 2.0
    assert found.pooled.smallest_detectable < np.median([one.smallest_detectable for one in found.symbols])


def test_pooled_tests_hold_their_size_on_real_coins_with_signs_flipped_in_blocks(rng, request, coins):
    """The sign of a day is that of all coins, so that their dependence stays."""
    loss, reference = coins
    n, centred = len(loss), loss - reference - np.nanmean(loss - reference, axis=0)
    pooled, joint = [], []
    for _ in range(RECORDS):
        signs = np.repeat(rng.choice([-1.0, 1.0], n // HORIZON + 2), HORIZON)[rng.integers(HORIZON) :][:n]
        found = pooled_comparison(reference + signs[:, None] * centred, reference, HORIZON)
        pooled.append(found.pooled.p_value <= 0.05)
        joint.append(found.joint_p <= 0.05)
    report(request, pooled=float(np.mean(pooled)), joint=float(np.mean(joint)))
    assert np.mean(pooled) <= 0.07
    assert np.mean(joint) <= 0.07


@pytest.mark.parametrize(
    ("n", "unbalanced", "follows_beta"), [(MONTH, False, 1.0), (MONTH, False, 3.0), (MONTH, True, 1.0)]
)
def test_rankings_of_symbols_hold_their_size(rng, request, n, unbalanced, follows_beta):
    found = ranked(rng, n, 5, unbalanced=unbalanced, follows_beta=follows_beta)
    for name in MEASURES:
        of = [one.measures[name] for one in found]
        rate, placebo, above = (
            float(np.mean(hits))
            for hits in (
                [one.p_value <= 0.05 for one in of],
                [one.placebo_p <= 0.05 for one in of],
                [one.mean > one.placebo_high for one in of],
            )
        )
        report(request, **{name: rate, "placebo": placebo, "mean above 97.5 % of the placebos'": above})
        assert 0.03 <= rate <= 0.07
        assert 0.03 <= placebo <= 0.075


@pytest.mark.parametrize(("k", "least"), [(5, 0.1), (20, 0.4)])
def test_rankings_of_more_symbols_find_a_smaller_edge(rng, request, k, least):
    """Forecasts that hold 2 % of what comes, over two months."""
    found = ranked(rng, 2 * MONTH, k, edge=0.02, runs=0)
    rates = {name: float(np.mean([one.measures[name].p_value <= 0.05 for one in found])) for name in MEASURES}
    report(request, **rates)
    print(f"  mean IC {np.mean([one.measures['ic'].mean for one in found]):.3f}")
    assert rates["ic"] > least
