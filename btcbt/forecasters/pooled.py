"""One history from those of several symbols, for models that are fitted on all symbols of a panel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from btcbt.records import AMOUNT, CLOSE, VOLUME, Candles, FloatArray

WEEK_MS = 7 * 86_400_000


def pooled(own: Candles, others: Sequence[Candles], gap: int) -> Candles:
    """The candles of several symbols as one history in the units of one, so that any model can be fitted on all.

    The log prices of each other symbol are scaled to the volatility of `own`, the root mean square of the log returns
    of the close, and its volume to the same mean. It is moved back by whole weeks, which keep hour and weekday, until
    at least `gap` candles are absent between any two symbols. The candles of `own` come last, as they are.

    Parameters
    ----------
    own : Candles
        The symbol that will be forecast.
    others : sequence of Candles
        The same range of others; those without volatility, or with fewer than two candles, are left out.
    gap : int
        The longest lag of the model, which must not reach from one symbol into another.
    """
    unit = volatility(own)
    if not unit > 0:
        return own
    week = math.lcm(WEEK_MS, own.interval_ms)
    times, values = [own.open_time], [own.values]
    for other in others:
        theirs = volatility(other)
        if not theirs > 0:
            continue
        late = int(other.open_time[-1]) + (gap + 1) * own.interval_ms - int(times[0][0])
        times.insert(0, other.open_time - -(-late // week) * week)
        values.insert(0, _scaled(other.values, unit / theirs, _share(own.values, other.values)))
    return Candles(np.concatenate(times), np.concatenate(values), own.interval_ms, own.source)


def volatility(candles: Candles) -> float:
    """Root mean square of the log returns of the close between adjacent candles; NaN if there are none."""
    returns = np.diff(np.log(candles.values[:, CLOSE]))[np.diff(candles.open_time) == candles.interval_ms]
    return float(np.sqrt(np.mean(returns**2))) if len(returns) else math.nan


def _share(own: FloatArray, other: FloatArray) -> float:
    """The factor that gives `other` the mean volume of `own`; 1 if it has none."""
    mean = float(other[:, VOLUME].mean())
    return float(own[:, VOLUME].mean()) / mean if mean > 0 else 1.0


def _scaled(values: FloatArray, ratio: float, share: float) -> FloatArray:
    """Candles with log prices times `ratio`, from the first close on, and volume times `share`."""
    base = np.log(values[0, CLOSE])
    traded = (values[:, VOLUME] > 0) & (values[:, AMOUNT] > 0)
    paid = np.ones(len(values))
    np.divide(values[:, AMOUNT], values[:, VOLUME], out=paid, where=traded)
    volume = values[:, VOLUME] * share
    amount = np.where(traded, volume * np.exp(ratio * (np.log(paid) - base)), 0.0)
    return np.column_stack([np.exp(ratio * (np.log(values[:, :VOLUME]) - base)), volume, amount])
