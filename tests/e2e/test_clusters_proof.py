"""A cluster that loses its scheduler, a network that is cut and healed, results that are spilled to disk.

A run finishes with the same results as one in this process, or ends in one line with exit code 2 and resumes to them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import btcbt
from tests.e2e import clusters
from tests.e2e.clusters import FIRST, SECOND, Processes, TwoHosts, kill_tree, processes, two_hosts, wait_for
from tests.e2e.test_kill_proof import SLOW, same_results, with_executor

Write = Callable[..., Path]
MEMORY = ("--memory-limit", "2GB")
HANGS = 400.0
"""Seconds after which a run counts as hung."""
pytestmark = pytest.mark.proof


class Dask:
    """A scheduler on the first host, workers on the second, or all on this one."""

    spilling = ("DASK_DISTRIBUTED__WORKER__MEMORY__TARGET", "0.00000001")

    def __init__(self, started: Processes, hosts: TwoHosts | None, folder: Path) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed: pip install 'btcbt[dask]'")
        self._started, self._hosts, self.folder = started, hosts, folder
        self._port = clusters.free_port()
        self.address = f"tcp://{FIRST if hosts else '127.0.0.1'}:{self._port}"

    def start(self) -> None:
        self.start_head()
        self.start_workers()

    def start_head(self) -> None:
        module = ("-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--port", str(self._port))
        here = ("--host", FIRST if self._hosts else "127.0.0.1")
        self.head = self._started.start(*module, *here, host=self._hosts and self._hosts.first)

    def start_workers(self) -> None:
        module = ("-m", "distributed.cli.dask_worker", self.address, "--no-dashboard", "--nthreads", "1", *MEMORY)
        more = ("--nworkers", "2", "--local-directory", str(self.folder / "scratch"))
        here = ("--host", SECOND if self._hosts else "127.0.0.1")
        self.workers = self._started.start(*module, *more, *here, host=self._hosts and self._hosts.second)

    def lose_head(self) -> None:
        assert kill_tree(self.head)

    def spilled(self) -> bool:
        return any(path.is_file() for path in (self.folder / "scratch").rglob("storage/*"))


class Ray:
    """A head on the first host, a node with the processors on the second, or all on this one."""

    def __init__(self, started: Processes, hosts: TwoHosts | None, folder: Path) -> None:
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'btcbt[ray]'")
        self._started, self._hosts, self.folder = started, hosts, folder
        self._port = clusters.free_port()
        self._here = FIRST if hosts else "127.0.0.1"
        self._place = Path(tempfile.mkdtemp(prefix="btcbt"))  # the names of its sockets must be short
        started.places.append(self._place)
        self.address = f"{self._here}:{self._port}"

    def start(self) -> None:
        self.start_head()
        wait_for("Ray's head", lambda: b"Ray runtime started" in self._log(self.head))
        if self._hosts:
            node = ("--address", self.address, "--num-cpus", "2", "--node-ip-address", SECOND)
            self.node = self._ray("two", *node, host=self._hosts.second)
            wait_for("Ray's node", lambda: b"Ray runtime started" in self._log(self.node))

    def start_head(self) -> None:
        cores = "0" if self._hosts else "2"
        more = ("--head", "--port", str(self._port), "--num-cpus", cores, "--node-ip-address", self._here)
        self.head = self._ray("one", *more, "--include-dashboard", "false", host=self._hosts and self._hosts.first)

    def _ray(self, name: str, *arguments: str, host: str | None) -> subprocess.Popen[bytes]:
        place = str(self._place / name)
        start = ("start", "--block", "--disable-usage-stats", "--object-store-memory", "100000000")
        command = "from ray.scripts.scripts import main; main()"
        temporary = ("--temp-dir", place) if "--head" in arguments else ()
        return self._started.start("-c", command, *start, *arguments, *temporary, host=host)

    def _log(self, process: subprocess.Popen[bytes]) -> bytes:
        number = self._started._started.index(process)
        return (self._started._folder / f"process-{number}.txt").read_bytes()

    def lose_head(self) -> None:
        assert kill_tree(self.head, "gcs_server")


ENGINES = {"dask": Dask, "ray": Ray}


def start_run(started: Processes, file: Path, host: str | None = None) -> subprocess.Popen[bytes]:
    return started.start("-m", "btcbt", "run", "-q", str(file), host=host)


def half_done(file: Path, run: subprocess.Popen[bytes]) -> bool:
    """The third forecaster is the slow one: when it has a shard, its others are with the workers."""
    return run.poll() is not None or len(list((file.parent / "cluster/store").glob("*/[0-9]*.parquet"))) > 2 * 24


def ended(started: Processes, run: subprocess.Popen[bytes], file: Path, whole: btcbt.Run, host: str | None) -> str:
    """How a run ended, after it was finished in this process where it did not finish."""
    code = run.wait(HANGS)
    lines = (started._folder / f"process-{started._started.index(run)}.txt").read_text().splitlines()
    how = "finished"
    if code:
        errors = [line for line in lines if line.startswith("error: ")]
        assert code == 2, lines[-20:]
        assert len(errors) == 1, lines[-20:]
        assert not any("Traceback" in line for line in lines), lines[-20:]
        how = f"exit {code} ({errors[0][:60]}...), resumed"
        local = file.read_text().splitlines()
        file.write_text("\n".join("executor: {kind: local}" if "executor:" in line else line for line in local))
        again = subprocess.run([sys.executable, "-m", "btcbt", "run", "-q", str(file)], capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
    same_results(whole, btcbt.load_run(file.parent / "cluster" / "small"))
    return how


@pytest.mark.parametrize("engine", ENGINES)
def test_a_scheduler_that_is_lost_costs_one_line_and_no_forecast(write: Write, tmp_path: Path, engine: str) -> None:
    whole = btcbt.run(write(SLOW, root="whole"))
    with processes(tmp_path) as started:
        cluster = ENGINES[engine](started, None, tmp_path)
        cluster.start()
        file = with_executor(write, f"{engine}, address: '{cluster.address}'", SLOW, "cluster")
        run = start_run(started, file)
        wait_for("a shard", lambda: half_done(file, run), HANGS)
        assert run.poll() is None, "the run ended before the scheduler was lost"
        cluster.lose_head()
        print(f"\n{engine}: scheduler lost: {ended(started, run, file, whole, None)}; results identical")


@pytest.mark.parametrize(("engine", "seconds"), [("dask", 3), ("dask", 60), ("ray", 3)])
def test_a_network_that_is_cut_and_healed_costs_no_forecast(
    write: Write, tmp_path: Path, engine: str, seconds: int
) -> None:
    whole = btcbt.run(write(SLOW, root="whole"))
    with two_hosts() as hosts, processes(tmp_path) as started:
        cluster = ENGINES[engine](started, hosts, tmp_path)
        cluster.start()
        file = with_executor(write, f"{engine}, address: '{cluster.address}'", SLOW, "cluster")
        run = start_run(started, file, hosts.first)
        wait_for("a shard", lambda: half_done(file, run), HANGS)
        assert run.poll() is None, "the run ended before the network was cut"
        hosts.cut()
        time.sleep(seconds)
        hosts.heal()
        how = ended(started, run, file, whole, hosts.first)
        print(f"\n{engine}: network between two hosts cut for {seconds} s: {how}; results identical")


def test_results_that_are_spilled_to_disk_are_the_same(write: Write, tmp_path: Path) -> None:
    many = (SLOW[0], SLOW[1].replace("garch, n_paths: 8", "garch, n_paths: 50"))  # large enough to leave memory
    whole = btcbt.run(write(many, root="whole"))
    with processes(tmp_path, dict([Dask.spilling])) as started:
        cluster = Dask(started, None, tmp_path)
        cluster.start()
        file = with_executor(write, f"dask, address: '{cluster.address}'", many, "cluster")
        run = start_run(started, file)
        spilled = False
        while run.poll() is None:
            spilled = spilled or cluster.spilled()
            time.sleep(0.005)
        how = ended(started, run, file, whole, None)
        assert spilled, "nothing was spilled"
        print(f"\ndask: results spilled to disk: {how}; results identical")
