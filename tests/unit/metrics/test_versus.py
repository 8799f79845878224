"""The table of all forecasters beside the opponent: against its parts, and what it says where it matters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from btcbt.metrics import score_batch
from btcbt.metrics.ensembles import path_noise_share
from btcbt.metrics.intervals import loss_difference
from btcbt.metrics.multiplicity import adjusted_tests
from btcbt.metrics.score import POOLED
from btcbt.metrics.table import dotted_key, find_score, is_headline, score
from btcbt.metrics.versus import OPPONENT_SCORES, Losses, versus
from tests.unit.metrics.test_streaming import stream_of

OVERLAP = 4


@pytest.fixture
def losses(rng: np.random.Generator) -> dict[str, dict[tuple[str, int], Losses]]:
    """Four forecasters with two losses; one is worse by a tenth at the first step alone."""

    def one(scale: float) -> Losses:
        return Losses(scale * rng.gamma(20.0, 0.5, 600), rng.uniform(0.1, 0.2, 600))

    made = {name: {("crps_bps", 1): one(1.0), ("energy_bps", POOLED): one(1.0)} for name in ("walk", "har", "best")}
    return made | {"worse": {("crps_bps", 1): one(1.1), ("energy_bps", POOLED): one(1.0)}}


def table(losses, opponent="har"):
    return {dotted_key(name, row): row.value for name, row in versus(losses, opponent, OVERLAP)}


def test_every_forecaster_but_the_opponent_has_every_statistic_of_every_loss(losses) -> None:
    rows = list(versus(losses, "har", OVERLAP))
    assert {name for name, _ in rows} == {"walk", "best", "worse"}
    assert {row.group for _, row in rows} == {"opponent=har"}
    assert {row.metric.rpartition(".")[2] for _, row in rows} == {one.name for one in OPPONENT_SCORES}
    assert len(rows) == 3 * (2 + 2 * (len(OPPONENT_SCORES) - 2))
    assert all(is_headline(row, 24) for _, row in rows)
    for name, row in rows:
        assert find_score(dotted_key(name, row)) is score("opponent", row.metric.rpartition(".")[2])


def test_each_number_is_that_of_the_function_that_defines_it(losses) -> None:
    found, at = table(losses), ("crps_bps", 1)
    ours, theirs = losses["worse"][at], losses["har"][at]
    alone = loss_difference(ours.loss, theirs.loss, OVERLAP)
    key = "forecast.worse.opponent.crps_bps.close.h1."
    assert found[f"{key}difference_bps"] == alone.difference
    assert found[f"{key}detectable_bps"] == alone.smallest_detectable
    assert found[f"{key}low_pct"] == pytest.approx(100 * alone.low / theirs.loss.mean())
    assert found[f"{key}path_noise"] == path_noise_share(ours.noise, theirs.noise, alone.standard_error)
    columns = [
        losses[name][at].loss - losses["har"][at].loss for name in ("walk", "best", "worse") for at in losses["har"]
    ]
    tests = adjusted_tests(np.column_stack(columns), OVERLAP)
    assert found[f"{key}adjusted_p"] == tests.adjusted[4]
    assert found["forecast.worse.opponent.comparisons"] == 6


def test_what_is_worse_at_one_step_alone_shows_there(losses) -> None:
    found = table(losses)
    key = "forecast.worse.opponent."
    assert found[f"{key}crps_bps.close.h1.difference_pct"] == pytest.approx(10, abs=2.5)
    assert found[f"{key}crps_bps.close.h1.adjusted_p"] < 0.01
    assert found[f"{key}energy_bps.adjusted_p"] > 0.05
    assert all(
        value >= found[name.replace("adjusted_p", "p_value")] for name, value in found.items() if "adjusted" in name
    )


def test_where_hours_are_missing_for_one_forecaster_holm_adjusts(losses) -> None:
    hole = losses["best"]["crps_bps", 1].loss
    hole[:300] = np.nan
    found = table(losses)
    assert found["forecast.best.opponent.romano_wolf"] == 0.0
    assert math.isfinite(found["forecast.worse.opponent.crps_bps.close.h1.adjusted_p"])


def test_the_opponents_twin_has_a_difference_of_zero_and_no_p_value(losses) -> None:
    found = table({"har": losses["har"], "twin": losses["har"]})
    assert found["forecast.twin.opponent.energy_bps.difference_bps"] == 0.0
    assert math.isnan(found["forecast.twin.opponent.energy_bps.adjusted_p"])
    assert found["forecast.twin.opponent.comparisons"] == 0.0


def test_one_forecaster_has_no_table(losses) -> None:
    assert table({"har": losses["har"]}) == {}


def test_a_stream_gives_losses_at_the_steps_of_the_table_with_their_noise(simulate, tmp_path) -> None:
    given = simulate(400, horizon=8)
    panel = score_batch(**given)
    with stream_of(panel, tmp_path) as stream:
        compared = stream.compared()
        assert set(compared) == {("crps_bps", 1), ("crps_bps", 6), ("crps_bps", 8), ("energy_bps", POOLED)}
        np.testing.assert_array_equal(compared["crps_bps", 6].noise, panel.crps_noise[:, 1])
        np.testing.assert_array_equal(compared["energy_bps", POOLED].noise, panel.energy_noise)
        np.testing.assert_array_equal(compared["crps_bps", 8].loss, stream.series("crps_bps", 8, 3))
    assert np.isnan(score_batch(**given, paths_are="dependent").crps_noise).all()
