"""Proof by simulation that no way of making 30 paths out of one and the same forecast wins, beyond Monte-Carlo error.

Run by `make proof`, which prints the figures; a small version is in the ordinary suite.
"""

import numpy as np
import pytest

from btcbt.metrics import ensembles
from tests.unit.metrics.test_ensembles import TRANSFORMATIONS, advantage

pytestmark = pytest.mark.proof


def repeated(rng, score, name, times, n, dims=1, **options):
    gains = [advantage(rng, score, name, n, dims, **options) for _ in range(times)]
    mean, error = np.mean([g for g, _ in gains]), np.sqrt(np.mean([e**2 for _, e in gains]) / times)
    return float(mean), float(error)


@pytest.mark.parametrize("wide", [1.0, 1.25, 0.8])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_no_way_of_making_paths_wins_by_crps(rng, request, name, wide):
    """For a forecast that is right, too wide, or too narrow, on 200,000 outcomes."""
    results = {}
    for rule, kinds in {
        "rule": ("dependent", "independent"),
        "fair for both": ("independent", "independent"),
        "plain for both": ("dependent", "dependent"),
    }.items():
        results[rule] = repeated(rng, ensembles.crps, name, 10, 20_000, wide=wide, kinds=kinds)
    print(f"{request.node.name}: " + ", ".join(f"{rule} {g:+.2f} % ({e:.2f})" for rule, (g, e) in results.items()))
    gain, error = results["rule"]
    assert gain > -3.0 * error


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_no_way_of_making_paths_wins_by_energy_score(rng, request, name):
    gain, error = repeated(rng, ensembles.energy_score, name, 10, 4000, 6)
    print(f"{request.node.name}: rule {gain:+.2f} % ({error:.2f})")
    assert gain > -3.0 * error
