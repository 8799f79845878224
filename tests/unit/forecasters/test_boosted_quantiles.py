"""Boosted quantiles, and the paths that are made of them."""

import sys

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from btcbt.candles import make_candles
from btcbt.errors import ConfigError
from btcbt.forecasters.boosted_quantiles import (
    PROBABILITIES,
    STEPS,
    BoostedQuantiles,
    BoostedState,
    examples,
    features_of,
    sample_quantile_paths,
)
from btcbt.forecasters.fitted import Inputs
from btcbt.forecasters.quantile_paths import at_normal_quantile
from btcbt.forecasters.seasonality import LEVEL, fit_profile, on_grid, slot_of
from btcbt.randomness import uniforms
from btcbt.records import CLOSE, Candles

HOUR = 3_600_000
MONDAY = 1_546_819_200_000
CONTEXT = LEVEL + 1


def simulate(rng: np.random.Generator, n: int) -> Candles:
    """Gaussian hours whose volatility doubles in the afternoon, and whose return has half of the last one's sign."""
    times = MONDAY + HOUR * np.arange(n)
    sigma = np.where(slot_of(times, HOUR) % 24 >= 12, 0.01, 0.005)
    returns = sigma * rng.standard_normal(n)
    returns[1:] += 0.5 * sigma[1:] * np.sign(returns[:-1])
    close = np.cumsum(returns)
    wick = 0.3 * sigma * rng.random((2, n))
    top, bottom = np.maximum(close, close - returns) + wick[0], np.minimum(close, close - returns) - wick[1]
    prices = 4000 * np.exp(np.stack((close - returns, top, bottom, close), axis=1))
    return make_candles(times, np.concatenate((prices, np.full((n, 2), 10.0)), axis=1), interval="1h")


@pytest.fixture(scope="module")
def candles() -> Candles:
    return simulate(np.random.default_rng(4), 6000)


@pytest.fixture(scope="module")
def state(candles: Candles) -> BoostedState:
    past = Candles(candles.open_time[:5000], candles.values[:5000], HOUR)
    return BoostedQuantiles(rounds=60).fit(past)


def inputs_at(candles: Candles, stops: np.ndarray) -> Inputs:
    rows = stops[:, None] + np.arange(-CONTEXT, 0)
    return Inputs(candles.values[rows], candles.open_time[rows], HOUR)


def test_quantiles_learn_the_hour_and_hold_on_later_candles(candles: Candles, state: BoostedState) -> None:
    stops = np.arange(5000 + CONTEXT, 5970)
    paths = sample_quantile_paths(state, inputs_at(candles, stops), uniforms(2, stops, 200, 6)).astype(np.float64)
    last = candles.values[stops - 1, CLOSE]
    for step in (1, 6):
        moves = np.log(paths[:, :, step - 1, CLOSE] / last[:, None])
        below = (np.log(candles.values[stops + step - 1, CLOSE] / last)[:, None] > moves).mean(axis=1)
        assert (below < 0.1).mean() == pytest.approx(0.1, abs=0.045)
        assert (below > 0.9).mean() == pytest.approx(0.1, abs=0.045)
    spread = np.log(paths[:, :, 0, CLOSE] / last[:, None]).std(axis=1)
    late = slot_of(candles.open_time[stops], HOUR) % 24 >= 12
    assert spread[late].mean() / spread[~late].mean() == pytest.approx(2.0, rel=0.15)


def test_direction_is_learned(candles: Candles, state: BoostedState) -> None:
    stops = np.arange(5000 + CONTEXT, 5970)
    paths = sample_quantile_paths(state, inputs_at(candles, stops), uniforms(2, stops, 100, 1))
    moves = np.log(np.median(paths[:, :, 0, CLOSE], axis=1) / candles.values[stops - 1, CLOSE])
    before = np.diff(np.log(candles.values[:, CLOSE]))[stops - 2]
    assert (np.sign(moves) == np.sign(before)).mean() > 0.75


def test_each_close_has_the_quantiles_that_were_learned(candles: Candles, state: BoostedState) -> None:
    from lightgbm import Booster

    inputs = inputs_at(candles, np.array([5500]))
    paths = sample_quantile_paths(state, inputs, uniforms(2, [7], 40_000, 12))[0].astype(np.float64)
    features, scale, _ = features_of(inputs, state.profile, np.arange(1, 13))
    for step in (1, 5, 12):
        row = features[0, step - 1 : step]
        learned = np.sort([Booster(model_str=text).predict(row)[0] for text in state.models]) * scale[0, step - 1]
        moves = np.log(paths[:, step - 1, CLOSE] / inputs.values[0, -1, CLOSE])
        below = (moves[:, None] < learned).mean(axis=0)
        probability = np.array(PROBABILITIES)
        assert (np.abs(below - probability) < 4 * np.sqrt(probability * (1 - probability) / 40_000)).all()


def test_quantile_functions_join_their_knots_by_lines_and_end_in_exponential_tails(rng: np.random.Generator) -> None:
    knots = ndtri(np.array(PROBABILITIES))
    quantiles = np.sort(rng.standard_normal((2, 3, len(knots))), axis=2)
    z = np.sort(rng.normal(0, 2, (2, 50, 3)), axis=1)
    got = at_normal_quantile(PROBABILITIES, quantiles, z)
    assert (np.diff(got, axis=1) >= 0).all()
    inside = (z > knots[0]) & (z < knots[-1])
    for b in range(2):
        for h in range(3):
            curve, at = quantiles[b, h], z[b, :, h]
            expected = np.interp(at, knots, curve)
            expected -= (curve[1] - curve[0]) * np.maximum(np.log(0.01 / ndtr(at)), 0) / np.log(5)
            expected += (curve[-1] - curve[-2]) * np.maximum(np.log(0.01 / ndtr(-at)), 0) / np.log(5)
            np.testing.assert_allclose(got[b, :, h], expected, atol=1e-12)
    assert 0.5 < inside.mean() < 0.95


def test_examples_pair_features_with_the_outcomes_of_their_origin(candles: Candles) -> None:
    part = Candles(candles.open_time[:400], candles.values[:400], HOUR)
    times, values = on_grid(part)
    profile = fit_profile(times, values, HOUR)
    features, targets = examples(times, values, HOUR, profile)
    assert features.shape[0] == len(targets) == (400 - CONTEXT - STEPS[-1] + 1) * len(STEPS)
    for origin, k in ((0, 0), (57, 3), (207, 5)):
        last = origin + CONTEXT - 1
        known, scale, _ = features_of(inputs_at(part, np.array([last + 1])), profile, np.array(STEPS))
        row = origin * len(STEPS) + k
        assert np.array_equal(features[row], known[0, k])
        move = np.log(values[last + STEPS[k], CLOSE] / values[last, CLOSE])
        assert targets[row] == pytest.approx(move / scale[0, k])


def test_examples_do_not_reach_across_a_gap(candles: Candles) -> None:
    keep = np.delete(np.arange(800), 300)
    times, values = on_grid(Candles(candles.open_time[keep], candles.values[keep], HOUR))
    features, targets = examples(times, values, HOUR, fit_profile(times, values, HOUR))
    whole = CONTEXT + STEPS[-1]
    assert len(targets) == ((300 - whole + 1) + (499 - whole + 1)) * len(STEPS)
    assert np.isfinite(features).all()
    assert np.isfinite(targets).all()


def test_without_lightgbm_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"LightGBM.*pip install 'btcbt\[boost\]'"):
        BoostedQuantiles()
