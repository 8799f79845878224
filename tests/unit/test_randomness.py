from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from btcbt.randomness import LANES, MAX_HORIZON, uniforms

HOURS = 1_546_300_800_000 + 3_600_000 * np.arange(64, dtype=np.int64)
WORD = 2**64 - 1
PINNED = (0.7859272093283359, 0.652779676296455)


def philox_4x64_10(counter: int, key: int) -> list[int]:
    """One block of Philox 4x64 with 10 rounds, from the paper."""
    c = [(counter >> 64 * i) & WORD for i in range(4)]
    k = [key & WORD, key >> 64]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(second >> 64) ^ c[1] ^ k[0], second & WORD, (first >> 64) ^ c[3] ^ k[1], first & WORD]
        k = [(k[0] + 0x9E3779B97F4A7C15) & WORD, (k[1] + 0xBB67AE8584CAA73B) & WORD]
    return c


def one_uniform(seed: int, origin: int, path: int, step: int, lane: int) -> float:
    """The slow twin: one number from its own five coordinates."""
    number = step * LANES + lane
    block = path * MAX_HORIZON * LANES // 4 + number // 4 + 1  # numpy counts up before it draws
    word = philox_4x64_10(block, (seed << 64) | (origin & WORD))[number % 4]
    return (word >> 11) * 2.0**-53


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_every_number_equals_its_own_philox_block(seed: int) -> None:
    origins = [int(HOURS[0]), int(HOURS[5]), -3_600_000]
    got = uniforms(seed, origins, 3, 5)
    for (b, s, h, lane), value in np.ndenumerate(got):
        assert value == one_uniform(seed, origins[b], s, h, lane)


def test_numpy_draws_the_same_words_when_it_is_advanced_instead_of_placed() -> None:
    got = uniforms(11, HOURS[:2], 4, 9)
    for b, origin in enumerate(HOURS[:2]):
        for s in range(4):
            philox = np.random.Philox(key=(11 << 64) | int(origin)).advance(s * MAX_HORIZON * LANES // 4)
            words = philox.random_raw(9 * LANES)
            assert np.array_equal(got[b, s].ravel(), (words >> np.uint64(11)) * 2.0**-53)


def test_the_numbers_are_pinned_because_stored_forecasts_depend_on_them() -> None:
    got = uniforms(0, [1_559_347_200_000], 2, 2).ravel()
    expected = [one_uniform(0, 1_559_347_200_000, s, h, k) for s in range(2) for h in range(2) for k in range(2)]
    assert got.tolist() == expected
    assert got[0] == PINNED[0]
    assert got[-1] == PINNED[1]


def test_more_origins_paths_or_steps_leave_the_numbers_as_they_were() -> None:
    whole = uniforms(3, HOURS, 6, 24)
    assert np.array_equal(whole[:7], uniforms(3, HOURS[:7], 6, 24))
    assert np.array_equal(whole[:, :2], uniforms(3, HOURS, 2, 24))
    assert np.array_equal(whole[:, :, :5], uniforms(3, HOURS, 6, 5))
    assert np.array_equal(whole[[40, 2]], uniforms(3, HOURS[[40, 2]], 6, 24))


def test_seeds_origins_and_paths_draw_different_numbers() -> None:
    every = np.stack([uniforms(seed, HOURS[:8], 16, 24) for seed in (0, 1)])
    assert len(np.unique(every)) == every.size


def test_paths_do_not_overlap_at_the_longest_horizon() -> None:
    numbers = uniforms(0, HOURS[:1], 3, MAX_HORIZON)
    assert len(np.unique(numbers)) == numbers.size


def test_numbers_are_uniform_on_the_half_open_unit_interval() -> None:
    numbers = uniforms(5, HOURS, 30, 24)
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 0.01
    cells = np.histogram2d(numbers[..., 0].ravel(), numbers[..., 1].ravel(), bins=16, range=[[0, 1]] * 2)[0]
    assert stats.chisquare(cells.ravel()).pvalue > 0.01


@pytest.mark.parametrize("axis", [0, 1, 2, 3], ids=["origins", "paths", "steps", "lanes"])
def test_neighbours_along_every_axis_are_uncorrelated(axis: int) -> None:
    numbers = np.moveaxis(uniforms(9, HOURS, 30, 24), axis, 0)
    before, after = numbers[:-1].ravel(), numbers[1:].ravel()
    correlation = np.corrcoef(before, after)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(before.size)


@pytest.mark.parametrize("horizon", [0, MAX_HORIZON + 1])
def test_a_horizon_without_numbers_set_aside_is_refused(horizon: int) -> None:
    with pytest.raises(ValueError, match=f"horizon {horizon} is outside"):
        uniforms(0, HOURS[:1], 1, horizon)


def test_no_origins_give_an_empty_array() -> None:
    assert uniforms(0, HOURS[:0], 3, 4).shape == (0, 3, 4, LANES)
