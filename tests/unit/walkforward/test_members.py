"""What a run hands to those who forecast for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from btcbt.config import WindowsConfig
from btcbt.errors import CheckpointError
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.records import Candles
from btcbt.storage.forecasts import window_digests
from btcbt.walkforward.members import Member
from btcbt.windows import make_windows

WALK = partial(RandomWalk, context=8, horizon=2, seed=1)


def make_member(candles: Candles, build: Callable[[], Any]) -> Member:
    config = WindowsConfig.model_validate(
        {"context": 8, "horizon": 2, "start": "2019-01-02", "end": "2019-01-02T12:00"}, strict=False
    )
    windows = make_windows(candles, config)
    rest: Any = dict.fromkeys(("meaning", "store", "plan", "labels"))
    digests = window_digests(windows)
    return Member(
        "walk",
        "random_walk",
        WALK(n_paths=3),
        build,
        None,
        windows,
        digests,
        "window.8",
        "key",
        configured=True,
        **rest,
    )


def test_what_workers_build_is_named_by_all_that_its_forecasts_depend_on(
    make_history: Callable[..., Candles],
) -> None:
    candles = make_history(40)
    name, build = make_member(candles, partial(WALK, n_paths=3)).work
    assert dict(build().identity()) == dict(WALK(n_paths=3).identity())
    assert make_member(candles, build).work[0] == name
    other = Candles(candles.open_time, candles.values * 2.0, candles.interval_ms, candles.source, "other")
    assert make_member(other, build).work[0] != name


def test_a_worker_that_builds_another_forecaster_is_found_out(make_history: Callable[..., Candles]) -> None:
    class Another(RandomWalk):
        def identity(self) -> dict[str, object]:
            return {**super().identity(), "weights": "others"}

    member = make_member(make_history(40), partial(Another, context=8, horizon=2, seed=1, n_paths=3))
    with pytest.raises(CheckpointError, match="'walk': a worker reads other weights"):
        member.work[1]()
