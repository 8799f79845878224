"""The mean of a series over a moving window, with its interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from btcbt.metrics.inference import MIN_OVERLAPS, mean_test
from btcbt.records import FloatArray, IntArray


class MovingMean(NamedTuple):
    """Outcome of `moving_mean`.

    Attributes
    ----------
    last : int64 (p,)
        Row of the series at which each window ends.
    mean, low, high : float64 (p,)
        Mean over the window and the ends of its pointwise interval; NaN ends where nothing varies.
    window : int
        Observations in a window.
    """

    last: IntArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    window: int


def moving_mean(
    x: ArrayLike, overlap: int, *, share: float = 0.3, points: int = 150, level: float = 0.95
) -> MovingMean:
    """Mean of a serially correlated series over a moving window.

    Each window has the interval of `inference.mean_test`, which allows for overlap: it holds at one time, not at all
    times together, as neighbouring windows share observations. NaN: dropped, the rest close ranks.

    Parameters
    ----------
    x : float (n,)
        In time order.
    overlap : int
        Origins whose outcomes overlap, itself included.
    share : float
        Window as a share of the record, in (0, 1]; never less than `inference.MIN_OVERLAPS` overlaps.
    points : int
        Most windows, evenly spread, the first and the last among them.
    level : float
        Of the interval.

    Returns
    -------
    MovingMean
        Empty for a record shorter than one window.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share {share} is not in (0, 1]")
    x = np.asarray(x, dtype=np.float64)
    rows = np.flatnonzero(np.isfinite(x))
    window = max(round(share * len(rows)), MIN_OVERLAPS * overlap)
    count = len(rows) - window + 1
    if count < 1:
        return MovingMean(*(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0)), window)
    starts = np.unique(np.linspace(0, count - 1, min(count, points)).round().astype(np.int64))
    tests = [mean_test(x[rows[start : start + window]], overlap) for start in starts]
    low, high = np.array([one.interval(level) for one in tests]).T
    return MovingMean(rows[starts + window - 1], np.array([one.mean for one in tests]), low, high, window)
