"""Runs that are killed at random moments, and workers that die, end as if nothing had been."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import btcbt

Write = Callable[..., Path]
TABLES = ("scores", "losses", "candles", "targets", "equity", "trades", "orders", "origins")
RESULTS = ("metrics.json", *(f"{table}.parquet" for table in TABLES))
ENGINES = {"local": "local", "joblib": "joblib, workers: 2", "dask": "dask, workers: 2", "ray": "ray, workers: 2"}
MODULES = {"dask": "distributed", "ray": "ray"}
KILLS = int(os.environ.get("BTCBT_KILLS", "52"))
"""Over all engines."""
KILLS_A_RUN = 7
ORPHAN_SECONDS = 120.0
"""A worker process whose parent was killed ends within this time."""
SHORT = ("end: 2019-06-04", "end: 2019-06-03")
# A slow forecaster, in small shards, so that a worker is killed while forecasts are under way.
SLOW = (
    "  ewma: {kind: ewma_volatility, n_paths: 8}\n",
    "  ewma: {kind: ewma_volatility, n_paths: 8}\n  garch: {kind: garch, n_paths: 8}\n",
)
SHARDS = ("shard_size: 20", "shard_size: 3")


def same_results(one: btcbt.Run, other: btcbt.Run) -> None:
    for name in RESULTS:
        assert (one.directory / name).read_bytes() == (other.directory / name).read_bytes(), name
    assert one.manifest["forecasters"].keys() == other.manifest["forecasters"].keys()
    for name in one.manifest["forecasters"]:
        np.testing.assert_array_equal(one.forecasts(name).paths(), other.forecasts(name).paths())


def with_executor(write: Write, engine: str, size: tuple[str, str], root: str) -> Path:
    return write(("seed: 3", f"seed: 3\nexecutor: {{kind: {engine}}}"), size, SHARDS, root=root)


def start(file: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "btcbt", "run", "-q", str(file)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def finish(file: Path) -> btcbt.Run:
    """Run to the end, as a user does who starts the same command again."""
    process = start(file)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()
    return btcbt.load_run(file.parent / read_root(file) / "small")


def read_root(file: Path) -> str:
    return next(line.split(": ")[1] for line in file.read_text().splitlines() if line.startswith("  root: "))


def alive(group: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


@pytest.mark.proof
@pytest.mark.parametrize("engine", ENGINES)
def test_kills_at_random_moments_change_nothing(write: Write, rng: np.random.Generator, engine: str) -> None:
    if engine in MODULES:
        pytest.importorskip(MODULES[engine], reason=f"not installed: pip install 'btcbt[{engine}]'")
    whole = btcbt.run(write(SHORT, root="whole"))
    began = time.monotonic()
    same_results(whole, finish(with_executor(write, ENGINES[engine], SHORT, "timed")))
    usual = time.monotonic() - began
    wanted = -(-KILLS // len(ENGINES))
    kills = {"process": 0, "group": 0}
    groups: list[int] = []
    runs = 0
    while sum(kills.values()) < wanted:
        file = with_executor(write, ENGINES[engine], SHORT, f"killed-{runs}")
        # A run is killed a few times, each time it goes on, and then it is left to end.
        for _ in range(min(KILLS_A_RUN, wanted - sum(kills.values()))):
            process = start(file)
            try:
                process.wait(timeout=float(rng.uniform(0.2, 1.0)) * usual)
            except subprocess.TimeoutExpired:
                # Once with all of its processes, as when a machine fails; once alone, which leaves its workers behind.
                how = "process" if sum(kills.values()) % 2 else "group"
                kills[how] += 1
                os.killpg(process.pid, signal.SIGKILL) if how == "group" else process.kill()
            process.wait()
            groups.append(process.pid)
        same_results(whole, finish(file))
        runs += 1
        sys.stdout.write(f"\n{engine}: {kills} over {runs} runs, identical")
        sys.stdout.flush()
    deadline = time.monotonic() + ORPHAN_SECONDS
    while left := [group for group in groups if alive(group)]:
        assert time.monotonic() < deadline, f"workers of {left} outlive their runs"
        time.sleep(1.0)
    sys.stdout.write(
        f"\n{engine}: {kills['group']} kills of all processes and {kills['process']} of the main one over {runs} runs "
        f"of {usual:.0f} s: every result identical, no process left\n"
    )


@pytest.mark.proof
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_worker_of_a_cluster_that_is_killed_changes_nothing(write: Write, engine: str) -> None:
    whole = btcbt.run(write(SLOW, root="whole"))
    cluster = {"dask": dask_cluster, "ray": ray_cluster}[engine]
    with cluster() as (address, workers):
        file = with_executor(write, f"{engine}, address: '{address}'", SLOW, "cluster")
        runs: list[btcbt.Run] = []
        thread = threading.Thread(target=lambda: runs.append(btcbt.run(file)))
        thread.start()
        store = file.parent / "cluster" / "store"
        # The third forecaster is the slow one: when it has a shard, its others are with the workers.
        while thread.is_alive() and len(list(store.glob("*/[0-9]*.parquet"))) <= 2 * 24:
            time.sleep(0.005)
        os.kill(min(workers()), signal.SIGKILL)
        running = thread.is_alive()
        thread.join()
        assert running, "the run ended before a worker was killed"
    assert len(runs) == 1
    same_results(whole, runs[0])
    sys.stdout.write(f"\n{engine}: one of two workers was killed during the run: result identical\n")


@contextlib.contextmanager
def dask_cluster():  # type: ignore[no-untyped-def]
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'btcbt[dask]'")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address, lambda: [nanny.pid for nanny in cluster.workers.values()]


@contextlib.contextmanager
def ray_cluster():  # type: ignore[no-untyped-def]
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'btcbt[ray]'")
    psutil = pytest.importorskip("psutil", reason="psutil finds Ray's workers")
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    def workers() -> list[int]:
        found = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::work")]
        return [p.pid for p in found]

    try:
        yield context.address_info["gcs_address"], workers
    finally:
        ray.shutdown()
