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
from btcbt.walkforward.stages import running_stage

WORLD = "noise"
"""The changed history that the process meets."""
_DATA = frozenset({".parquet", ".csv", ".feather", ".arrow", ".h5", ".hdf5", ".npy", ".npz", ".db", ".sqlite"})


@dataclass(frozen=True, slots=True)
class Access:
    """Something that a part opened: a file (its full path) or a connection."""

    what: str
    stage: str
    by: str
    connection: bool = False


@dataclass(slots=True)
class AccessRecorder:
    """What is opened while it records. An interpreter's audit hook cannot be removed, only switched off."""

    seen: set[Access] = field(default_factory=set)
    active: bool = False

    def install(self) -> None:
        """Start to hear of events; only ever done in a process made for it."""
        sys.addaudithook(self.hear)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is opened in this block."""
        self.active = True
        try:
            yield
        finally:
            self.active = False

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record an event of the interpreter if it opens a data file or a connection."""
        if not self.active or event not in ("open", "socket.connect", "sqlite3.connect"):
            return
        self.active = False  # looking at it may open files, too
        try:
            what = self._name(event, arguments)
            if what:
                by = _caller(sys._getframe(1))
                self.seen.add(Access(what, running_stage(), by, event == "socket.connect"))
        finally:
            self.active = True

    @staticmethod
    def _name(event: str, arguments: tuple[Any, ...]) -> str:
        if event == "socket.connect":
            return f"a connection to {arguments[1]}"
        place = arguments[0]
        if not isinstance(place, str | bytes | os.PathLike):
            return ""
        path = Path(os.fsdecode(place))
        return str(path.resolve()) if path.suffix.lower() in _DATA else ""


def _caller(frame: FrameType | None) -> str:
    """The innermost line that is neither of this package nor of an installed one, up to where the audit called it."""
    audit = str(Path(__file__).parent)
    ours = (str(Path(__file__).parents[1]), "<", sys.base_prefix)
    while frame is not None and not frame.f_code.co_filename.startswith(audit):
        file = frame.f_code.co_filename
        if not file.startswith(ours) and "site-packages" not in file:
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "btcbt"


def new_process() -> ProcessPoolExecutor:
    """One worker that shares nothing with this process but the code on disk."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


Answers = tuple[dict[int, list[Observation]], set[Access]]
