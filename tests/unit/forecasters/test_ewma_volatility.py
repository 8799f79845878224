from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from btcbt.forecasters.ewma_volatility import EwmaVolatility, ewma_variance
from btcbt.records import CLOSE, HIGH, LOW, Window

Maker = Callable[..., list[Window]]


def returns_of(window: Window) -> np.ndarray:
    return np.diff(np.log(window.values[:, CLOSE]))


def test_the_variance_equals_a_loop_over_ages(rng: np.random.Generator) -> None:
    returns = rng.standard_normal(50)
    weights = [0.9**age for age in range(50)]
    expected = sum(w * r**2 for w, r in zip(weights, returns[::-1], strict=True)) / sum(weights)
    assert ewma_variance(returns, 0.9) == pytest.approx(expected, rel=1e-12)


def test_over_a_long_past_the_variance_follows_the_riskmetrics_recursion(rng: np.random.Generator) -> None:
    returns = rng.standard_normal(1500)
    variance = 1.0
    for r in returns:
        variance = 0.97 * variance + 0.03 * r**2
    assert ewma_variance(returns, 0.97) == pytest.approx(variance, rel=1e-9)


def test_a_decay_near_one_gives_the_plain_mean_square(rng: np.random.Generator) -> None:
    returns = rng.standard_normal(100)
    assert ewma_variance(returns, 1 - 1e-9) == pytest.approx(np.mean(returns**2), rel=1e-6)


def test_the_spread_of_every_step_is_the_models_sigma(make_windows: Maker) -> None:
    (window,) = make_windows(1, 300)
    paths = EwmaVolatility(context=300, horizon=9, n_paths=20_000, seed=5).forecast([window]).paths
    logs = np.log(paths[0, :, :, CLOSE].astype(np.float64) / window.last_close)
    sigma = np.sqrt(ewma_variance(returns_of(window), 0.97))
    np.testing.assert_allclose(logs.std(axis=0), sigma * np.sqrt(np.arange(1, 10)), rtol=0.025)
    assert stats.kstest((logs[:, 0] + sigma**2 / 2) / sigma, "norm").pvalue > 0.01


def test_the_mean_path_is_the_last_close_within_error(make_windows: Maker) -> None:
    (window,) = make_windows(1, 100, volatility=0.08)
    paths = EwmaVolatility(context=100, horizon=6, n_paths=40_000, seed=5).forecast([window]).paths
    ratio = paths[0, :, :, CLOSE].astype(np.float64) / window.last_close
    error = ratio.std(axis=0) / np.sqrt(len(ratio))
    assert (np.abs(ratio.mean(axis=0) - 1.0) < 4 * error).all()
    half_variance = np.log(ratio).var(axis=0) / 2
    assert (half_variance > 5 * error).all()  # so that leaving it out would have been seen


def test_recent_turmoil_widens_the_paths_and_their_candles(make_windows: Maker) -> None:
    (window,) = make_windows(1, 300)
    loud = window.values.copy()
    loud[-20:, :4] *= 1.0 + 0.05 * (-1.0) ** np.arange(20)[:, None]
    noisy = Window(window.open_time, loud, window.interval_ms)
    forecaster = EwmaVolatility(context=300, horizon=1, n_paths=4000, seed=5)
    calm_paths, loud_paths = (forecaster.forecast([w]).paths[0, :, 0] for w in (window, noisy))
    for paths, w in ((calm_paths, window), (loud_paths, noisy)):
        sigma = np.sqrt(ewma_variance(returns_of(w), 0.97))
        assert np.log(paths[:, CLOSE] / w.last_close).std() == pytest.approx(sigma, rel=0.05)
    ranges = [np.log(paths[:, HIGH] / paths[:, LOW]).mean() for paths in (calm_paths, loud_paths)]
    assert ranges[1] > 3 * ranges[0]


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_outside_the_unit_interval_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        EwmaVolatility(context=9, horizon=1, n_paths=1, seed=0, decay=decay)
