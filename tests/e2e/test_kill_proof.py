"""Runs that are killed at random moments, and workers that die, end as if nothing had been."""

from __future__ import annotations

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
RESULTS = ("metrics.json", "targets.parquet", "equity.parquet", "trades.parquet", "orders.parquet", "origins.parquet")
KILLS = int(os.environ.get("BTCBT_KILLS", "50"))
ENGINES = ("{kind: local}", "{kind: joblib, workers: 2}", "{kind: dask, workers: 2}")


def same_results(one: btcbt.Run, other: btcbt.Run) -> None:
    for name in RESULTS:
        assert (one.directory / name).read_bytes() == (other.directory / name).read_bytes(), name
    for name in ("random_walk", "ewma"):
        np.testing.assert_array_equal(one.forecasts(name).paths(), other.forecasts(name).paths())


def with_executor(write: Write, engine: str, root: str) -> Path:
    return write(("seed: 3", f"seed: 3\nexecutor: {engine}"), ("shard_size: 20", "shard_size: 3"), root=root)


@pytest.mark.proof
def test_kills_at_random_moments_change_nothing(write: Write, rng: np.random.Generator) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'btcbt[dask]'")
    whole = btcbt.run(write(root="whole"))
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "btcbt", "run", "-q", str(with_executor(write, ENGINES[0], "timed"))], check=True
    )
    usual = time.monotonic() - began
    killed = finished = 0
    while killed < KILLS:
        engine, root = ENGINES[finished % len(ENGINES)], f"killed-{finished}"
        file = with_executor(write, engine, root)
        # An experiment is killed a few times, each time it goes on, and then it is left to end.
        for _ in range(min(5, max(1, KILLS // len(ENGINES)), KILLS - killed)):
            command = [sys.executable, "-m", "btcbt", "run", "-q", str(file)]
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            try:
                process.wait(timeout=float(rng.uniform(0.2, 1.0)) * usual)
            except subprocess.TimeoutExpired:
                killed += 1
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
            process.wait()
        same_results(whole, btcbt.run(file))
        finished += 1
        sys.stdout.write(f"\n{killed} kills, {finished} runs, the last on {engine}: identical")
        sys.stdout.flush()
    sys.stdout.write(f"\n{killed} kills over {finished} runs on {len(ENGINES)} engines: every result identical\n")


@pytest.mark.proof
def test_a_dask_worker_that_is_killed_changes_nothing(write: Write) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'btcbt[dask]'")
    whole = btcbt.run(write(root="whole"))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        file = with_executor(write, f"{{kind: dask, address: '{cluster.scheduler_address}'}}", "dask")
        runs: list[btcbt.Run] = []
        thread = threading.Thread(target=lambda: runs.append(btcbt.run(file)))
        before = {nanny.pid for nanny in cluster.workers.values()}
        thread.start()
        store = file.parent / "dask" / "store"
        while thread.is_alive() and not list(store.glob("*/[0-9]*.parquet")):
            time.sleep(0.005)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        alive = thread.is_alive()
        thread.join()
        assert alive, "the run ended before a worker was killed"
    assert len(runs) == 1
    same_results(whole, runs[0])
    sys.stdout.write("\none of two Dask workers was killed during the run: result identical\n")
