"""A command in a process that is killed before a chosen call of the file system, or whenever its parent says.

Processes are forked by a server that has imported the package once (`multiprocessing`'s forkserver), so that a kill
costs what the command costs, not the seconds of the imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CALLS = frozenset(f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "link", "symlink", "truncate"))
"""What changes a folder, as Python announces it to audit hooks; `open` for writing is counted as well."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["btcbt.cli.main", "btcbt.walkforward.runner", "btcbt.report.page", "arch", "vectorbt", "torch"]
)


class Command:
    """A command that is under way in a folder; its output goes to ``FOLDER.txt``.

    Parameters
    ----------
    folder : Path
        Where it runs.
    arguments : list of str
        What follows ``btcbt``.
    at : int, optional
        The call of the file system, counted from 1, before which it is killed.
    environment : mapping, optional
        Further variables.
    """

    def __init__(
        self, folder: Path, arguments: list[str], at: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        self._calls = SERVER.Value("q", 0)
        self.output = folder.with_suffix(".txt")
        given = (str(folder), arguments, at, self._calls, dict(environment or {}))
        self._process: ForkServerProcess = SERVER.Process(target=_run, args=given)
        self._process.start()

    @property
    def calls(self) -> int:
        """Calls that changed files so far."""
        return int(self._calls.value)

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, negative for a signal; None if it is still running after so many seconds."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> bool:
        """Kill it with all of its processes; whether it was still running."""
        if self._process.exitcode is None:
            os.killpg(self._process.pid or 0, signal.SIGKILL)
            self._process.join()
        return self._process.exitcode == -signal.SIGKILL


def _run(folder: str, arguments: list[str], at: int, calls: Any, environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    output = os.open(f"{folder}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    os.chdir(folder)
    from btcbt.cli.main import app

    def before_each(event: str, given: tuple[Any, ...]) -> None:
        if event in CALLS or (event == "open" and isinstance(given[2], int) and given[2] & WRITES):
            path = given[0]
            if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(folder):
                calls.value += 1
                if calls.value == at:
                    os.killpg(0, signal.SIGKILL)

    sys.addaudithook(before_each)
    app(arguments)
