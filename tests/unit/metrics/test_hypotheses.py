"""Evidence on hypotheses: every number has an entry, rejections share the size, a threshold shifts the claim."""

import numpy as np

from btcbt.metrics.eprocess import conditional_e_process
from btcbt.metrics.hypotheses import HYPOTHESIS_SCORES, account_evidence, forecast_evidence
from tests.unit.metrics.designs import overlapping


def test_no_number_lacks_an_entry_and_no_entry_its_number(rng):
    x = rng.uniform(-1, 1, 200)
    numbers = forecast_evidence(x, np.ones(200), 3, 3, 0.0, 1)
    assert set(numbers) == {one.name for one in HYPOTHESIS_SCORES}
    assert set(account_evidence(x, 3, 0.0, 1)) < set(numbers)


def test_several_hypotheses_share_the_size_of_the_test(rng):
    x = -rng.uniform(0, 0.1, 60) + rng.uniform(-0.02, 0.02, 60)
    highest = conditional_e_process(x, 0.2, 1).values.max()
    assert highest > 20.0
    enough = int(highest * 0.05)
    bound = np.full(60, 0.2)
    assert forecast_evidence(x, bound, 1, 1, 0.0, enough)["rejects"] == 1.0
    assert forecast_evidence(x, bound, 1, 1, 0.0, enough + 1)["rejects"] == 0.0


def test_a_threshold_claims_more_than_a_difference(rng):
    x = np.full(400, -1.0) + rng.uniform(-0.1, 0.1, 400)
    found = [forecast_evidence(x, np.full(400, 2.0), 2, 2, threshold, 1) for threshold in (0.0, 0.5, 1.5)]
    assert [one["rejects"] for one in found] == [1.0, 1.0, 0.0]
    assert found[2]["highest_e_value"] <= 1.0
    assert {one["difference"] for one in found} == {found[0]["difference"]}
    assert account_evidence(-x, 2, 0.5, 1)["rejects"] == 1.0
    assert account_evidence(-x, 2, 1.5, 1)["rejects"] == 0.0


def test_nothing_is_said_before_there_are_hours(rng):
    numbers = forecast_evidence(np.empty(0), np.empty(0), 24, 24, 0.0, 1)
    assert (numbers["e_value"], numbers["rejects"], numbers["hours"]) == (1.0, 0.0, 0.0)
    assert np.isnan(numbers["low"])
    numbers = forecast_evidence(np.array([np.nan, 0.1]), np.array([np.nan, 1.0]), 1, 1, 0.0, 1)
    assert numbers["hours"] == 1.0
    assert account_evidence(overlapping(rng, 1, 300, 2)[0], 24, 0.0, 2)["rejects"] == 0.0
