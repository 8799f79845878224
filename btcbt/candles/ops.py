"""Cutting, gap finding and resampling of candle histories. Nothing here fills or invents a candle."""

from __future__ import annotations

import numpy as np

from btcbt.candles.schema import candle_error, make_candles, name_interval, name_time, parse_interval
from btcbt.records import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME, Candles, IntArray


def slice_candles(candles: Candles, start_ms: int | None = None, end_ms: int | None = None) -> Candles:
    """Candles whose open time lies in [start_ms, end_ms).

    Parameters
    ----------
    candles : Candles
        The history.
    start_ms, end_ms : int or None
        Bounds in ms UTC; None leaves that side open.

    Returns
    -------
    Candles
        Read-only views into `candles`, with its `source` and `sha256`: they are still rows of that file.

    Raises
    ------
    CandleError
        If no candle opens in the range.
    """
    first = 0 if start_ms is None else int(np.searchsorted(candles.open_time, start_ms))
    last = len(candles) if end_ms is None else int(np.searchsorted(candles.open_time, end_ms))
    if last <= first:
        asked = " .. ".join("open" if bound is None else name_time(bound) for bound in (start_ms, end_ms))
        have = f"{name_time(candles.open_time[0])} .. {name_time(candles.open_time[-1])}"
        raise candle_error(
            candles.source, f"no candle opens in {asked}, expected some of {have}; choose a range inside it"
        )
    return Candles(
        candles.open_time[first:last],
        candles.values[first:last],
        candles.interval_ms,
        candles.source,
        candles.sha256,
    )


def find_gaps(candles: Candles) -> IntArray:
    """Where candles are missing.

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

    A longer candle exists only where every part of it does; one missing part makes the whole a gap, because a
    high, a low or a volume of an incomplete candle is not what it says.

    Parameters
    ----------
    candles : Candles
        The history.
    interval : str
        A multiple of its interval, such as ``4h``.

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
