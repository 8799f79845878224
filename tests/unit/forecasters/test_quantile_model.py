"""What the base class of models of quantiles makes of what they return."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import ndtri

from btcbt.errors import ForecasterError
from btcbt.forecasters.quantile_model import QuantileModel
from btcbt.records import CLOSE, FloatArray, Window

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
RISING = 0.01 * ndtri(LEVELS)
WIDTH = RISING[-1] - RISING[0]
Maker = Callable[..., list[Window]]


class Returns(QuantileModel):
    """A model that returns the same quantiles for every window."""

    kind = "returns"

    def __init__(self, step: int, quantiles: FloatArray, n_paths: int = 20) -> None:
        super().__init__(context=48, horizon=4, n_paths=n_paths, seed=1)
        self.made = np.tile(RISING, (6, 1))  # two steps more than are asked for
        self.made[step - 1] = quantiles

    @property
    def _levels(self):
        return LEVELS

    def _quantiles(self, logs):
        return np.tile(self.made, (len(logs), 1, 1))


def swapped(by: float) -> FloatArray:
    """The middle quantile above the next one, so that sorting moves it by a share of the whole width."""
    quantiles = RISING.copy()
    quantiles[2] = quantiles[3] + by * WIDTH
    return quantiles


def test_small_crossings_are_sorted_and_counted(make_windows: Maker, caplog: pytest.LogCaptureFixture) -> None:
    model, windows = Returns(3, swapped(0.1), n_paths=4000), make_windows(3, 48)
    with caplog.at_level(logging.INFO, "btcbt"):
        paths = model.forecast(windows).paths
    assert model.crossed == 3
    assert caplog.messages == ["returns: quantiles cross at 3 of 12 steps; they are sorted"]
    moves = np.log(paths[0, :, 2, CLOSE] / windows[0].last_close)
    below = (moves[:, None] <= np.sort(swapped(0.1))).mean(axis=0)
    assert np.abs(below - LEVELS).max() < 0.03


def test_increasing_quantiles_and_steps_beyond_the_horizon_are_not_counted(make_windows: Maker) -> None:
    model = Returns(5, RISING[::-1])
    model.forecast(make_windows(2, 48))
    assert model.crossed == 0


@pytest.mark.parametrize("quantiles", [RISING[::-1], np.roll(RISING, 1), RISING[[4, 1, 2, 3, 0]]])
def test_quantiles_that_cross_far_are_one_line(make_windows: Maker, quantiles: FloatArray) -> None:
    expected = r"'returns': quantiles of step 2 cross by \d+% of .*at most 75%"
    with pytest.raises(ForecasterError, match=expected) as error:
        Returns(2, quantiles).forecast(make_windows(1, 48))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_quantiles_that_are_no_numbers_are_one_line(make_windows: Maker, value: float) -> None:
    with pytest.raises(ForecasterError, match=r"quantiles of step 4: .*not all finite") as error:
        Returns(4, np.where(np.arange(5) == 1, value, RISING)).forecast(make_windows(1, 48))
    assert "\n" not in str(error.value)


def test_a_window_of_equal_prices_has_equal_paths_whatever_the_model_returns() -> None:
    times = 3_600_000 * np.arange(48, dtype=np.int64)
    values = np.tile([100.0, 100.0, 100.0, 100.0, 1.0, 100.0], (48, 1))
    model = Returns(1, RISING[::-1])
    paths = model.forecast([Window(times, values, 3_600_000)]).paths
    assert (paths[..., CLOSE] == np.float32(100.0)).all()
