"""Gaps and resampling of candle histories. Nothing here fills or invents a candle."""

from __future__ import annotations

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
