from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from btcbt.randomness import systematic, uniforms


@pytest.mark.parametrize("n_paths", [1, 2, 8, 30])
def test_every_stratum_holds_one_path_at_a_common_offset(n_paths):
    numbers = systematic(1, [10, 20], n_paths, 5)
    assert numbers.shape == (2, n_paths, 5, 2)
    ordered = np.sort(numbers, axis=1) * n_paths
    np.testing.assert_array_equal(
        np.floor(ordered), np.broadcast_to(np.arange(n_paths)[None, :, None, None], ordered.shape)
    )
    np.testing.assert_allclose(ordered % 1, np.broadcast_to(ordered[:, :1] % 1, ordered.shape), atol=1e-9)
    assert numbers.max() < 1


def test_numbers_do_not_depend_on_the_batch_or_the_horizon():
    whole = systematic(1, [10, 20, 30], 4, 6)
    np.testing.assert_array_equal(systematic(1, [20], 4, 6)[0], whole[1])
    np.testing.assert_array_equal(systematic(1, [10, 20, 30], 4, 2), whole[:, :, :2])
    assert not np.array_equal(systematic(2, [10], 4, 6)[0], whole[0])


def test_each_path_alone_is_uniform_and_independent_over_steps():
    numbers = systematic(5, range(4000), 8, 2)
    for path in (0, 7):
        assert stats.kstest(numbers[:, path, 0, 0], "uniform").pvalue > 1e-3
        for a, b in (((0, 0), (1, 0)), ((0, 0), (0, 1))):
            assert abs(np.corrcoef(numbers[:, path, *a], numbers[:, path, *b])[0, 1]) < 0.06


def test_means_are_unbiased_and_vary_less():
    spread, plain = (source(3, range(3000), 8, 1)[..., 0, 0] for source in (systematic, uniforms))
    for numbers in (spread, plain):
        means = (numbers**2).mean(axis=1)
        assert abs(means.mean() - 1 / 3) < 4 * means.std() / np.sqrt(len(means))
    assert (spread**2).mean(axis=1).var() < (plain**2).mean(axis=1).var() / 5
