"""Joint paths of candles from marginal quantiles."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import spearmanr

from btcbt.errors import ForecasterError
from btcbt.forecasters.baseline import log_returns
from btcbt.forecasters.quantile_paths import at_normal_quantile, quantile_paths, template_ranks
from btcbt.randomness import uniforms
from btcbt.records import CLOSE, HIGH, LOW, OPEN, FloatArray, Window

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
H = 6
Maker = Callable[..., list[Window]]


def histories(make_windows: Maker, n: int = 3, context: int = 96) -> FloatArray:
    return np.stack([window.values for window in make_windows(n, context)]).astype(np.float64)


def numbers_of(rows: list[int], n_paths: int = 5, horizon: int = H) -> FloatArray:
    return uniforms(5, np.array(rows) * 3_600_000, n_paths, horizon)


def skewed(n: int, horizon: int = H) -> FloatArray:
    """Quantiles that widen with the step, with a drift and unequal sides."""
    z = ndtri(np.array(LEVELS))
    one = 0.01 * np.where(z > 0, 1.5 * z, z)
    steps = np.arange(1, horizon + 1)
    return np.tile(0.002 * steps[:, None] + np.sqrt(steps)[:, None] * one, (n, 1, 1))


def test_every_step_has_the_quantiles_that_were_given(make_windows: Maker) -> None:
    history = histories(make_windows, 1)
    quantiles = skewed(1)
    paths = quantile_paths(history, LEVELS, quantiles, numbers_of([1], 20_000)).astype(np.float64)
    moves = np.log(paths[0, :, :, CLOSE] / history[0, -1, CLOSE])
    below = (moves[:, :, None] <= quantiles[0]).mean(axis=0)
    assert np.abs(below - LEVELS).max() < 0.015  # 4 standard errors of a share of 20,000


def test_tails_are_exponential_and_as_wide_as_the_outermost_quantiles_say() -> None:
    quantiles = skewed(1, 1)
    z = ndtri(np.array([0.1, 0.05, 0.025, 0.9, 0.95, 0.975]))
    low1, low2, low3, high1, high2, high3 = at_normal_quantile(LEVELS, quantiles, z[None, :, None])[0, :, 0]
    assert low1 == pytest.approx(quantiles[0, 0, 0])
    assert high1 == pytest.approx(quantiles[0, 0, -1])
    # from 20 to 10 % the probability halves, and so it does from 10 to 5 and to 2.5 %
    assert low1 - low2 == pytest.approx(quantiles[0, 0, 1] - quantiles[0, 0, 0])
    assert low2 - low3 == pytest.approx(low1 - low2)
    assert high2 - high1 == pytest.approx(quantiles[0, 0, -1] - quantiles[0, 0, -2])
    assert high3 - high2 == pytest.approx(high2 - high1)


def test_steps_depend_on_each_other_as_in_the_window() -> None:
    """A window of reverting returns gives paths that revert; one that trends gives paths that trend."""
    rng = np.random.default_rng(3)
    found = {}
    for name, weight in (("reverting", -0.8), ("trending", 0.8)):
        noise = rng.standard_normal(400)
        returns = np.empty(400)
        returns[0] = noise[0]
        for t in range(1, 400):
            returns[t] = weight * returns[t - 1] + noise[t]
        close = 100 * np.exp(np.cumsum(0.001 * returns))
        history = np.repeat(close[None, :, None], 6, axis=2)
        paths = quantile_paths(history, LEVELS, skewed(1), numbers_of([1], 4000)).astype(np.float64)
        moves = np.log(paths[0, :, :, CLOSE] / close[-1])
        ranks = template_ranks(log_returns(history), H)[0]
        found[name] = spearmanr(moves[:, 0], moves[:, 1]).statistic
        for a, b in ((0, 1), (0, 5), (2, 3)):
            of_paths = spearmanr(moves[:, a], moves[:, b]).statistic
            assert of_paths == pytest.approx(spearmanr(ranks[:, a], ranks[:, b]).statistic, abs=0.06)
    assert found["reverting"] < found["trending"] - 0.3


def test_every_rank_of_the_template_occurs_once_at_each_step(make_windows: Maker) -> None:
    ranks = template_ranks(log_returns(histories(make_windows)), 30)
    assert (np.sort(ranks, axis=1) == np.arange(95)[None, :, None]).all()


def test_templates_are_past_paths_and_the_newest_go_on_with_the_oldest_returns() -> None:
    returns = np.array([[1.0, -5.0, 2.0, 7.0]])
    moves = np.array([[1, -4], [-5, -3], [2, 9], [7, 8]])  # 7 is followed by 1
    assert (template_ranks(returns, 2)[0] == moves.argsort(axis=0).argsort(axis=0)).all()


def test_quantile_paths_depend_on_their_own_window_and_key_alone(make_windows: Maker) -> None:
    history, quantiles, numbers = histories(make_windows), skewed(3), numbers_of([1, 2, 3])
    whole = quantile_paths(history, LEVELS, quantiles, numbers)
    alone = quantile_paths(history[1:2], LEVELS, quantiles[1:2], numbers_of([2]))
    assert np.array_equal(alone[0], whole[1])
    assert np.array_equal(quantile_paths(history, LEVELS, quantiles, numbers[:, :2]), whole[:, :2])
    short = quantile_paths(history, LEVELS, quantiles[:, :3], numbers[:, :, :3])
    assert np.array_equal(short, whole[:, :, :3])
    assert not np.array_equal(quantile_paths(history, LEVELS, quantiles, numbers_of([4, 5, 6])), whole)


def test_candles_of_quantile_paths_are_consistent(make_windows: Maker) -> None:
    paths = quantile_paths(histories(make_windows), LEVELS, skewed(3), numbers_of([1, 2, 3], 200))
    body = paths[..., [OPEN, CLOSE]]
    assert (paths[..., HIGH] >= body.max(axis=-1)).all()
    assert (paths[..., LOW] <= body.min(axis=-1)).all()
    assert (paths[..., HIGH] > paths[..., LOW]).any()


def test_crossed_quantiles_are_refused_with_their_step_and_levels(make_windows: Maker) -> None:
    quantiles = skewed(1)
    quantiles[0, 2, 4] = quantiles[0, 2, 3] - 0.01
    with pytest.raises(ForecasterError, match=r"quantiles of step 3 cross: .* at level 0\.4, .* at 0\.5; .*sort") as e:
        quantile_paths(histories(make_windows, 1), LEVELS, quantiles, numbers_of([1]))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_quantiles_that_are_no_numbers_are_refused(make_windows: Maker, value: float) -> None:
    quantiles = skewed(1)
    quantiles[0, 1, 8] = value
    with pytest.raises(ForecasterError, match=r"quantiles of step 2: .* are not all finite"):
        quantile_paths(histories(make_windows, 1), LEVELS, quantiles, numbers_of([1]))


@pytest.mark.parametrize("levels", [(0.5,), (0.5, 0.1), (0.0, 0.5), (0.1, 0.5, 0.9)])
def test_levels_that_do_not_fit_are_refused(make_windows: Maker, levels: tuple[float, ...]) -> None:
    width = len(levels) if len(levels) < 3 else 2
    with pytest.raises(ForecasterError, match=r"expected \(B, H, Q\) at two or more increasing levels"):
        quantile_paths(histories(make_windows, 1), levels, np.zeros((1, H, width)), numbers_of([1]))
