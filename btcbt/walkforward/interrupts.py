"""Ctrl-C during a run: the first stops it after the current shard, which is stored; the second immediately."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from btcbt.progress import Progress


class Interrupted(KeyboardInterrupt):
    """The run was interrupted; finished shards are stored."""


@contextmanager
def stop_between_shards(progress: Progress) -> Iterator[Callable[[], None]]:
    """Make the first Ctrl-C stop after the current shard; a second one stops immediately."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        asked.set()
        progress.note("stopping after the current shard; press Ctrl-C again to stop immediately")

    def stop() -> None:
        if asked.is_set():
            raise Interrupted

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    except Exception:
        if asked.is_set():  # a worker process may have been stopped by the same Ctrl-C
            raise Interrupted from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
