"""Memory between the stages of a run."""

from __future__ import annotations

import ctypes
import sys

import pyarrow as pa


def release_memory() -> None:
    """Return freed memory to the system; otherwise the C library keeps and fragments it over a long run."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    pa.default_memory_pool().release_unused()
