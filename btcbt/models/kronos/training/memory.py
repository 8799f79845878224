"""Keeps freed memory in the process, since training frees and allocates the same large blocks at every step.

By default glibc returns each block to the kernel, which then faults its pages in again. On Linux it can keep
them, at the cost of resident memory (the peak of a step stays allocated); no number changes.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in this process; return whether its C library can."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library than glibc
        return False
    # All three: blocks from the heap and not from mmap, the heap's end never given back, and grown by 64 MiB.
    return all(mallopt(option, value) == 1 for option, value in (
        (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, 1 << 26),
    ))  # fmt: skip
