"""Volatility and volume by time of day and week, and helpers of fitted forecasters.

The variance of a candle is measured by its range, which is far more precise than its return (`range_variance`). Its
expectation is a slowly moving level times a profile: one factor for each slot of the day, on working days and
on weekends (Andersen and Bollerslev, 1997, "Intraday periodicity and volatility persistence in financial markets").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from btcbt.config import time_text
from btcbt.errors import CandleError
from btcbt.forecasters.candle_paths import LARGEST, SMALLEST
from btcbt.forecasters.fitted import Inputs
from btcbt.records import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME, Candles, Float32Array, FloatArray, IntArray

DAY_MS = 86_400_000
LEVEL = 168
"""Candles over which the level of variance and volume is averaged: a week of hours, with all slots equally often."""
MIN_FIT = 500
"""Fewest usable candles for a fit."""
MAX_MOVE = 1.0
"""Largest absolute move of a step in log price, so that scaled draws stay finite prices."""
MAX_SIGMA = 0.5
"""Largest volatility of a step, in log price."""
_FLOOR = 1e-3
"""Smallest variance of a candle over the level, since the logarithm of zero is undefined."""
_SIMILAR = 0.05
"""Share of the pool from which a candle with a similar move is drawn."""
_PRESENT = 0.9
_DAYS_FROM_MONDAY = 3  # 1970-01-01 was a Thursday


def slots_per_day(interval_ms: int) -> int:
    """Number of slots per day; one for candles of a day and longer."""
    return max(1, DAY_MS // interval_ms)


def weekday_of(time: IntArray) -> IntArray:
    """Day of the week of each time (ms UTC): 0 on Mondays, 5 and 6 at the weekend."""
    return np.asarray((time // DAY_MS + _DAYS_FROM_MONDAY) % 7)


def slot_of(open_time: IntArray, interval_ms: int) -> IntArray:
    """Slot of each candle: its index in the day, plus `slots_per_day` on a Saturday or Sunday (UTC)."""
    count = slots_per_day(interval_ms)
    return np.asarray(open_time % DAY_MS // interval_ms % count + (weekday_of(open_time) >= 5) * count)


def range_variance(values: FloatArray, *, logs: bool = False) -> FloatArray:
    """Variance of the log return of each candle but the first, from its four prices and the previous close.

    Garman and Klass (1980), "On the estimation of security price volatilities from historical data", equation 20
    without its cross terms, ``(log H/L)^2 / 2 - (2 log 2 - 1) (log C/O)^2``, plus the square of the gap to the open.

    Parameters
    ----------
    values : float64 (..., T, 4 or more)
        Open, high, low, close.
    logs : bool
        Whether `values` are logs already.

    Returns
    -------
    float64 (..., T - 1)
        Non-negative.
    """
    prices = values[..., :VOLUME] if logs else np.log(values[..., :VOLUME])
    now, before = prices[..., 1:, :], prices[..., :-1, CLOSE]
    spread = 0.5 * (now[..., HIGH] - now[..., LOW]) ** 2
    body = (2.0 * np.log(2.0) - 1.0) * (now[..., CLOSE] - now[..., OPEN]) ** 2
    return np.asarray(np.maximum(spread - body, 0.0) + (now[..., OPEN] - before) ** 2)


def floored(variance: FloatArray, level: FloatArray) -> FloatArray:
    """Variances, bounded below by a thousandth of the level."""
    return np.maximum(variance, _FLOOR * level)


def on_grid(candles: Candles) -> tuple[IntArray, FloatArray]:
    """The history with a row of NaN for each absent candle: times (N,) and values (N, 6)."""
    step = candles.interval_ms
    rows = (candles.open_time - candles.open_time[0]) // step
    values = np.full((int(rows[-1]) + 1, 6), np.nan)
    values[rows] = candles.values
    return candles.open_time[0] + step * np.arange(len(values), dtype=np.int64), values


def trailing_mean(x: FloatArray, length: int) -> FloatArray:
    """Mean of the `length` entries before each one, (N,); NaN where more than a tenth of them are absent.

    Otherwise one missing hour would make the following week unusable.
    """
    out = np.full(len(x), np.nan)
    if len(x) > length:
        stretches = sliding_window_view(x, length)[:-1]
        present = np.isfinite(stretches)
        count = present.sum(axis=1)
        enough = count >= _PRESENT * length
        sums = np.sum(stretches, axis=1, where=present)
        out[length:][enough] = sums[enough] / count[enough]
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Factors of the slots (see `slot_of`); their mean over a week is one.

    Attributes
    ----------
    variance, volume : float64 (2 * slots_per_day,)
    """

    variance: FloatArray
    volume: FloatArray


def fit_profile(open_time: IntArray, values: FloatArray, interval_ms: int) -> Profile:
    """Mean logarithm of variance and volume over their trailing level, by slot.

    The level averages whole weeks of hours, so every slot has equal weight. A mean of logarithms is robust to the
    few hours of a crash. A slot that never occurs (of candles of a week, say) has factor one.

    Parameters
    ----------
    open_time : int64 (N,)
    values : float64 (N, 6)
        On the grid, NaN where absent, as from `on_grid`.
    interval_ms : int
    """
    variance = np.concatenate(([np.nan], range_variance(values)))
    slots, count = slot_of(open_time, interval_ms), 2 * slots_per_day(interval_ms)
    return Profile(_factors(variance, slots, count), _factors(values[:, VOLUME], slots, count))


def _factors(x: FloatArray, slots: IntArray, count: int) -> FloatArray:
    level = trailing_mean(x, LEVEL)
    good = np.isfinite(x) & (level > 0)
    logs = np.log(floored(x[good], level[good]) / level[good])
    sums = np.bincount(slots[good], weights=logs, minlength=count)
    hits = np.bincount(slots[good], minlength=count)
    factors = np.exp(np.divide(sums, hits, out=np.zeros(count), where=hits > 0))
    days = np.repeat([5.0, 2.0], count // 2)
    return np.asarray(factors / np.average(factors, weights=days))


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Past candles standardised by expected volatility and volume, from which a bootstrap draws.

    Attributes
    ----------
    logs : float64 (K, 4)
        Log of open, high, low and close over the close before, divided by the expected volatility.
    volume : float64 (K,)
        Volume over the expected volume.
    price : float64 (K,)
        Log of the mean price paid (amount over volume) over the close; 0 without volume.
    """

    logs: FloatArray
    volume: FloatArray
    price: FloatArray

    def __len__(self) -> int:
        return len(self.volume)


def make_pool(values: FloatArray, sigma: FloatArray, volume: FloatArray) -> Pool:
    """Standardise candles by expected volatility and volume.

    Parameters
    ----------
    values : float64 (N, 6)
        On the grid, NaN where absent.
    sigma, volume : float64 (N,)
        Expected volatility and volume of each; NaN or 0 if unknown.
    """
    logs = np.log(values[1:, :VOLUME]) - np.log(values[:-1, CLOSE:VOLUME])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = logs / sigma[1:, None]
        relative = values[1:, VOLUME] / volume[1:]
        paid = np.log(values[1:, AMOUNT] / values[1:, VOLUME] / values[1:, CLOSE])
    rows = np.flatnonzero(np.isfinite(logs).all(axis=1) & np.isfinite(volume[1:]))
    return Pool(logs[rows], np.nan_to_num(relative[rows], posinf=0.0), np.nan_to_num(paid[rows], neginf=0.0))


def deseasonalised(
    values: FloatArray, open_time: IntArray, interval_ms: int, profile: Profile
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Variances of windows over their profile, (B, T - 1), and which windows have constant prices, (B,).

    The variances of windows with constant prices are set to one, since the logarithm of zero is undefined.
    """
    variance = range_variance(values) / profile.variance[slot_of(open_time[:, 1:], interval_ms)]
    still = np.all(variance[:, -LEVEL:] == 0.0, axis=1)
    variance[still] = 1.0
    return variance, still


def fitted_volume(open_time: IntArray, values: FloatArray, candles: Candles, profile: Profile) -> FloatArray:
    """Volume expected from slot and trailing level for each candle on the grid, (N,); NaN where unknown."""
    factor = profile.volume[slot_of(open_time, candles.interval_ms)]
    return trailing_mean(values[:, VOLUME] / factor, LEVEL) * factor


def expected_volume(inputs: Inputs, future: IntArray, profile: Profile) -> FloatArray:
    """Volume expected for the steps of a forecast, (B, H), with slots `future` (B, H)."""
    factor = profile.volume[slot_of(inputs.open_time[:, -LEVEL:], inputs.interval_ms)]
    level = (inputs.values[:, -LEVEL:, VOLUME] / factor).mean(axis=1)
    return np.asarray(level[:, None] * profile.volume[future])


def candles_from_steps(
    inputs: Inputs, steps: FloatArray, sigma: FloatArray, u: FloatArray, pool: Pool, profile: Profile
) -> Float32Array:
    """Turn paths of closes into candles, with shapes and volumes of past candles with similar moves.

    For each step one candle of the pool is drawn among those (`_SIMILAR` of all) whose moves in units of volatility
    rank next to the step's. Its gap and its wicks, times the step's volatility, shape the new candle around its
    return; its relative volume, times the expected volume of the step, is the new volume.

    Parameters
    ----------
    inputs : Inputs
        B windows.
    steps, sigma : float64 (B, S, H)
        Log returns from close to close, and the volatility expected of each.
    u : float64 (B, S, H)
        Uniforms that draw the candles.
    pool : Pool
    profile : Profile

    Returns
    -------
    float32 (B, S, H, 6)
        Paths.
    """
    order = np.argsort(pool.logs[:, CLOSE], kind="stable")
    relative = np.divide(steps, sigma, out=np.zeros_like(steps), where=sigma > 0)
    rank = np.searchsorted(pool.logs[order, CLOSE], relative)
    rows = order[np.clip(rank + ((u - 0.5) * _SIMILAR * len(pool)).astype(np.int64), 0, len(pool) - 1)]
    body = pool.logs[:, [OPEN, CLOSE]]
    shape = np.stack((pool.logs[:, OPEN], pool.logs[:, HIGH] - body.max(axis=1), body.min(axis=1) - pool.logs[:, LOW]))
    gap, above, below = np.clip(sigma * shape[:, rows], -MAX_MOVE, MAX_MOVE)
    close = np.cumsum(steps, axis=2)
    prices = np.empty((*steps.shape, 4), dtype=np.float64)
    prices[..., CLOSE] = close
    prices[..., OPEN] = close - steps + gap
    prices[..., HIGH] = np.maximum(prices[..., OPEN], close) + above
    prices[..., LOW] = np.minimum(prices[..., OPEN], close) - below
    future = slot_of(inputs.future_open_time(steps.shape[2]), inputs.interval_ms)
    return assemble(inputs.values[:, -1, CLOSE], prices, rows, pool, expected_volume(inputs, future, profile))


def assemble(
    last_close: FloatArray, log_prices: FloatArray, rows: IntArray, pool: Pool, volume: FloatArray
) -> Float32Array:
    """Paths from log prices, and volumes of the candles drawn.

    Parameters
    ----------
    last_close : float64 (B,)
    log_prices : float64 (B, S, H, 4)
        Open, high, low, close over the last close. Overwritten.
    rows : int64 (B, S, H)
        Candles of the pool that provide volume and amount.
    pool : Pool
    volume : float64 (B, H)
        Expected volume of each step.

    Returns
    -------
    float32 (B, S, H, 6)
        Candles: high the highest, low the lowest, all within the normal range of float32.
    """
    paths = np.empty((*log_prices.shape[:3], 6), dtype=np.float32)
    with np.errstate(over="ignore", under="ignore"):
        prices = np.exp(log_prices, out=log_prices)
        prices *= last_close[:, None, None, None]
        traded = pool.volume[rows] * volume[:, None, :]
        amount = traded * prices[..., CLOSE] * np.exp(pool.price[rows])
    paths[..., :VOLUME] = np.clip(prices, SMALLEST, LARGEST)
    opening, close = paths[..., OPEN], paths[..., CLOSE]
    paths[..., HIGH] = np.maximum(paths[..., HIGH], np.maximum(opening, close))
    paths[..., LOW] = np.minimum(paths[..., LOW], np.minimum(opening, close))
    paths[..., VOLUME] = np.clip(traded, 0.0, LARGEST)
    paths[..., AMOUNT] = np.clip(amount, 0.0, LARGEST)
    return paths


def require_enough(usable: int, candles: Candles, what: str) -> None:
    """Check that there are enough candles for a fit.

    Raises
    ------
    CandleError
        If fewer than `MIN_FIT` candles are usable.
    """
    if usable >= MIN_FIT:
        return
    ends = [time_text(int(time)) for time in candles.open_time[[0, -1]]] if len(candles) else ["(none)"]
    raise CandleError(
        f"candles {candles.source}: {what} finds {usable} usable candles in {' .. '.join(ends)}, expected {MIN_FIT} or "
        f"more (usable: prices move, and most of the {LEVEL} candles before exist); lengthen fit.window or move "
        "windows.start"
    )
