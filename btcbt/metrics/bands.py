"""Bands around an equity curve: where the same returns could have led by luck."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from btcbt.metrics.inference import bootstrap_widening
from btcbt.metrics.sharpe import bootstrap_block
from btcbt.records import FloatArray, IntArray

_RUIN = 1e-12 - 1.0  # just above a loss of everything, so that its logarithm is finite


def equity_band(
    returns: ArrayLike, block: int, at: IntArray, *, level: float = 0.95, reps: int = 300, seed: int = 0
) -> FloatArray:
    """Ends of the band that holds `level` of the equity curves made of the same returns in resampled blocks.

    Stationary bootstrap (Politis and Romano, 1994, JASA 89) by `arch` of whole curves, blocks as
    `sharpe.bootstrap_interval`; quantiles of the logarithm at each time, widened about their median for short records
    (`inference.bootstrap_widening`). Pointwise: a curve may leave the band somewhere more often than 5 % of the time.
    Resampling takes the record as stationary.

    Parameters
    ----------
    returns : float (n,)
        Simple, per candle, no NaN.
    block : int
        Shortest mean block, candles: the horizon.
    at : int64 (P,)
        Candles, 0 .. n - 1, after which the band is wanted.
    level, reps, seed
        Share of the curves inside, resampled curves, and start of the random numbers.

    Returns
    -------
    float64 (2, P)
        Low and high growth since the start, 1 for none. NaN where the record is shorter than four blocks or does not
        vary.
    """
    from arch.bootstrap import StationaryBootstrap

    r = np.asarray(returns, dtype=np.float64)
    length = bootstrap_block(r, block)
    if length == 0:
        return np.full((2, len(at)), np.nan)
    growth = np.log1p(np.maximum(r, _RUIN))

    def at_those(sample: FloatArray) -> FloatArray:
        return np.asarray(np.cumsum(sample)[at])

    curves = np.asarray(StationaryBootstrap(length, growth, seed=np.random.default_rng(seed)).apply(at_those, reps))
    tail = (1.0 - level) / 2.0
    low, middle, high = np.quantile(curves, [tail, 0.5, 1.0 - tail], axis=0)
    wider = bootstrap_widening(len(r), length)
    return np.asarray(np.exp(np.stack([middle + wider * (end - middle) for end in (low, high)])))
