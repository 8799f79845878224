"""What the baseline forecasters share: the frame around a sampler, and the making of candles from returns.

A baseline works on log prices in float64 and hands over float32. Whatever it samples is a candle: finite,
positive prices, high the highest and low the lowest of the four, volume and amount not negative.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from scipy.special import ndtri

from btcbt.forecasters.base import Forecaster
from btcbt.randomness import uniforms
from btcbt.records import (
    AMOUNT,
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    VOLUME,
    Float32Array,
    FloatArray,
    ForecastBatch,
    IntArray,
    Window,
)

_PATH_STEPS_PER_BATCH = 64 * 30 * 24  # keeps the temporaries near the processor, at some MB
_SMALLEST, _LARGEST = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
_SMALLEST_UNIFORM = 2.0**-54  # half of the smallest positive one


class Baseline(Forecaster):
    """A forecaster that samples candles from each window alone; nothing is fitted outside of it.

    Parameters
    ----------
    context, horizon, n_paths, seed : int
        As in `Forecaster`.
    batch_size : int, optional
        Origins to hand over in one call; chosen from the size of the paths if left out.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised whenever the same window and seed give other numbers than before."""

    def __init__(self, *, context: int, horizon: int, n_paths: int, seed: int, batch_size: int | None = None) -> None:
        super().__init__(context=context, horizon=horizon, n_paths=n_paths, seed=seed)
        self._batch_size = batch_size or max(1, min(64, _PATH_STEPS_PER_BATCH // (n_paths * horizon)))

    @property
    def batch_size(self) -> int:
        """How many origins to hand over in one call; speed and memory alone depend on it."""
        return self._batch_size

    def identity(self) -> Mapping[str, object]:
        """Kind, numerical version, seed, shape of the paths and parameters."""
        return {
            "kind": self.kind,
            "version": self.version,
            "context": self.context,
            "horizon": self.horizon,
            "n_paths": self.n_paths,
            "seed": self.seed,
            **self._parameters(),
        }

    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        """Sample the H candles after each window.

        Parameters
        ----------
        windows : sequence of Window
            B windows of T candles each.

        Returns
        -------
        ForecastBatch
            ``paths`` float32 (B, S, H, 6).

        Raises
        ------
        ValueError
            If a window does not have `context` candles.
        """
        history = np.empty((len(windows), self.context, 6), dtype=np.float64)
        for row, window in zip(history, windows, strict=True):
            if window.values.shape != row.shape:
                raise ValueError(f"a window has values {window.values.shape}; expected {row.shape}")
            row[:] = window.values
        origins = np.array([window.origin for window in windows], dtype=np.int64)
        numbers = uniforms(self.seed, origins, self.n_paths, self.horizon)
        paths, notes = self._sample(history, numbers)
        return ForecastBatch(origins, paths, {"forecaster": self.kind, **notes})

    @abstractmethod
    def _sample(self, history: FloatArray, numbers: FloatArray) -> tuple[Float32Array, dict[str, str]]:
        """Paths (B, S, H, 6) from windows (B, T, 6) and uniforms (B, S, H, 2), and what to note of them."""

    def _parameters(self) -> Mapping[str, object]:
        return {}


def log_returns(history: FloatArray) -> FloatArray:
    """Log returns from close to close, (B, T - 1), of windows (B, T, 6)."""
    return np.diff(np.log(history[:, :, CLOSE]), axis=1)


def normal_quantile(u: FloatArray) -> FloatArray:
    """Quantiles of the standard normal distribution; finite for every u in [0, 1)."""
    return np.asarray(ndtri(np.maximum(u, _SMALLEST_UNIFORM)), dtype=np.float64)


def pick(u: FloatArray, n: int) -> IntArray:
    """Draw from 0 .. n - 1 with equal chances, by the uniforms `u` (B, ...).

    Returns
    -------
    int64, of the shape of `u`
        Rows of a (B * n, ...) table, so that the b-th part of it draws from the b-th n rows alone.
    """
    first = n * np.arange(len(u), dtype=np.int64).reshape(-1, *(1,) * (u.ndim - 1))
    return (u * n).astype(np.int64) + first  # u <= 1 - 2**-53 keeps the rounded product below n


def candles_from_returns(history: FloatArray, returns: FloatArray, scale: FloatArray, u: FloatArray) -> Float32Array:
    """Dress paths of closes as candles, with shapes and volumes of past candles.

    For each step one past candle of the window is drawn. Its gap (open over the previous close), its wicks
    (high over the body, low under it), in logs and times `scale`, shape the new candle around the move that
    it is given; its volume and amount are taken as they are.

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


def to_paths(history: FloatArray, log_prices: FloatArray, rows: IntArray) -> Float32Array:
    """Paths from log prices relative to the last close, and the candles that lend volume and amount.

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
    paths[..., :VOLUME] = np.clip(prices, _SMALLEST, _LARGEST)
    # An exponential is rounded number by number, so the order of nearly equal prices is made sure of.
    opening, close = paths[..., OPEN], paths[..., CLOSE]
    paths[..., HIGH] = np.maximum(paths[..., HIGH], np.maximum(opening, close))
    paths[..., LOW] = np.minimum(paths[..., LOW], np.minimum(opening, close))
    traded = np.clip(history[:, 1:, [VOLUME, AMOUNT]], 0.0, _LARGEST).astype(np.float32)
    paths[..., VOLUME:] = traded.reshape(-1, 2)[rows]
    return paths
