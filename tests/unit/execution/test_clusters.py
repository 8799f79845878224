"""Shards on other engines: the same forecasts, whoever made them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from btcbt.config import ExecutorConfig
from btcbt.errors import BtcbtError, ConfigError, StoreError
from btcbt.execution import clusters as executors
from btcbt.execution.clusters import ShardTask, forecast_shards_on, pin_gpu, work
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.records import Window
from btcbt.storage.runs import load_run

HOUR = 3_600_000
BUILD = partial(RandomWalk, context=8, horizon=2, n_paths=3, seed=1, batch_size=3)
MakeWindows = Callable[..., list[Window]]


def task(windows: list[Window], first: int, count: int) -> ShardTask:
    head, *rest = windows[first : first + count]
    open_time = np.concatenate([head.open_time, *(w.open_time[-1:] for w in rest)])
    values = np.concatenate([head.values, *(w.values[-1:] for w in rest)])
    return ShardTask(open_time, values, HOUR, 8, np.arange(7, 7 + count))


def test_a_task_holds_the_windows_of_its_shard_read_only(make_windows: MakeWindows) -> None:
    windows = make_windows(6, 8)
    again = task(windows, 1, 4).windows()
    assert [w.origin for w in again] == [w.origin for w in windows[1:5]]
    for one, other in zip(again, windows[1:5], strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert not one.values.flags.writeable


def test_a_shard_is_cut_into_batches_and_put_together(make_windows: MakeWindows) -> None:
    windows = make_windows(7, 8)
    batch = work("unit", BUILD, task(windows, 0, 7))
    np.testing.assert_array_equal(batch.paths, BUILD().forecast(windows).paths)
    assert batch.origins.tolist() == [w.origin for w in windows]


@pytest.mark.parametrize("kind", ["joblib", "ray"])
def test_another_engine_gives_the_same_shards_in_order(kind: str, make_windows: MakeWindows) -> None:
    pytest.importorskip(kind, reason=f"{kind} is not installed: pip install 'btcbt[{kind}]'")
    windows = make_windows(9, 8)
    tasks = [task(windows, 0, 4), task(windows, 4, 4), task(windows, 8, 1)]
    executor = ExecutorConfig(kind=kind, workers=2)
    batches = list(forecast_shards_on(executor, tasks, key=f"unit-{kind}", build=BUILD))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    np.testing.assert_array_equal(np.concatenate([b.paths for b in batches]), BUILD().forecast(windows).paths)


def test_dask_gives_the_same_shards_in_order(make_windows: MakeWindows) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'btcbt[dask]'")
    windows = make_windows(9, 8)
    tasks = [task(windows, 0, 4), task(windows, 4, 4), task(windows, 8, 1)]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        executor = ExecutorConfig(kind="dask", address=cluster.scheduler_address)
        batches = list(forecast_shards_on(executor, tasks, key="unit-dask", build=BUILD))
    np.testing.assert_array_equal(np.concatenate([b.paths for b in batches]), BUILD().forecast(windows).paths)


@pytest.mark.parametrize(("kind", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_is_named_with_what_to_install(
    kind: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(executors, "import_module", absent)
    with pytest.raises(
        ConfigError, match=rf"{module} is not installed; install it with: pip install 'btcbt\[{kind}\]'"
    ):
        next(forecast_shards_on(ExecutorConfig(kind=kind), [], key="", build=BUILD))  # type: ignore[arg-type]


@pytest.mark.skipif(not executors.CAN_LOCK, reason="no locks on files here")
def test_each_worker_takes_the_gpu_that_the_fewest_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(executors.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(executors, "_pinned", [])
    held = []

    def pin() -> str:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6, 7")
        pin_gpu()
        pin_gpu()  # a worker keeps the one that it has
        held.append(executors._pinned.pop())
        return os.environ["CUDA_VISIBLE_DEVICES"]

    assert [pin() for _ in range(5)] == ["4", "6", "7", "4", "6"]
    held[2].close()  # as when the process ends
    assert [pin() for _ in range(2)] == ["7", "7"]


def test_a_worker_that_is_shown_one_gpu_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_pinned", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    pin_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert executors._pinned == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1:6379", r"executor\.address 10\.0\.0\.1:6379: no Ray cluster responds"),
        (None, "Ray could not be started here"),
    ],
)
def test_a_ray_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, address: str | None, expected: str
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'btcbt[ray]'")

    def fail(**_: object) -> None:
        raise Exception("The current node timed out\nduring startup.")  # as Ray does

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(BtcbtError, match=rf"{expected}.*timed out during startup") as caught:
        next(forecast_shards_on(ExecutorConfig(kind="ray", address=address), [], key="", build=BUILD))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["bogus", "foo://host:1"])
def test_a_dask_address_that_is_none_is_one_line(address: str) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'btcbt[dask]'")
    with pytest.raises(ConfigError, match=rf"executor\.address {address}: no Dask scheduler responds") as caught:
        next(forecast_shards_on(ExecutorConfig(kind="dask", address=address), [], key="", build=BUILD))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["joblib", "ray", "dask"])
def test_what_is_wrong_in_a_worker_is_said_in_its_own_words(kind: str, make_windows: MakeWindows) -> None:
    module = {"dask": "distributed"}.get(kind, kind)
    pytest.importorskip(module, reason=f"{module} is not installed: pip install 'btcbt[{kind}]'")
    executor = ExecutorConfig(kind=kind, workers=1)
    fails = partial(load_run, "nowhere")  # as a forecaster without its checkpoint does, and at once
    with pytest.raises(StoreError) as caught:
        next(forecast_shards_on(executor, [task(make_windows(4, 8), 0, 4)], key="none", build=fails))
    assert str(caught.value).startswith("nowhere: not a run (No such file or directory")


@pytest.mark.parametrize("loss", ["WorkerCrashedError", "OutOfMemoryError", "NodeDiedError"])
def test_lost_ray_workers_are_one_line(monkeypatch: pytest.MonkeyPatch, make_windows: MakeWindows, loss: str) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'btcbt[ray]'")

    class Remote:
        @staticmethod
        def remote(*_: object) -> None:
            kinds = {"OutOfMemoryError": ("lost",), "NodeDiedError": ("lost",)}
            raise getattr(ray.exceptions, loss)(*kinds.get(loss, ()))

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1})
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: Remote)
    tasks = [task(make_windows(4, 8), 0, 4)]
    with pytest.raises(BtcbtError, match=rf"its Ray workers were lost \({loss}\), possibly out of memory"):
        next(forecast_shards_on(ExecutorConfig(kind="ray"), tasks, key="", build=BUILD))


class Slow:
    """A Dask future that has its result after so many waits; a client of such is always connected."""

    status = "running"

    def __init__(self, waits: int, workers: dict[str, int]) -> None:
        self.waits, self.workers = waits, workers

    def nthreads(self) -> dict[str, int]:
        return self.workers

    def done(self) -> bool:
        return self.waits <= 0

    def result(self, timeout: float) -> str:
        self.waits -= 1
        if self.waits:
            raise TimeoutError
        return "done"


def test_a_dask_cluster_without_workers_is_waited_for_but_not_for_ever() -> None:
    patient = round(executors.ALONE_SECONDS / executors.WAIT_SECONDS)
    busy, starting, dead = Slow(100 * patient, {"a": 1}), Slow(patient, {}), Slow(patient + 1, {})
    assert [executors._wait(one, one) for one in (busy, starting)] == ["done", "done"]
    with pytest.raises(BtcbtError, match="the Dask cluster has had no worker for 120 s"):
        executors._wait(dead, dead)


def test_a_forecaster_that_times_out_on_dask_is_not_waited_for() -> None:
    class Failed(Slow):
        def result(self, timeout: float) -> str:
            raise TimeoutError("of its own")

    failed = Failed(0, {})
    with pytest.raises(TimeoutError, match="of its own"):
        executors._wait(failed, failed)


def test_a_ray_whose_head_is_lost_is_one_line_and_one_that_answers_is_waited_for() -> None:
    class NotYetError(TimeoutError):
        pass

    class Ray(SimpleNamespace):
        exceptions = SimpleNamespace(GetTimeoutError=NotYetError)
        waits = 5

        def get(self, reference: str, timeout: float) -> str:
            self.waits -= 1
            if self.waits:
                raise NotYetError
            return reference

        def get_runtime_context(self) -> SimpleNamespace:
            return SimpleNamespace(gcs_address=self.head)

    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        assert executors._get(Ray(head=f"127.0.0.1:{port}"), "done") == "done"
    with pytest.raises(BtcbtError, match=rf"the head of the Ray cluster, 127\.0\.0\.1:{port}, does not answer"):
        executors._get(Ray(head=f"127.0.0.1:{port}"), "done")


def test_an_address_belongs_to_a_cluster() -> None:
    with pytest.raises(ValueError, match="address is for a cluster, which 'joblib' does not use"):
        ExecutorConfig(kind="joblib", address="tcp://10.0.0.1:8786")
    with pytest.raises(ValueError, match="remove 'workers' or 'address'"):
        ExecutorConfig(kind="dask", address="tcp://10.0.0.1:8786", workers=4)
