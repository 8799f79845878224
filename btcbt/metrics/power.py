"""Break-even cost, and the record length needed for significance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from btcbt.metrics.inference import long_run_variance
from btcbt.records import IN_BPS

_NAN = float("nan")


def break_even_cost_bps(gross_returns: ArrayLike, turnover: ArrayLike) -> float:
    """Cost per value traded, in bps, at which the total return would be zero.

    Solves ``sum log(1 + g - c turnover) = 0`` for the cost c of each unit traded, with decisions fixed.
    Negative if the strategy loses before costs.

    Parameters
    ----------
    gross_returns : float (n,)
        Simple, per candle, before fees and slippage; no NaN.
    turnover : float (n,)
        Value traded in the candle as a share of the equity before it, at least 0.

    Returns
    -------
    float
        NaN if nothing is traded, or if all equity is lost before costs.
    """
    g, traded = np.asarray(gross_returns, dtype=np.float64), np.asarray(turnover, dtype=np.float64)
    if g.shape != traded.shape or g.ndim != 1:
        raise ValueError(f"gross returns {g.shape} and turnover {traded.shape} are not two series of one length")
    used = traded > 0.0
    if not used.any() or np.any(g <= -1.0):
        return _NAN
    rest = float(np.log1p(g[~used]).sum())
    g, traded = g[used], traded[used]

    def final(cost: float) -> float:
        return rest + float(np.log1p(g - cost * traded).sum())

    # At this cost some trade would lose all equity, and the logarithm goes to minus infinity.
    ruin = float(((1.0 + g) / traded).min())
    low, high = 0.0, ruin * (1.0 - 1e-12)
    if final(low) < 0.0:
        low = -1e-4
        while final(low) < 0.0:
            low *= 2.0
    if final(high) > 0.0:
        return IN_BPS * high
    return IN_BPS * float(optimize.brentq(final, low, high, xtol=1e-14, rtol=1e-12))


def candles_to_significance(returns: ArrayLike, overlap: int = 1, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Further candles needed until the measured mean return is significantly above zero.

    The length at which a one-sided test of size `alpha` finds a mean as large as the one measured with
    probability `power`, ``n = (z_alpha + z_power)^2 omega^2 / mean^2``, less the candles of the record; omega^2 is
    the long-run variance, which includes serial dependence. Optimistic, since it takes the measured mean as the
    true one.

    Parameters
    ----------
    returns : float (n,)
        Per candle (or differences from a benchmark's); NaN dropped.
    overlap : int
        Candles over which returns depend on each other by construction; 1 for returns per candle.

    Returns
    -------
    float
        0 if the record is long enough; NaN if the mean is not positive, or the record too short or constant.
    """
    if not 0.0 < alpha < 0.5 or not 0.5 <= power < 1.0:
        raise ValueError(f"alpha {alpha} is not in (0, 0.5), or power {power} not in [0.5, 1)")
    r = np.asarray(returns, dtype=np.float64)
    r = r[np.isfinite(r)]
    variance = long_run_variance(r, overlap)
    mean = float(r.mean()) if len(r) else _NAN
    if not (mean > 0.0 and variance > 0.0):
        return _NAN
    needed = (float(stats.norm.isf(alpha)) + float(stats.norm.ppf(power))) ** 2 * variance / mean**2
    return float(max(0, math.ceil(needed) - len(r)))
