from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from btcbt.forecasters.baseline import log_returns, normal_quantile
from btcbt.forecasters.candle_paths import candles_from_returns, pick, to_paths
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, Window

Maker = Callable[..., list[Window]]


def stack(windows: list[Window]) -> np.ndarray:
    return np.stack([window.values for window in windows])


def test_pick_draws_every_row_of_its_own_window_and_no_other() -> None:
    u = np.linspace(0.0, 1.0 - 2.0**-53, 999)
    rows = pick(np.stack((u, u)).reshape(2, 3, 333), 7)
    assert np.array_equal(np.unique(rows[0]), np.arange(7))
    assert np.array_equal(np.unique(rows[1]), 7 + np.arange(7))
    counts = np.bincount(rows[0].ravel())
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("n", [1, 2, 3, 5, 359, 511, 99_999])
def test_the_largest_uniform_picks_the_last_row(n: int) -> None:
    assert pick(np.array([[1.0 - 2.0**-53]]), n).item() == n - 1


def test_normal_quantiles_are_finite_for_every_uniform() -> None:
    got = normal_quantile(np.array([0.0, 0.5, 0.975, 1.0 - 2.0**-53]))
    assert np.isfinite(got).all()
    assert got[1] == 0.0
    assert got[2] == pytest.approx(1.959963984540054, rel=1e-12)


def test_sampled_candles_equal_a_loop_over_paths_and_steps(rng: np.random.Generator, make_windows: Maker) -> None:
    windows = make_windows(2, 40)
    returns = 0.01 * rng.standard_normal((2, 3, 4))
    scale, u = rng.uniform(0.5, 2.0, (2, 3, 4)), rng.random((2, 3, 4))
    got = candles_from_returns(stack(windows), returns, scale, u)
    for b, window in enumerate(windows):
        for s in range(3):
            before = window.last_close
            for h in range(4):
                i = 1 + int(u[b, s, h] * 39)
                past, k = window.values[i], scale[b, s, h]
                close = before * np.exp(returns[b, s, h])
                opening = before * (past[OPEN] / window.values[i - 1, CLOSE]) ** k
                high = max(opening, close) * (past[HIGH] / max(past[OPEN], past[CLOSE])) ** k
                low = min(opening, close) * (past[LOW] / min(past[OPEN], past[CLOSE])) ** k
                expected = [opening, high, low, close, *past[VOLUME:]]
                np.testing.assert_allclose(got[b, s, h], expected, rtol=2e-7)
                before = close


def test_prices_stay_within_float32_whatever_is_sampled(make_windows: Maker) -> None:
    history = stack(make_windows(1, 5))
    log_prices = np.array([[-1e4, 1e4, -np.inf, 0.0], [np.inf, np.inf, -800.0, -800.0]]).reshape(1, 1, 2, 4)
    paths = to_paths(history, log_prices, np.zeros((1, 1, 2), dtype=np.int64))
    assert np.isfinite(paths).all()
    assert (paths > 0).all()
    assert (paths[..., HIGH] >= paths[..., [OPEN, CLOSE, LOW]].max(axis=-1)).all()
    assert (paths[..., LOW] <= paths[..., [OPEN, CLOSE]].min(axis=-1)).all()


def test_log_returns_go_from_close_to_close(make_windows: Maker) -> None:
    history = stack(make_windows(3, 6))
    got = log_returns(history)
    assert got.shape == (3, 5)
    assert got[2, 1] == pytest.approx(np.log(history[2, 2, CLOSE] / history[2, 1, CLOSE]), abs=1e-14)


def test_a_window_of_another_length_is_refused(make_windows: Maker) -> None:
    forecaster = RandomWalk(context=20, horizon=2, n_paths=2, seed=0)
    with pytest.raises(ValueError, match=r"a window has values \(19, 6\); expected \(20, 6\)"):
        forecaster.forecast([*make_windows(1, 20), *make_windows(1, 19)])


def test_no_windows_give_no_paths() -> None:
    batch = RandomWalk(context=20, horizon=3, n_paths=2, seed=0).forecast([])
    assert batch.paths.shape == (0, 2, 3, 6)
    assert batch.paths.dtype == np.float32


def test_the_automatic_batch_shrinks_when_paths_grow() -> None:
    def size(n_paths: int, batch_size: int | None = None) -> int:
        return RandomWalk(context=9, horizon=24, n_paths=n_paths, seed=0, batch_size=batch_size).batch_size

    assert size(30) == 64
    assert size(300) == 6
    assert size(100_000) == 1
    assert size(30, 5) == 5
