"""What forecasters declare of their paths, and that it chooses the estimator that they are scored by."""

import numpy as np
import pytest

from btcbt.config import RunConfig
from btcbt.forecasters import Forecaster
from btcbt.forecasters.calibrated import Calibrated
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.metrics import ensembles, score_batch
from btcbt.records import CLOSE
from btcbt.walkforward.runner import run
from tests.contract.user_forecaster import RecentReturns

SHAPE = {"context": 24, "horizon": 4, "n_paths": 8, "seed": 1}


def test_independent_draws_say_so_and_what_moves_paths_around_their_own_quantiles_does_not() -> None:
    walk = RandomWalk(**SHAPE)
    assert walk.paths_are == "independent"
    assert RecentReturns(**SHAPE).paths_are == "independent"
    assert Calibrated(walk).paths_are == "dependent"


def test_a_class_that_declares_nothing_is_taken_as_dependent() -> None:
    assert Forecaster.paths_are == "dependent"


def test_a_panel_is_scored_by_the_estimator_of_its_kind(simulate) -> None:
    given = simulate(50)
    panels = {kind: score_batch(**given, paths_are=kind) for kind in ("independent", "dependent")}
    closes = given["paths"][..., CLOSE].astype(np.float64)
    for kind, panel in panels.items():
        expected = ensembles.crps(np.moveaxis(closes, 1, -1), given["outcomes"][..., CLOSE], kind)
        np.testing.assert_allclose(panel.crps[..., CLOSE], expected, rtol=1e-6)
    cost = panels["dependent"].crps_bps - panels["independent"].crps_bps
    assert np.nanmin(cost) > 0.0
    assert np.all(panels["dependent"].energy_bps > panels["independent"].energy_bps)
    np.testing.assert_array_equal(panels["dependent"].covered, panels["independent"].covered)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run of two forecasters, the second made of the first's paths."""
    return run(
        RunConfig.model_validate(
            {
                "name": "kinds",
                "candles": {"path": "bundled:BTCUSD_1h"},
                "windows": {"start": "2019-06-01", "end": "2019-06-08", "context": 48, "horizon": 6},
                "forecasters": {
                    "walk": {"kind": "random_walk"},
                    "calibrated": {"kind": "calibrated", "base": "walk", "rates": [0.0]},
                },
                "store": {"root": str(tmp_path_factory.mktemp("runs"))},
            }
        )
    )


def test_a_run_says_which_estimator_scored_each_forecaster(stored) -> None:
    said = {name: (one["paths_are"], one["scored_by"]) for name, one in stored.manifest["forecasters"].items()}
    assert said == {"walk": ("independent", "fair"), "calibrated": ("dependent", "plain")}
    metrics = stored.metrics
    assert (metrics["forecast.walk.paths_dependent"], metrics["forecast.calibrated.paths_dependent"]) == (0.0, 1.0)
