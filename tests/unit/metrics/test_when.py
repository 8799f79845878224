from __future__ import annotations

import numpy as np
import pytest

from btcbt.metrics.conditional import conditional_ability, fluctuation, instruments
from btcbt.metrics.intervals import loss_difference
from btcbt.metrics.score import POOLED
from btcbt.metrics.versus import Losses
from btcbt.metrics.when import when

HOUR = 3_600_000
START = 1_559_347_200_000  # 2019-06-01


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(4)
    n = 24 * 75
    origins = START + HOUR * np.arange(n)
    volatility = np.exp(np.repeat(rng.normal(size=n // 24), 24))
    theirs = rng.gamma(2.0, 50.0, n)
    ours = theirs + rng.normal(0, 5, n) + np.where(origins < START + 30 * 24 * HOUR, -4.0, 0.0)
    none = np.full(n, np.nan)
    losses = {
        "har": {("crps_bps", 6): Losses(theirs, none), ("energy_bps", POOLED): Losses(theirs, none)},
        "kronos": {("crps_bps", 6): Losses(ours, none), ("energy_bps", POOLED): Losses(ours, none)},
    }
    rows = list(when(losses, "har", origins, volatility, lambda step: step, 6))
    return rows, ours, theirs, volatility, origins


def value(found, group, metric, step=6):
    rows = [row for name, row in found[0] if (name, row.group, row.metric, row.step) == ("kronos", group, metric, step)]
    assert len(rows) == 1
    return rows[0].value


def test_the_difference_of_each_month_is_that_of_its_origins_alone(found):
    _, ours, theirs, _, origins = found
    june = origins < START + 30 * 24 * HOUR
    expected = loss_difference(ours[june], theirs[june], 6)
    group = "opponent=har,month=2019-06"
    assert value(found, group, "crps_bps.difference_pct") == pytest.approx(
        100 * expected.difference / theirs[june].mean()
    )
    assert value(found, group, "crps_bps.high_pct") == pytest.approx(100 * expected.high / theirs[june].mean())
    assert value(found, group, "crps_bps.high_pct") < 0 < value(found, group.replace("06", "07"), "crps_bps.high_pct")


def test_the_tests_are_those_of_the_difference_with_its_overlap(found):
    _, ours, theirs, volatility, origins = found
    difference = ours - theirs
    conditional = conditional_ability(difference, instruments(difference, volatility, 6), 6)
    moving = fluctuation(difference, 6)
    group = "opponent=har"
    assert value(found, group, "crps_bps.conditional_p") == conditional.p_value
    assert value(found, group, "crps_bps.high_volatility_bps") == conditional.coefficients[2]
    assert value(found, group, "crps_bps.fluctuation_p") == moving.p_value < 0.05
    start = value(found, group, "crps_bps.fluctuation_start")
    assert start == origins[moving.start]
    assert start < START + 10 * 24 * HOUR
    assert value(found, group, "energy_bps.fluctuation", POOLED) == moving.statistic


def test_the_opponent_itself_has_no_rows(found):
    assert {name for name, _ in found[0]} == {"kronos"}
