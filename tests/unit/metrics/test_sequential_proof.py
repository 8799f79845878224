"""Proofs by simulation that evidence may be looked at after every hour of a year of overlapping 24-step forecasts.

Run by `make proof`, which prints the figures; small versions are in the ordinary suite.
"""

import numpy as np
import pytest
from scipy import stats

from btcbt.metrics.confidence_sequence import confidence_sequence
from btcbt.metrics.eprocess import average_e_process, conditional_e_process
from btcbt.metrics.inference import regime_cosine_terms
from tests.unit.metrics.designs import HORIZON, clustered, overlapping, switching, t_rejections

pytestmark = pytest.mark.proof
YEAR, RECORDS, CHUNK = 8760, 2000, 200
PROCESSES = {"conditional": conditional_e_process, "average": average_e_process}


def report(request, **rates: float) -> None:
    print(f"{request.node.name}: " + ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items()))


def crps_normal(z):
    return z * (2.0 * stats.norm.cdf(z) - 1.0) + 2.0 * stats.norm.pdf(z) - 1.0 / np.sqrt(np.pi)


def crps_differences(rng, edge: float = 0.0, volatile: bool = False):
    """CRPS of N(0.05 s, s^2) less that of N(-0.05 s, s^2) for 24-hour returns, and its bound, (n, records).

    s is known at the origin: 1, or clustered. An edge moves the truth towards the first, in standard errors of a year.
    """
    returns = overlapping(rng, CHUNK, YEAR) / np.sqrt(HORIZON)
    scale = clustered(rng, CHUNK, YEAR)[1] if volatile else np.ones_like(returns)
    z = returns + edge * np.sqrt(HORIZON / YEAR)
    return (scale * (crps_normal(z - 0.05) - crps_normal(z + 0.05))).T, (0.1 * scale).T


@pytest.mark.parametrize("volatile", [False, True])
@pytest.mark.parametrize("name", PROCESSES)
def test_an_e_process_gives_a_false_alarm_in_at_most_5_of_100_years(rng, request, name, volatile):
    rates = [PROCESSES[name](*crps_differences(rng, 0.0, volatile), HORIZON).rejects() for _ in range(RECORDS // CHUNK)]
    report(request, alarms=float(np.mean(rates)))
    assert np.mean(rates) <= 0.05


@pytest.mark.parametrize("edge", [3.0, 4.0, 5.0])
def test_e_processes_find_an_edge_less_often_than_one_test_at_the_end(rng, request, edge):
    found = {name: [] for name in PROCESSES}
    at_the_end, sequence = [], []
    for _ in range(RECORDS // CHUNK):
        d, bound = crps_differences(rng, edge)
        for name, process in PROCESSES.items():
            found[name].append(process(d, bound, HORIZON).rejects().mean())
        sequence.append(confidence_sequence(d, HORIZON).excludes().mean())
        at_the_end.append(t_rejections(d.T, regime_cosine_terms(YEAR, HORIZON)))
    rates = {name: float(np.mean(rate)) for name, rate in found.items()}
    report(request, **rates, sequence=float(np.mean(sequence)), fixed_sample=float(np.mean(at_the_end)))
    assert rates["conditional"] >= {3.0: 0.45, 4.0: 0.75, 5.0: 0.9}[edge]
    assert rates["average"] >= {3.0: 0.15, 4.0: 0.45, 5.0: 0.8}[edge]


@pytest.mark.parametrize("design", ["overlap", "regimes", "volatility"])
def test_a_confidence_sequence_leaves_the_truth_out_in_at_most_5_of_100_years(rng, request, design):
    make = {
        "overlap": overlapping,
        "regimes": switching,
        "volatility": lambda *arguments: clustered(*arguments)[0],
    }[design]
    rates = [confidence_sequence(make(rng, CHUNK, YEAR).T, HORIZON).excludes() for _ in range(RECORDS // CHUNK)]
    report(request, alarms=float(np.mean(rates)), daily_tests=looking_daily(make(rng, CHUNK, YEAR)))
    assert np.mean(rates) <= 0.05


def looking_daily(x) -> float:
    """Share of records in which a fixed-sample test, repeated daily from the third month on, ever rejects."""
    rejected = np.zeros(len(x), dtype=bool)
    for n in range(2160, YEAR, 24):
        terms = regime_cosine_terms(n, HORIZON)
        rejected |= np.array([t_rejections(row[None, :n], terms) > 0.0 for row in x])
    return float(rejected.mean())
