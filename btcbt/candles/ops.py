"""Gaps and resampling of candle histories. Candles that fill a gap are marked as such."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from btcbt.candles.schema import candle_error, make_candles, name_interval, parse_interval
from btcbt.records import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME, Candles, IntArray


def find_gaps(candles: Candles) -> IntArray:
    """Find missing candles.

    Returns
    -------
    int64 (G, 2)
        For each gap the open time of its first missing candle (ms UTC) and the number of missing candles.
    """
    jumps = np.diff(candles.open_time)
    before = np.flatnonzero(jumps > candles.interval_ms)
    starts = candles.open_time[before] + candles.interval_ms
    return np.stack([starts, jumps[before] // candles.interval_ms - 1], axis=1)


def fill_gaps(candles: Candles, longest: int) -> Candles:
    """Fill short gaps with flat candles: all four prices are the last close, volume and amount are 0.

    A filled candle depends on the candles before it. That it is filled depends on the length of the gap, which is
    known once the candle after it is; before that, nothing may use it (`btcbt.windows` has no origin on it).

    Parameters
    ----------
    candles : Candles
        The history.
    longest : int
        Gaps of at most this many missing candles are filled; longer ones stay as they are, in whole.

    Returns
    -------
    Candles
        Read-only, with the new rows marked in `filled`; the same object if there is nothing to fill.
    """
    gaps = find_gaps(candles)
    gaps = gaps[gaps[:, 1] <= longest]
    if not len(gaps):
        return candles
    starts, counts = gaps[:, 0], gaps[:, 1]
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    at = np.repeat(np.searchsorted(candles.open_time, starts), counts)  # the row after each gap
    flat = np.zeros((len(at), candles.values.shape[1]))
    flat[:, [OPEN, HIGH, LOW, CLOSE]] = candles.values[at - 1, CLOSE, None]
    already = np.zeros(len(candles), dtype=np.bool_) if candles.filled is None else candles.filled
    open_time = np.insert(candles.open_time, at, np.repeat(starts, counts) + candles.interval_ms * steps)
    values, filled = np.insert(candles.values, at, flat, axis=0), np.insert(already, at, np.True_)
    for array in (open_time, values, filled):
        array.setflags(write=False)
    return replace(candles, open_time=open_time, values=values, filled=filled)


def resample(candles: Candles, interval: str) -> Candles:
    """Merge candles into longer ones, on the UTC grid of `interval`, labelled by open time.

    A longer candle exists only where all of its parts do; one missing part makes a gap, because the high, low and
    volume of an incomplete candle are wrong.

    Parameters
    ----------
    candles : Candles
        The history.
    interval : str
        A multiple of the history's interval, such as ``4h``.

    Returns
    -------
    Candles
        `sha256` is the digest of the new arrays; `volume` and `amount` are sums.

    Raises
    ------
    CandleError
        If `interval` is not a multiple, or no longer candle is complete.
    """
    step = parse_interval(interval)
    have = name_interval(candles.interval_ms)
    if step % candles.interval_ms or step < candles.interval_ms:
        raise candle_error(
            candles.source, f"{have} candles cannot be merged into {interval}; give a multiple of {have}"
        )
    if step == candles.interval_ms:
        return candles
    parts = step // candles.interval_ms
    buckets, first, counts = np.unique(candles.open_time // step, return_index=True, return_counts=True)
    whole = counts == parts
    if not whole.any():
        raise candle_error(candles.source, f"no {interval} candle has all of its {parts} parts; give a longer history")
    rows = first[whole, None] + np.arange(parts)
    pieces = candles.values[rows]  # (M, parts, C): open times are sorted, so a whole bucket is contiguous
    merged = np.empty((len(rows), pieces.shape[2]))
    merged[:, OPEN] = pieces[:, 0, OPEN]
    merged[:, HIGH] = pieces[:, :, HIGH].max(axis=1)
    merged[:, LOW] = pieces[:, :, LOW].min(axis=1)
    merged[:, CLOSE] = pieces[:, -1, CLOSE]
    merged[:, [VOLUME, AMOUNT]] = pieces[:, :, [VOLUME, AMOUNT]].sum(axis=1)
    return make_candles(buckets[whole] * step, merged, interval=interval, source=f"{candles.source} as {interval}")
