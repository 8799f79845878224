"""The profile by hour and weekend, the pool of candles, and how paths of closes are dressed."""

from collections.abc import Callable

import numpy as np
import pytest

from btcbt.forecasters.fitted import Inputs
from btcbt.forecasters.seasonality import (
    LEVEL,
    Pool,
    Profile,
    candles_from_steps,
    fit_profile,
    make_pool,
    on_grid,
    range_variance,
    slot_of,
    slots_per_day,
    trailing_mean,
    weekday_of,
)
from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, Candles

HOUR = 3_600_000
MONDAY = 1_546_819_200_000  # 2019-01-07T00:00Z


def test_slots_count_the_hours_of_the_day_and_weekends_apart() -> None:
    times = MONDAY + HOUR * np.arange(7 * 24)
    assert slot_of(times, HOUR).tolist() == [*list(range(24)) * 5, *list(range(24, 48)) * 2]
    assert weekday_of(times[::24]).tolist() == list(range(7))


def test_slots_of_other_intervals_fill_a_day() -> None:
    quarters = MONDAY + 900_000 * np.arange(7 * 96)
    assert np.bincount(slot_of(quarters, 900_000)).tolist() == [5] * 96 + [2] * 96
    days = MONDAY + 24 * HOUR * np.arange(7)
    assert slots_per_day(24 * HOUR) == 1
    assert slot_of(days, 24 * HOUR).tolist() == [0] * 5 + [1] * 2


def test_the_range_measures_the_variance_of_a_brownian_motion(rng: np.random.Generator) -> None:
    steps = rng.normal(0, 0.01 / np.sqrt(2000), (3000, 2000))
    walk = np.cumsum(steps, axis=1)
    logs = np.zeros((3000, 2, 4))
    logs[:, 1, HIGH], logs[:, 1, LOW] = np.maximum(walk.max(axis=1), 0), np.minimum(walk.min(axis=1), 0)
    logs[:, 1, CLOSE] = walk[:, -1]
    measured = range_variance(logs, logs=True)[:, 0]
    assert measured.mean() == pytest.approx(1e-4, rel=0.08)  # a path seen 2,000 times misses a little of its range
    assert measured.std() < 0.6 * np.square(walk[:, -1]).std()
    np.testing.assert_allclose(range_variance(np.exp(logs))[:, 0], measured, rtol=1e-9)


def test_a_trailing_mean_looks_back_only_and_bears_few_gaps(rng: np.random.Generator) -> None:
    x = rng.random(60)
    x[[20, 40, 41, 42]] = np.nan
    means = trailing_mean(x, 10)
    assert np.isnan(means[:10]).all()
    for row in range(10, 60):
        before = x[row - 10 : row]
        present = before[np.isfinite(before)]
        if len(present) >= 9:
            assert means[row] == pytest.approx(present.mean())
        else:
            assert np.isnan(means[row])
    assert np.isnan(trailing_mean(x, 1)[[21, 41, 42, 43]]).all()


def test_absent_candles_become_rows_of_nan(make_history: Callable[..., Candles]) -> None:
    candles = make_history(20, missing=[3, 7, 8])
    times, values = on_grid(candles)
    assert np.array_equal(np.diff(times), np.full(19, HOUR))
    assert np.flatnonzero(np.isnan(values).all(axis=1)).tolist() == [3, 7, 8]
    assert np.array_equal(values[np.isfinite(values[:, 0])], candles.values)


def test_a_profile_is_recovered_whatever_the_level_does(rng: np.random.Generator) -> None:
    times = MONDAY + HOUR * np.arange(600 * 24)
    true = 1.0 + 0.6 * np.sin(2 * np.pi * np.arange(48) / 24) * np.repeat([1.0, 0.3], 24)
    true /= np.average(true, weights=np.repeat([5.0, 2.0], 24))
    level = np.exp(0.8 * np.sin(2 * np.pi * np.arange(len(times)) / 4000))
    variance = 1e-5 * level * true[slot_of(times, HOUR)] * np.exp(0.3 * rng.standard_normal(len(times)))
    values = np.full((len(times), 6), 100.0)
    values[:, HIGH] = 100.0 * np.exp(np.sqrt(2.0 * variance))
    values[:, VOLUME] = 7.0 * level * true[slot_of(times, HOUR)]
    profile = fit_profile(times, values, HOUR)
    np.testing.assert_allclose(profile.variance, true, rtol=0.15)
    np.testing.assert_allclose(profile.volume, true, rtol=0.05)
    assert np.average(profile.variance, weights=np.repeat([5.0, 2.0], 24)) == pytest.approx(1.0)


def test_a_pool_holds_what_gives_back_the_candles(make_history: Callable[..., Candles]) -> None:
    candles = make_history(50)
    sigma, volume = np.linspace(0.01, 0.02, 50), np.linspace(50.0, 150.0, 50)
    sigma[10] = np.nan
    pool = make_pool(candles.values, sigma, volume)
    rows = np.delete(np.arange(1, 50), 9)
    assert len(pool) == 48
    back = candles.values[rows - 1, CLOSE, None] * np.exp(pool.logs * sigma[rows, None])
    np.testing.assert_allclose(back, candles.values[rows, :VOLUME])
    np.testing.assert_allclose(pool.volume * volume[rows], candles.values[rows, VOLUME])


def test_candles_from_steps_keep_the_closes_and_use_candles_with_similar_moves(rng: np.random.Generator) -> None:
    moves = rng.standard_normal(2000)
    pool = Pool(np.stack((0 * moves, np.maximum(moves, 0), np.minimum(moves, 0), moves), 1), np.abs(moves), 0 * moves)
    values = np.full((2, LEVEL + 1, 6), 100.0)
    times = MONDAY + HOUR * np.arange(LEVEL + 1) + np.array([[0], [HOUR]])
    sigma = np.full((2, 50, 4), 0.02)
    steps = sigma * rng.standard_normal(sigma.shape)
    flat = Profile(np.ones(48), np.ones(48))
    paths = candles_from_steps(Inputs(values, times, HOUR), steps, sigma, rng.random(sigma.shape), pool, flat)
    np.testing.assert_allclose(paths[..., CLOSE], 100.0 * np.exp(np.cumsum(steps, axis=2)), rtol=1e-6)
    np.testing.assert_allclose(paths[:, :, 1:, OPEN], paths[:, :, :-1, CLOSE], rtol=1e-6)  # the pool has no gaps
    size = np.abs(steps / sigma)
    assert np.corrcoef(paths[..., VOLUME].ravel(), size.ravel())[0, 1] > 0.94
    inner = size < 1.5
    assert np.abs(paths[..., VOLUME] / 100.0 - size)[inner].max() < 0.25
