"""The same experiment in a fresh process that has not seen the true future.

State that outlives an object (a global, a class attribute, a cache) hides a leak from comparisons within one
process: values cached on the true history are returned for the changed one. A fresh process that starts with a
changed history has no such cache.

Files and connections that the user's code opens there through Python are recorded.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from btcbt.audit.trace import Observation
from btcbt.files import file_digest
from btcbt.walkforward.stages import running_stage

CHANGE = "noise"
"""The kind of change that the fresh process is run on."""
_CODE = frozenset({".py", ".pyc", ".pyi", ".so", ".pyd", ".dll", ".dylib", ".pth"})
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/")
_KEPT_VARIABLES = (
    *("PATH", "LANG", "LC_", "TZ", "PYTHON", "VIRTUAL_ENV", "LD_", "DYLD_", "SYSTEMROOT", "COVERAGE"),
    *("CUDA", "HF_", "OMP_", "MKL_", "OPENBLAS", "NUMBA_", "KMP_"),
)
_PRIVATE_FOLDERS = (
    *("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "MPLCONFIGDIR"),
    *("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"),
)


@dataclass(frozen=True, slots=True)
class Access:
    """A file or connection that a component opened.

    Attributes
    ----------
    what : str
        The full path of a file, or a connection.
    stage, component : str
        The stage, and the component if known.
    file, line : str, int
        The innermost line of code that belongs neither to this package nor to an installed one.
    connection : bool
    """

    what: str
    stage: str
    component: str
    file: str
    line: int
    connection: bool = False

    @property
    def by(self) -> str:
        """File name and line, for messages."""
        return f"{Path(self.file).name}:{self.line}"


@dataclass(slots=True)
class AccessRecorder:
    """Records what is opened while it is active. An audit hook of the interpreter cannot be removed, only disabled."""

    seen: set[Access] = field(default_factory=set)
    active: bool = False

    def install(self) -> None:
        """Install the audit hook; only in a process started for the audit, since it cannot be removed."""
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
        """Record an audit event of the interpreter if the user's code opens a file or a connection."""
        if not self.active or event not in ("open", "socket.connect", "sqlite3.connect"):
            return
        self.active = False  # handling the event may open files as well
        try:
            what, caller = self._name(event, arguments), _caller(sys._getframe(1))
            if what and caller:
                self.seen.add(Access(what, *running_stage(), *caller, event == "socket.connect"))
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
        resolved = str(path.resolve())
        if path.suffix.lower() == ".parquet":  # candles shipped with the package are data, not code
            return resolved
        code = path.suffix.lower() in _CODE or _ours(resolved) or resolved.startswith(_SYSTEM)
        return "" if code or path.is_dir() else resolved


def _ours(file: str) -> bool:
    """Whether a file belongs to this package, to an installed one, or to Python."""
    return "site-packages" in file or file.startswith((str(Path(__file__).parents[1]), "<", sys.base_prefix))


def _caller(frame: FrameType | None) -> tuple[str, int] | None:
    """The innermost line of the user's code below the audit's own frames; None if there is none."""
    audit = str(Path(__file__).parent)
    while frame is not None and not frame.f_code.co_filename.startswith(audit):
        if not _ours(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def user_modules() -> dict[str, str]:
    """Source files of imported modules that are neither of this package nor installed, with their SHA-256."""
    files = {str(getattr(module, "__file__", None) or "<none>") for module in list(sys.modules.values())}
    return {file: file_digest(Path(file)) for file in sorted(files) if not _ours(file) and Path(file).is_file()}


def new_process(private: Path) -> ProcessPoolExecutor:
    """One worker process that shares only code and data on disk with this one.

    Its home, cache and temporary folders are empty, and environment variables that neither Python nor its numerical
    libraries need are removed, so values that a component saved there are not found.
    """
    hub = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_make_private, initargs=(str(private), hub))


def _make_private(folder: str, hub: str) -> None:
    for name in [name for name in os.environ if not name.startswith(_KEPT_VARIABLES)]:
        del os.environ[name]
    os.environ |= dict.fromkeys(_PRIVATE_FOLDERS, folder) | {"HF_HOME": hub}
    tempfile.tempdir = None


class ProcessResult(NamedTuple):
    """What a fresh process returns: observations by origin, what components opened, and their source files."""

    observed: dict[int, list[Observation]]
    accesses: set[Access]
    files: dict[str, str]
