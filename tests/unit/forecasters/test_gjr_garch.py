"""GJR-GARCH on returns without their profile."""

from dataclasses import replace

import numpy as np
import pytest

from btcbt.candles import make_candles
from btcbt.forecasters.fitted import Inputs
from btcbt.forecasters.gjr_garch import GjrState, filter_variance, fit_gjr, sample_gjr
from btcbt.forecasters.seasonality import slot_of
from btcbt.randomness import uniforms
from btcbt.records import CLOSE, Candles

HOUR = 3_600_000
MONDAY = 1_546_819_200_000
PROFILE = 1.0 + 0.5 * np.sin(2 * np.pi * np.arange(48) / 24)
OMEGA, ALPHA, GAMMA, BETA, NU = 2e-6, 0.05, 0.15, 0.8, 5.0


def simulate(rng: np.random.Generator, n: int) -> Candles:
    times = MONDAY + HOUR * np.arange(n)
    shocks = rng.standard_t(NU, n) * np.sqrt((NU - 2) / NU)
    variance, returns = OMEGA / (1 - ALPHA - GAMMA / 2 - BETA), np.empty(n)
    root = np.sqrt(PROFILE[slot_of(times, HOUR)])
    for row, z in enumerate(shocks):
        e = np.sqrt(variance) * z
        returns[row] = root[row] * e
        variance = OMEGA + (ALPHA + GAMMA * (e < 0)) * e**2 + BETA * variance
    close = np.cumsum(returns)
    wick = 0.002 * root * rng.random((2, n))
    top, bottom = np.maximum(close, close - returns) + wick[0], np.minimum(close, close - returns) - wick[1]
    prices = 4000 * np.exp(np.stack((close - returns, top, bottom, close), axis=1))
    return make_candles(times, np.concatenate((prices, np.full((n, 2), 10.0)), axis=1), interval="1h")


@pytest.fixture(scope="module")
def candles() -> Candles:
    return simulate(np.random.default_rng(3), 12_000)


@pytest.fixture(scope="module")
def state(candles: Candles) -> GjrState:
    return fit_gjr(candles)


def test_a_fit_recovers_the_parameters(state: GjrState) -> None:
    assert state.alpha == pytest.approx(ALPHA, abs=0.02)
    assert state.gamma == pytest.approx(GAMMA, abs=0.04)
    assert state.beta == pytest.approx(BETA, abs=0.04)
    assert state.nu == pytest.approx(NU, abs=0.8)
    assert state.omega == pytest.approx(OMEGA, rel=0.4)


def test_the_recursion_over_a_window_is_a_plain_loop(candles: Candles, state: GjrState) -> None:
    stops = (5000, 5001, 7777)
    rows = np.array(stops)[:, None] + np.arange(-200, 0)
    got = filter_variance(state, Inputs(candles.values[rows], candles.open_time[rows], HOUR))
    for variance, row in zip(got, rows, strict=True):
        factor = state.profile.variance[slot_of(candles.open_time[row[1:]], HOUR)]
        shocks = np.diff(np.log(candles.values[row, CLOSE])) / np.sqrt(factor)
        expected = np.mean(shocks**2)
        for e in shocks:
            expected = state.omega + (state.alpha + (state.gamma if e < 0 else 0)) * e**2 + state.beta * expected
        assert variance == pytest.approx(expected, rel=1e-10)


def test_the_variance_of_paths_is_the_closed_form(candles: Candles, state: GjrState) -> None:
    """E[v_{h+1}] = omega + (alpha + gamma / 2 + beta) E[v_h]."""
    rows = np.arange(6000 - 200, 6000)[None]
    inputs = Inputs(candles.values[rows], candles.open_time[rows], HOUR)
    calm = replace(state, nu=30.0)  # the sample variance of t(5) converges too slowly
    paths = sample_gjr(calm, inputs, uniforms(1, [0], 20_000, 12))[0].astype(np.float64)
    closes = np.concatenate((np.full((20_000, 1), inputs.values[0, -1, CLOSE]), paths[..., CLOSE]), axis=1)
    sampled = np.diff(np.log(closes), axis=1).var(axis=0)
    expected, variance = [], filter_variance(calm, inputs)[0]
    for factor in calm.profile.variance[slot_of(inputs.future_open_time(12), HOUR)][0]:
        expected.append(variance * factor)
        variance = calm.omega + (calm.alpha + calm.gamma / 2 + calm.beta) * variance
    np.testing.assert_allclose(sampled, expected, rtol=0.06)
    assert closes[:, -1].mean() == pytest.approx(closes[0, 0], rel=4 * closes[:, -1].std() / closes[0, 0] / 140)


def test_a_fall_widens_the_paths_more_than_a_rise(candles: Candles, state: GjrState) -> None:
    values = candles.values[-200:].copy()
    spreads = []
    for move in (-0.03, 0.03):
        moved = values.copy()
        moved[-1, :4] *= np.exp(move)
        inputs = Inputs(moved[None], candles.open_time[None, -200:], HOUR)
        spreads.append(np.log(sample_gjr(state, inputs, uniforms(1, [0], 2000, 3))[0, :, -1, CLOSE]).std())
    assert spreads[0] > 1.1 * spreads[1]
