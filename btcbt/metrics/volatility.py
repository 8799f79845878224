"""Volatility implied by the paths, and its scores.

The variance over h steps is the sum of the squared log returns of its closes, the first one from the
last known close: realised variance at the interval of the candles. The forecast is the mean over the paths of
each path's own realised variance, which is the point forecast that minimises expected QLIKE.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from btcbt.records import IN_BPS, FloatArray


def realised_variance(close: ArrayLike, last_close: ArrayLike) -> FloatArray:
    """Cumulative realised variance by step.

    Parameters
    ----------
    close : float (..., H)
        Closes after the origin.
    last_close : float (...)
        The last close before them; broadcasts against the leading axes.

    Returns
    -------
    float64 (..., H)
        Sum of squared log returns of steps 1..h. NaN from the first close that is NaN or not positive.
    """
    close = np.asarray(close, dtype=np.float64)
    start = np.broadcast_to(np.asarray(last_close, dtype=np.float64)[..., None], (*close.shape[:-1], 1))
    prices = np.concatenate([start, close], axis=-1)
    logs = np.log(np.where(prices > 0.0, prices, np.nan))
    return np.cumsum(np.diff(logs, axis=-1) ** 2, axis=-1)


def qlike_loss(forecast: ArrayLike, realised: ArrayLike) -> FloatArray:
    """QLIKE of variance forecasts, ``r / f - log(r / f) - 1`` (Patton, 2011, equation 7, normalised to 0).

    At least 0, 0 for a perfect forecast, and robust to noise in the realised variance; too low forecasts cost
    more than too high ones. NaN where either variance is NaN, infinite or not positive.
    """
    forecast, realised = np.asarray(forecast, dtype=np.float64), np.asarray(realised, dtype=np.float64)
    good = (forecast > 0.0) & (realised > 0.0) & np.isfinite(forecast) & np.isfinite(realised)
    ratio = np.where(good, realised, np.nan) / np.where(good, forecast, np.nan)
    return np.asarray(ratio - np.log(ratio) - 1.0)


def volatility_error(forecast: ArrayLike, realised: ArrayLike) -> FloatArray:
    """Forecast volatility minus realised volatility (square roots of the variances), in basis points.

    NaN where either variance is NaN or negative.
    """
    forecast, realised = np.asarray(forecast, dtype=np.float64), np.asarray(realised, dtype=np.float64)
    return np.asarray(IN_BPS * (_root(forecast) - _root(realised)))


def _root(variance: FloatArray) -> FloatArray:
    return np.sqrt(np.where(variance >= 0.0, variance, np.nan))
