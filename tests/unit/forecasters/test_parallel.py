"""Batches in order, whoever computed them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from btcbt.forecasters import parallel
from btcbt.forecasters.garch import Garch
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.records import Window

MakeWindows = Callable[..., list[Window]]


def test_processes_give_what_one_process_gives_in_the_same_order(make_windows: MakeWindows) -> None:
    windows = make_windows(9, 60)
    forecaster = Garch(context=60, horizon=3, n_paths=4, seed=1)
    batches = [windows[0:4], windows[4:8], windows[8:9]]
    alone = list(parallel.forecast_in_order(forecaster, batches, 1))
    together = list(parallel.forecast_in_order(forecaster, batches, 2))
    assert [len(batch) for batch in together] == [4, 4, 1]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.origins, other.origins)
        np.testing.assert_array_equal(one.paths, other.paths)
        assert dict(one.provenance) == dict(other.provenance)


def test_an_error_in_a_process_reaches_the_caller(make_windows: MakeWindows) -> None:
    forecaster = Garch(context=61, horizon=3, n_paths=4, seed=1)
    with pytest.raises(ValueError, match="expected"):
        list(parallel.forecast_in_order(forecaster, [make_windows(2, 60)] * 2, 2))


def test_batches_are_taken_up_as_they_are_needed(make_windows: MakeWindows) -> None:
    windows, taken = make_windows(4, 8), []

    def batches() -> object:
        for window in windows:
            taken.append(window)
            yield [window]

    forecaster = RandomWalk(context=8, horizon=2, n_paths=2, seed=0)
    answers = parallel.forecast_in_order(forecaster, batches(), 1)  # type: ignore[arg-type]
    next(answers)
    assert len(taken) == 1


def test_only_a_slow_forecaster_on_one_core_gets_more_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.joblib, "cpu_count", lambda: 4)
    garch = Garch(context=360, horizon=24, n_paths=30, seed=0)
    walk = RandomWalk(context=360, horizon=24, n_paths=30, seed=0)
    assert parallel.processes(garch, 1000) == 4
    assert parallel.processes(garch, parallel.MIN_ORIGINS - 1) == 1
    assert parallel.processes(walk, 1000) == 1
    assert parallel.batch_size(garch, 1000) == parallel.PROCESS_BATCH
    assert parallel.batch_size(walk, 1000) == walk.batch_size
