"""The same experiment in a process that has never seen the true future.

State that outlives an object (a module's global, a class attribute, a cache) hides a leak from any comparison
made within one process: what was kept from the true history answers for the changed one. A new process that
meets a changed history first has nothing else to remember.

While parts of the user's run there, files and connections that they open through Python are noted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

from btcbt.audit.trace import Observation

WORLD = "noise"
"""The changed history that the process meets."""
_DATA = frozenset({".parquet", ".csv", ".feather", ".arrow", ".h5", ".hdf5", ".npy", ".npz", ".db", ".sqlite"})
_STAGES = {"prepared": "candles", "_windows": "windows", "_forecast": "forecast", "forecasters": "forecast"}
_STAGES |= {"decide_all": "strategy", "traders": "strategy", "_accounts": "portfolio"}


@dataclass(frozen=True, slots=True)
class Access:
    """Something that a part opened: a file (its full path) or a connection."""

    what: str
    stage: str
    by: str
    connection: bool = False


@dataclass(slots=True)
class Witness:
    """What was opened while it watched. An interpreter's audit hook cannot be removed, only told to rest."""

    seen: set[Access] = field(default_factory=set)
    watching: bool = False

    def install(self) -> None:
        """Start to hear of events; only ever done in a process made for it."""
        sys.addaudithook(self.hear)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note what is opened in this block."""
        self.watching = True
        try:
            yield
        finally:
            self.watching = False

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of an event of the interpreter, if it is one of those and now is the time."""
        if not self.watching or event not in ("open", "socket.connect", "sqlite3.connect"):
            return
        self.watching = False  # the look at it below may open files of its own
        try:
            what = self._name(event, arguments)
            if what:
                self.seen.add(Access(what, *_caller(sys._getframe(1)), event == "socket.connect"))
        finally:
            self.watching = True

    @staticmethod
    def _name(event: str, arguments: tuple[Any, ...]) -> str:
        if event == "socket.connect":
            return f"a connection to {arguments[1]}"
        place = arguments[0]
        if not isinstance(place, str | bytes | os.PathLike):
            return ""
        path = Path(os.fsdecode(place))
        return str(path.resolve()) if path.suffix.lower() in _DATA else ""


def _caller(frame: FrameType | None) -> tuple[str, str]:
    """Stage, and the innermost line that is neither of this package nor of an installed one."""
    stage, by = "", ""
    own = str(Path(__file__).parents[1])
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        outside = not file.startswith((own, "<", sys.base_prefix)) and "site-packages" not in file
        if outside and not by and not stage:
            by = f"{Path(file).name}:{frame.f_lineno}"
        if not stage and file.startswith(own):
            stage = _STAGES.get(name, "")
        frame = frame.f_back
    return stage or "candles", by or "btcbt"


def new_process() -> ProcessPoolExecutor:
    """One worker that shares nothing with this process but the code on disk."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


Answers = tuple[dict[int, list[Observation]], set[Access]]
