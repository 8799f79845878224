"""Sampled candles: complete sampled returns or closes with the shapes and volumes of past candles.

The result is always a valid candle: finite, positive prices, high the highest and low the lowest of the four, volume
and amount not negative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from btcbt.records import (
    AMOUNT,
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    VOLUME,
    Float32Array,
    FloatArray,
    IntArray,
)

SMALLEST, LARGEST = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
"""Bounds of the normal range of float32."""


def pick(u: FloatArray, n: int) -> IntArray:
    """Draw from 0 .. n - 1 with equal probability, by the uniforms `u` (B, ...).

    Returns
    -------
    int64, of the shape of `u`
        Rows of a (B * n, ...) table, so that the b-th part of it draws from the b-th n rows alone.
    """
    first = n * np.arange(len(u), dtype=np.int64).reshape(-1, *(1,) * (u.ndim - 1))
    return (u * n).astype(np.int64) + first  # u <= 1 - 2**-53 keeps the rounded product below n


def candles_from_returns(history: FloatArray, returns: FloatArray, scale: FloatArray, u: FloatArray) -> Float32Array:
    """Candles for paths of closes, with shapes and volumes of past candles.

    For each step one past candle of the window is drawn. Its gap (open over the previous close), its wicks
    (high over the body, low under it), in logs and times `scale`, shape the new candle around its return;
    its volume and amount are used unchanged.

    Parameters
    ----------
    history : float64 (B, T, 6)
        The windows.
    returns : float64 (B, S, H)
        Log returns from close to close.
    scale : float64, broadcast to (B, S, H)
        Volatility of the step over that of the window.
    u : float64 (B, S, H)
        Uniforms that draw the candles.

    Returns
    -------
    float32 (B, S, H, 6)
        Paths.
    """
    logs = np.log(history[:, :, :VOLUME])
    body = logs[:, 1:, [OPEN, CLOSE]]
    shape = np.stack(
        (
            logs[:, 1:, OPEN] - logs[:, :-1, CLOSE],
            logs[:, 1:, HIGH] - body.max(axis=2),
            body.min(axis=2) - logs[:, 1:, LOW],
        ),
        axis=-1,
    ).reshape(-1, 3)
    rows = pick(u, history.shape[1] - 1)
    gap, above, below = np.moveaxis(shape[rows], -1, 0)
    close = np.cumsum(returns, axis=2)
    prices = np.empty((*close.shape, 4), dtype=np.float64)
    prices[..., CLOSE] = close
    prices[..., OPEN] = close - returns + scale * gap
    prices[..., HIGH] = np.maximum(prices[..., OPEN], close) + scale * above
    prices[..., LOW] = np.minimum(prices[..., OPEN], close) - scale * below
    return to_paths(history, prices, rows)


def candles_from_closes(history: FloatArray, closes: ArrayLike, u: FloatArray) -> Float32Array:
    """Candles for sampled closes (B, S, H), see `candles_from_returns`; closes that are not positive become NaN."""
    last = history[:, -1, CLOSE].reshape(-1, 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(np.asarray(closes, dtype=np.float64) / last)
        if logs.shape != u.shape:
            raise ValueError(f"closes {logs.shape}; expected {u.shape}, that is (B, S, H)")
        steps = np.diff(logs, axis=2, prepend=0.0)
        return candles_from_returns(history, steps, np.ones((1, 1, 1)), u)


def to_paths(history: FloatArray, log_prices: FloatArray, rows: IntArray) -> Float32Array:
    """Paths from log prices relative to the last close, and the candles that provide volume and amount.

    Parameters
    ----------
    history : float64 (B, T, 6)
        The windows.
    log_prices : float64 (B, S, H, 4)
        Open, high, low and close.
    rows : int64 (B, S, H)
        Rows of ``history[:, 1:]`` seen as one table, as from `pick`.

    Returns
    -------
    float32 (B, S, H, 6)
        Prices within the normal range of float32, whatever was sampled.
    """
    paths = np.empty((*log_prices.shape[:3], 6), dtype=np.float32)
    with np.errstate(over="ignore", under="ignore"):
        prices = history[:, -1, CLOSE].reshape(-1, 1, 1, 1) * np.exp(log_prices)
    paths[..., :VOLUME] = np.clip(prices, SMALLEST, LARGEST)
    # Exponentials are rounded separately, so the order of nearly equal prices is enforced.
    opening, close = paths[..., OPEN], paths[..., CLOSE]
    paths[..., HIGH] = np.maximum(paths[..., HIGH], np.maximum(opening, close))
    paths[..., LOW] = np.minimum(paths[..., LOW], np.minimum(opening, close))
    traded = np.clip(history[:, 1:, [VOLUME, AMOUNT]], 0.0, LARGEST).astype(np.float32)
    paths[..., VOLUME:] = traded.reshape(-1, 2)[rows]
    return paths
