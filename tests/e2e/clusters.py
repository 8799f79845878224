"""Dask and Ray clusters as processes of their own, on this host or on two hosts made of network namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SECONDS = 90.0
"""A cluster has started within this time."""
FIRST, SECOND = "10.77.31.1", "10.77.31.2"
QUICK = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "40s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "6s",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "20",
    "RAY_AUTH_MODE": "disabled",
    "RAY_enable_metrics_collection": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What the engines wait for minutes by default, so that a proof does not."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Processes:
    """Processes that end with the block, each in a session of its own, with all that they started."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder, self._started = folder, list[subprocess.Popen[bytes]]()
        self.places: list[Path] = []  # removed in the end
        self._environment = {**os.environ, **QUICK, **(environment or {})}

    def start(self, *command: str, host: str | None = None) -> subprocess.Popen[bytes]:
        """Start Python with these arguments, on another host if one is named."""
        before = ["ip", "netns", "exec", host] if host else []
        with (self._folder / f"process-{len(self._started)}.txt").open("wb") as log:
            one = subprocess.Popen(
                [*before, sys.executable, *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environment,
                cwd=self._folder,
            )
        self._started.append(one)
        return one

    def end(self) -> None:
        for one in reversed(self._started):
            kill_tree(one)
        for place in self.places:
            shutil.rmtree(place, ignore_errors=True)


def kill_tree(process: subprocess.Popen[bytes], name: str = "") -> int:
    """Kill a process and its children, or those whose command names something; how many."""
    import psutil

    try:
        top = psutil.Process(process.pid)
        found = [one for one in (*top.children(recursive=True), top) if name in " ".join(one.cmdline())]
    except psutil.NoSuchProcess:
        return 0
    for one in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    if not name:
        process.wait()
    return len(found)


@contextlib.contextmanager
def processes(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Processes]:
    started = Processes(folder, environment)
    try:
        yield started
    finally:
        started.end()


def wait_for(what: str, ready: object, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < end, f"{what} did not come in {seconds:g} s"
        time.sleep(0.05)


class TwoHosts:
    """Two network namespaces with a cable between them."""

    first, second = f"btcbt-a-{os.getpid()}", f"btcbt-b-{os.getpid()}"

    def cut(self) -> None:
        """Take the cable out."""
        ip("-n", self.first, "link", "set", "cable", "down")

    def heal(self) -> None:
        """Put it in again."""
        ip("-n", self.first, "link", "set", "cable", "up")


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())


@contextlib.contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Make them, or skip the test with the reason."""
    if shutil.which("ip") is None:
        pytest.skip("no command ip: network namespaces cannot be made")
    hosts = TwoHosts()
    try:
        for name in (hosts.first, hosts.second):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", hosts.first, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", hosts.second)
        for name, address in ((hosts.first, FIRST), (hosts.second, SECOND)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
    except OSError as error:
        remove(hosts)
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        yield hosts
    finally:
        remove(hosts)


def remove(hosts: TwoHosts) -> None:
    for name in (hosts.first, hosts.second):
        with contextlib.suppress(OSError):
            ip("netns", "delete", name)
