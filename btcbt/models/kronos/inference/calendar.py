"""Calendar features of candles: minute, hour, weekday (Monday 0), day and month of the open time, UTC."""

from __future__ import annotations

import numpy as np

from btcbt.records import IntArray

_MINUTE, _HOUR, _DAY = 60_000, 3_600_000, 86_400_000


def stamps(open_time: IntArray) -> IntArray:
    """Map times (...) in ms since the epoch to stamps (..., 5)."""
    time = np.asarray(open_time, dtype=np.int64)
    days = time // _DAY
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    return np.stack(
        (
            time // _MINUTE % 60,
            time // _HOUR % 24,
            (days + 3) % 7,  # the epoch was a Thursday
            (dates - months).astype(np.int64) + 1,
            months.astype(np.int64) % 12 + 1,
        ),
        axis=-1,
    )
