"""Batches in order, whoever computed them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import pytest

from btcbt.forecasters import parallel
from btcbt.forecasters.garch import Garch
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.records import ForecastBatch, Window

MakeWindows = Callable[..., list[Window]]


def test_processes_give_what_one_process_gives_in_the_same_order(make_windows: MakeWindows) -> None:
    windows = make_windows(9, 60)
    build = partial(Garch, context=60, horizon=3, n_paths=4, seed=1)
    batches = [windows[0:4], windows[4:8], windows[8:9]]
    alone, together = (
        list(parallel.forecast_in_order(build(), batches, workers, key="garch", build=build)) for workers in (1, 2)
    )
    assert [len(batch) for batch in together] == [4, 4, 1]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.origins, other.origins)
        np.testing.assert_array_equal(one.paths, other.paths)
        assert dict(one.provenance) == dict(other.provenance)


def test_an_error_in_a_process_reaches_the_caller(make_windows: MakeWindows) -> None:
    build = partial(Garch, context=61, horizon=3, n_paths=4, seed=1)
    with pytest.raises(ValueError, match="expected"):
        list(parallel.forecast_in_order(build(), [make_windows(2, 60)] * 2, 2, key="other", build=build))


def test_batches_are_taken_up_as_they_are_needed(make_windows: MakeWindows) -> None:
    windows, taken = make_windows(4, 8), []

    def batches() -> object:
        for window in windows:
            taken.append(window)
            yield [window]

    build = partial(RandomWalk, context=8, horizon=2, n_paths=2, seed=0)
    answers = parallel.forecast_in_order(build(), batches(), 1, key="walk", build=build)  # type: ignore[arg-type]
    next(answers)
    assert len(taken) == 1


def test_only_a_slow_forecaster_on_one_core_gets_more_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.joblib, "cpu_count", lambda: 4)
    garch = Garch(context=360, horizon=24, n_paths=30, seed=0)
    walk = RandomWalk(context=360, horizon=24, n_paths=30, seed=0)
    assert parallel.processes(garch, 1000) == 4
    assert parallel.processes(garch, parallel.MIN_ORIGINS - 1) == 1
    assert parallel.processes(walk, 1000) == 1
    assert parallel.batch_size(garch) == parallel.PROCESS_BATCH
    assert parallel.batch_size(walk) == walk.batch_size


def test_torch_keeps_to_one_thread_while_such_a_forecaster_works(make_windows: MakeWindows) -> None:
    import torch

    class Watching(Garch):
        seen: ClassVar[list[int]] = []

        def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
            self.seen.append(torch.get_num_threads())
            return super().forecast(windows)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        build = partial(Watching, context=60, horizon=3, n_paths=4, seed=1)
        list(parallel.forecast_in_order(build(), [make_windows(1, 60)], 1, key="x", build=build))
        assert Watching.seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
