"""HAR with a profile and a filtered bootstrap."""

import numpy as np
import pytest

from btcbt.candles import make_candles
from btcbt.errors import ConfigError
from btcbt.forecasters.fitted import Inputs
from btcbt.forecasters.har import DEFAULT_LAGS, Har, fit_har, sample_har
from btcbt.forecasters.seasonality import LEVEL, range_variance, slot_of
from btcbt.randomness import uniforms
from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, Candles

HOUR = 3_600_000
MONDAY = 1_546_819_200_000
PROFILE = 1.0 + 0.5 * np.sin(2 * np.pi * np.arange(48) / 24)
COEFFICIENTS = (-0.5, 0.25, 0.2, 0.3, 0.2)


def simulate(rng: np.random.Generator, n: int) -> Candles:
    """Candles whose range variance follows a log-HAR with known coefficients, exactly."""
    times = MONDAY + HOUR * np.arange(n)
    factor = PROFILE[slot_of(times, HOUR)]
    variance = np.full(n, np.exp(COEFFICIENTS[0] / (1 - sum(COEFFICIENTS[1:]))))
    for row in range(LEVEL, n):
        means = [variance[row - lag : row].mean() for lag in DEFAULT_LAGS]
        log_variance = COEFFICIENTS[0] + np.dot(COEFFICIENTS[1:], np.log(means))
        variance[row] = np.exp(log_variance + 0.5 * rng.standard_normal())
    variance *= 1e-4 * factor
    body = 0.8 * np.sqrt(variance) * rng.choice([-1.0, 1.0], n)
    extent = np.sqrt(2 * (variance + (2 * np.log(2) - 1) * body**2))
    close = np.cumsum(body)
    wick = (extent - np.abs(body)) * rng.random(n)
    low = np.minimum(close, close - body) - wick
    prices = 4000 * np.exp(np.stack((close - body, low + extent, low, close), axis=1))
    volume = 10 * factor[:, None] * np.ones((1, 2)) * [1.0, 4000.0]
    return make_candles(times, np.concatenate((prices, volume), axis=1), interval="1h")


def test_a_fit_recovers_the_coefficients_and_the_profile(rng: np.random.Generator) -> None:
    state = fit_har(simulate(rng, 12_000))
    np.testing.assert_allclose(state.coefficients[1:], COEFFICIENTS[1:], atol=0.05)
    weights = np.repeat([5.0, 2.0], 24)
    np.testing.assert_allclose(state.profile.variance, PROFILE / np.average(PROFILE, weights=weights), rtol=0.2)
    # The pool is in units of the expected volatility, and the body is 0.8 of that of its hour.
    spread = np.exp(0.5 * 0.5 * rng.standard_normal(100_000))
    assert np.abs(state.pool.logs[:, CLOSE]).mean() == pytest.approx(0.8 * spread.mean(), rel=0.03)


def test_paths_are_those_of_a_plain_loop(rng: np.random.Generator) -> None:
    candles = simulate(rng, 1500)
    lags = (1, 6, 24, 30)
    state = fit_har(candles, lags)
    rows = slice(1200, 1400)
    values, times = candles.values[rows], candles.open_time[rows]
    u = uniforms(5, [int(times[-1]) + HOUR], 4, 40)[..., 0]
    paths = sample_har(state, Inputs(values[None], times[None], HOUR), u, lags)[0]
    factor = state.profile.variance
    mean, spread = state.pool.logs[:, CLOSE].mean(), state.pool.logs[:, CLOSE].var()
    for path, draws in zip(paths, u[0], strict=True):
        known = list(range_variance(values) / factor[slot_of(times[1:], HOUR)])
        last = np.log(values[-1, CLOSE])
        for h, draw in enumerate(draws):
            level = np.mean(known[-LEVEL:])
            logs = [np.log(max(np.mean(known[-lag:]), 1e-3 * level)) for lag in lags]
            variance = np.exp(state.coefficients[0] + np.dot(state.coefficients[1:], logs))
            sigma = np.sqrt(variance * factor[slot_of(times[-1:] + HOUR * (h + 1), HOUR)][0])
            candle = state.pool.logs[int(draw * len(state.pool))]
            shift = sigma * mean + sigma**2 * spread / 2
            np.testing.assert_allclose(path[h, :VOLUME], np.exp(last + sigma * candle - shift), rtol=1e-5)
            spreads = (
                0.5 * (candle[HIGH] - candle[LOW]) ** 2 - (2 * np.log(2) - 1) * (candle[CLOSE] - candle[OPEN]) ** 2
            )
            known.append(variance * (spreads + candle[OPEN] ** 2))
            last += sigma * candle[CLOSE] - shift


def test_volatility_and_volume_of_paths_follow_the_hour(rng: np.random.Generator) -> None:
    candles = simulate(rng, 3000)
    stop = 2400  # a Wednesday at midnight
    inputs = Inputs(candles.values[None, stop - 200 : stop], candles.open_time[None, stop - 200 : stop], HOUR)
    paths = sample_har(fit_har(candles), inputs, uniforms(1, [0], 3000, 24)[..., 0])[0].astype(np.float64)
    closes = np.concatenate((np.full((3000, 1), candles.values[stop - 1, CLOSE]), paths[..., CLOSE]), axis=1)
    spread = np.diff(np.log(closes), axis=1).std(axis=0)
    assert np.corrcoef(spread**2, PROFILE[:24])[0, 1] > 0.9
    np.testing.assert_allclose(paths[0, :, VOLUME] / paths[0, :, VOLUME].mean(), PROFILE[:24], rtol=0.1)


def test_a_stormy_day_widens_the_paths(rng: np.random.Generator) -> None:
    candles = simulate(rng, 1500)
    state = fit_har(candles)
    calm = candles.values[-200:].copy()
    storm = calm.copy()
    middle = calm[-24:, [CLOSE]]
    storm[-24:, :VOLUME] = middle * (calm[-24:, :VOLUME] / middle) ** 3
    spreads = []
    for values in (calm, storm):
        inputs = Inputs(values[None], candles.open_time[None, -200:], HOUR)
        paths = sample_har(state, inputs, uniforms(1, [0], 500, 24)[..., 0])[0]
        spreads.append(np.log(paths[:, -1, CLOSE]).std())
    assert spreads[1] > 1.5 * spreads[0]


@pytest.mark.parametrize("lags", [(), (0, 24), (24, 6), (6, 6)])
def test_lags_that_do_not_increase_from_one_are_refused(lags: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="not increasing numbers from 1 on"):
        Har(lags)


def test_a_longer_lag_needs_a_longer_context() -> None:
    assert Har().needed_context == LEVEL + 1
    assert Har((1, 24, 720)).needed_context == 721
