from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from btcbt.forecasters.random_walk import Drift, RandomWalk, log_mean_growth
from btcbt.randomness import uniforms
from btcbt.records import CLOSE, VOLUME, Window

Maker = Callable[..., list[Window]]


def growth(window: Window) -> float:
    """Mean of close over previous close."""
    close = window.values[:, CLOSE]
    return float(np.mean(close[1:] / close[:-1]))


def walk_slowly(window: Window, n_paths: int, horizon: int, seed: int, divisor: float) -> np.ndarray:
    """Path by path and candle by candle, in ratios."""
    paths = np.empty((n_paths, horizon, 6))
    numbers = uniforms(seed, [window.origin], n_paths, horizon)[0, :, :, 0]
    for s in range(n_paths):
        before = window.last_close
        for h in range(horizon):
            i = 1 + int(numbers[s, h] * (len(window.values) - 1))
            factor = before / window.values[i - 1, CLOSE] / divisor
            paths[s, h, :VOLUME] = window.values[i, :VOLUME] * factor
            paths[s, h, VOLUME:] = window.values[i, VOLUME:]
            before = paths[s, h, CLOSE]
    return paths


def test_the_random_walk_equals_a_loop_that_applies_one_past_candle_per_step(make_windows: Maker) -> None:
    windows = make_windows(3, 60)
    got = RandomWalk(context=60, horizon=7, n_paths=5, seed=2).forecast(windows)
    for b, window in enumerate(windows):
        np.testing.assert_allclose(got.paths[b], walk_slowly(window, 5, 7, 2, growth(window)), rtol=3e-7)


def test_drift_equals_the_loop_over_candles_as_they_were(make_windows: Maker) -> None:
    windows = make_windows(3, 60)
    got = Drift(context=60, horizon=7, n_paths=5, seed=2).forecast(windows)
    for b, window in enumerate(windows):
        np.testing.assert_allclose(got.paths[b], walk_slowly(window, 5, 7, 2, 1.0), rtol=3e-7)


def test_one_drawn_step_is_worth_the_last_close_on_average_exactly(make_windows: Maker) -> None:
    (window,) = make_windows(1, 200, volatility=0.05)
    returns = np.diff(np.log(window.values[:, CLOSE]))
    centred = returns - log_mean_growth(returns)
    assert np.mean(np.exp(centred)) == pytest.approx(1.0, abs=1e-14)
    assert np.mean(centred) < -1e-4  # had the mean log return been taken out, this would be zero


def test_mean_growth_does_not_overflow() -> None:
    assert log_mean_growth(np.array([[900.0, 900.0]]))[0] == pytest.approx(900.0)
    assert log_mean_growth(np.array([[-900.0, -900.0]]))[0] == pytest.approx(-900.0)


def test_the_mean_path_of_the_random_walk_is_the_last_close_within_error(make_windows: Maker) -> None:
    (window,) = make_windows(1, 300, volatility=0.03)
    paths = RandomWalk(context=300, horizon=12, n_paths=20_000, seed=4).forecast([window]).paths
    ratio = paths[0, :, :, CLOSE].astype(np.float64) / window.last_close
    error = ratio.std(axis=0) / np.sqrt(len(ratio))
    assert (np.abs(ratio.mean(axis=0) - 1.0) < 4 * error).all()
    assert error.max() < 2e-3  # small enough that the drift below would be seen


def test_the_mean_path_of_drift_compounds_the_mean_growth(make_windows: Maker) -> None:
    (window,) = make_windows(1, 300, volatility=0.03)
    paths = Drift(context=300, horizon=12, n_paths=20_000, seed=4).forecast([window]).paths
    ratio = paths[0, :, :, CLOSE].astype(np.float64) / window.last_close
    expected = growth(window) ** np.arange(1, 13)
    error = ratio.std(axis=0) / np.sqrt(len(ratio))
    assert (np.abs(ratio.mean(axis=0) - expected) < 4 * error).all()
    assert abs(expected[-1] - 1.0) > 5 * error[-1]


def test_drift_differs_from_the_random_walk_by_the_mean_growth_alone(make_windows: Maker) -> None:
    (window,) = make_windows(1, 80)
    walk, drift = (
        kind(context=80, horizon=5, n_paths=4, seed=1).forecast([window]).paths[0].astype(np.float64)
        for kind in (RandomWalk, Drift)
    )
    factor = growth(window) ** np.arange(1, 6)[None, :, None]
    np.testing.assert_allclose(drift[..., :VOLUME], walk[..., :VOLUME] * factor, rtol=3e-7)
    assert np.array_equal(drift[..., VOLUME:], walk[..., VOLUME:])


def test_the_spread_of_paths_grows_with_the_square_root_of_the_step(make_windows: Maker) -> None:
    (window,) = make_windows(1, 400)
    paths = RandomWalk(context=400, horizon=16, n_paths=20_000, seed=8).forecast([window]).paths
    spread = np.log(paths[0, :, :, CLOSE] / window.last_close).std(axis=0)
    hourly = np.diff(np.log(window.values[:, CLOSE])).std()
    np.testing.assert_allclose(spread, hourly * np.sqrt(np.arange(1, 17)), rtol=0.04)
