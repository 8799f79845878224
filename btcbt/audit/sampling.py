"""Which origins to audit: a random sample, and edges where mistakes are likely."""

from __future__ import annotations

import numpy as np

from btcbt.audit.changes import known_at
from btcbt.records import Candles, IntArray
from btcbt.windows import Windows


def draw_origins(windows: Windows, raw: Candles, *, sample: int, shard: int, seed: int) -> IntArray:
    """Draw the origins to audit.

    Parameters
    ----------
    windows : Windows
        All origins of the experiment.
    raw : Candles
        The history before preparation; its gaps are edges too.
    sample : int
        Number of origins; at most a third are edges, the others random.
    shard : int
        Origins computed as one block; its ends are edges.
    seed : int
        Keys the draw.

    Returns
    -------
    int64 (n,)
        Increasing. Only origins followed by at least one candle: after the others there is no future to change.
    """
    usable = windows.origins[windows.origins < known_at(raw)[-1]]
    rng = np.random.Generator(np.random.Philox(key=[seed, len(usable)]))
    edges = np.intersect1d(edge_origins(windows, raw, shard), usable)
    ends = np.intersect1d(usable[[0, -1]] if len(usable) else usable, usable)
    others = np.setdiff1d(edges, ends)
    some = rng.choice(others, min(len(others), max(sample // 3 - len(ends), 0)), replace=False)
    chosen = np.union1d(ends, some)
    rest = np.setdiff1d(usable, chosen)
    drawn = rng.choice(rest, min(len(rest), max(sample - len(chosen), 0)), replace=False)
    return np.union1d(chosen, drawn)


def edge_origins(windows: Windows, raw: Candles, shard: int) -> IntArray:
    """Origins at the ends of the range, of blocks without a gap and of shards, and in and beside gaps."""
    origins = windows.origins
    stride = int(np.diff(origins).min()) if len(origins) > 1 else windows.candles.interval_ms
    breaks = np.flatnonzero(np.diff(origins) > stride)
    rows = np.concatenate([[0, len(origins) - 1], breaks, breaks + 1, np.arange(shard, len(origins), shard)])
    gaps = np.flatnonzero(np.diff(raw.open_time) > raw.interval_ms)
    after = raw.open_time[gaps] + raw.interval_ms  # the close of the last candle before each gap
    until = raw.open_time[gaps + 1] + raw.interval_ms
    first, last = np.searchsorted(origins, after), np.searchsorted(origins, until, side="right")
    beside = [np.arange(a, min(b, a + 4)) for a, b in zip(first, last, strict=True)]
    return np.unique(origins[np.concatenate([rows, *beside]).astype(np.int64)])
