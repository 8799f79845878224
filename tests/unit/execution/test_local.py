"""Batches in order, whoever computed them."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

import joblib
import numpy as np
import pytest

from btcbt.config import ExecutorConfig
from btcbt.errors import BtcbtError, ForecasterError
from btcbt.execution import local as parallel
from btcbt.execution.local import within_cores
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


def test_no_more_than_a_few_tasks_are_in_flight() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    answers = parallel.in_order(lambda n: n, lambda n: n * n, tasks(), 3)
    assert next(answers) == 0
    assert taken == [0, 1, 2]
    assert list(answers) == [n * n for n in range(1, 10)]


def test_answers_that_nobody_takes_do_not_pile_up() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    answers = parallel.on_processes(operator.neg, tasks(), 2)
    assert next(answers) == 0
    time.sleep(0.3)  # the processes have long done what they were given
    assert len(taken) == parallel.AHEAD * 2
    answers.close()


def test_a_killed_process_is_an_error_of_the_user_and_the_next_call_has_new_ones() -> None:
    with pytest.raises(BtcbtError, match="a worker process was killed"):
        list(parallel.on_processes(os._exit, [1, 2], 2))
    assert list(parallel.on_processes(operator.neg, [1, 2, 3], 2)) == [-1, -2, -3]


@pytest.mark.skipif(os.name != "posix", reason="a process of Windows does not learn that its parent ended")
def test_processes_end_with_a_parent_that_was_killed() -> None:
    code = """
import os, sys
from btcbt.execution.local import on_processes
for pid in on_processes(eval, ["__import__('os').getpid()"] * 8, 2):
    print(pid, flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout is not None
        workers = {int(parent.stdout.readline()) for _ in range(8)}
        parent.kill()
    for _ in range(100):
        if not any(map(running, workers)):
            return
        time.sleep(0.1)
    pytest.fail(f"{workers} outlive their parent")


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_that_loky_replaces_loses_nothing_and_warns_of_nothing() -> None:
    pytest.importorskip("psutil", reason="loky looks at memory where psutil is installed")

    def grow(number: int) -> int:
        """Keep 400 MB after the first task: loky takes that for a leak, and replaces the process."""
        import builtins
        import os
        import time

        if number:
            builtins.__dict__.setdefault("kept", []).append(bytearray(400_000_000))
            time.sleep(1.1)  # between two looks of its
        return os.getpid()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processes = list(parallel.on_processes(grow, range(4), 1))
    assert len(processes) == 4
    assert len(set(processes)) > 1


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


class Hungry(RandomWalk):
    """Has memory for so many origins at once."""

    room: ClassVar[int] = 3
    error: ClassVar[Exception] = MemoryError()

    def __init__(self, **shape: int) -> None:
        super().__init__(**shape)
        self.asked: list[int] = []

    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        self.asked.append(len(windows))
        if len(windows) > self.room:
            raise self.error
        return super().forecast(windows)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("can't allocate memory")],
    ids=["python", "cuda", "cpu"],
)
def test_a_batch_that_memory_is_short_for_is_halved_and_the_next_is_not_tried(
    error: Exception, make_windows: MakeWindows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Hungry, "error", error)
    windows = make_windows(20, 8)
    build = partial(Hungry, context=8, horizon=2, n_paths=2, seed=0)
    hungry = build()
    batches = list(parallel.forecast_in_order(hungry, [windows[:10], windows[10:]], 1, key="hungry", build=build))
    assert hungry.asked == [10, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    expected = RandomWalk(context=8, horizon=2, n_paths=2, seed=0).forecast(windows)
    np.testing.assert_array_equal(np.concatenate([batch.paths for batch in batches]), expected.paths)
    assert [len(batch) for batch in batches] == [10, 10]
    assert "out of memory with a batch of 10 origins; continuing with 5" in caplog.text


def test_one_origin_that_does_not_fit_is_an_error_of_the_user(
    make_windows: MakeWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "room", 0)
    with pytest.raises(BtcbtError, match="not enough memory for one origin of 2 paths; lower n_paths"):
        parallel.forecast_halving(Hungry(context=8, horizon=2, n_paths=2, seed=0), make_windows(4, 8))


def test_any_other_error_of_a_users_class_is_reported_in_one_line(
    make_windows: MakeWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "error", RuntimeError("shapes differ"))
    hungry = Hungry(context=8, horizon=2, n_paths=2, seed=0)
    with pytest.raises(
        ForecasterError, match=r"^2019-01-01T08:00Z .. 2019-01-01T11:00Z: raised RuntimeError: shapes differ"
    ):
        parallel.forecast_halving(hungry, make_windows(4, 8))
    assert hungry.asked == [4]


def test_more_workers_than_a_machine_can_use_are_capped_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    many = within_cores(ExecutorConfig(kind="joblib", workers=1024))
    assert many.workers == 4 * joblib.cpu_count()
    assert f"executor.workers 1024: this machine has {joblib.cpu_count()} cores" in caplog.text
    for one in (ExecutorConfig(), ExecutorConfig(workers=1), ExecutorConfig(kind="ray", address="x", workers=1024)):
        assert within_cores(one) is one
