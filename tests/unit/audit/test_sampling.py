"""Origins are drawn by key, at edges and elsewhere, and only where something follows."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from btcbt.audit.sampling import draw_origins, edge_origins
from btcbt.config import WindowsConfig
from btcbt.windows import make_windows

HOUR_MS = 3_600_000


@pytest.fixture
def history(make_history):
    return make_history(600, missing=[200, 201, 400])


@pytest.fixture
def windows(history):
    config = WindowsConfig(
        context=24, horizon=6, start=datetime(2019, 1, 3, tzinfo=UTC), end=datetime(2019, 1, 26, 1, tzinfo=UTC)
    )
    return make_windows(history, config)


def test_a_draw_is_a_function_of_its_seed(windows, history):
    first, again, other = (draw_origins(windows, history, sample=20, shard=168, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(first) == 20
    assert (np.diff(first) > 0).all()
    assert np.isin(first, windows.origins).all()


def test_the_first_and_the_last_origin_that_a_candle_follows_are_drawn(windows, history):
    drawn = draw_origins(windows, history, sample=6, shard=168, seed=4)
    last_close = history.open_time[-1] + HOUR_MS
    assert windows.origins[-1] == last_close
    assert drawn[0] == windows.origins[0]
    assert drawn[-1] == windows.origins[-2]


def test_edges_are_the_ends_of_blocks_and_shards_and_the_sides_of_gaps(windows, history):
    edges = set(edge_origins(windows, history, 100).tolist())
    origins = windows.origins.tolist()
    jumps = [i for i in range(len(origins) - 1) if origins[i + 1] - origins[i] > HOUR_MS]
    assert len(jumps) == 2
    expected = {origins[0], origins[-1], *origins[100::100]}
    expected |= {origins[i] for i in jumps} | {origins[i + 1] for i in jumps}
    assert edges == expected


def test_at_most_a_third_of_a_sample_are_edges(windows, history):
    edges = edge_origins(windows, history, 10)
    drawn = draw_origins(windows, history, sample=30, shard=10, seed=0)
    # The others are random, and may hit an edge by chance.
    assert np.isin(drawn, edges).sum() <= 10 + 6


def test_a_sample_larger_than_the_experiment_is_all_of_it(windows, history):
    drawn = draw_origins(windows, history, sample=10_000, shard=168, seed=0)
    assert np.array_equal(drawn, windows.origins[:-1])
