"""Joint paths of candles from the marginal quantiles of each step's close.

Most foundation models of time series forecast quantiles of one series, step by step. Strategies need paths: how one
step goes with the next, and whole candles. Three things are added, all of them from the window alone:

- Between the levels, a distribution function: lines over the normal quantile of the probability, and exponential tails
  beyond the outermost levels (`at_normal_quantile`).
- Between the steps, dependence: the ranks of the window's own past paths of returns (`template_ranks`), the Schaake
  shuffle (Clark et al., 2004, "The Schaake shuffle") drawn with replacement, which is an empirical copula. Sampling it
  path by path instead of permuting a fixed ensemble keeps paths independent of each other and of their number.
- Around the close, a candle: gaps, wicks and volumes of past candles (`candle_paths.candles_from_returns`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import log_ndtr, ndtri

from btcbt.errors import ForecasterError
from btcbt.forecasters.baseline import SMALLEST_UNIFORM, log_returns
from btcbt.forecasters.candle_paths import candles_from_returns, pick
from btcbt.records import Float32Array, FloatArray, IntArray

MAX_LOG = 200.0
"""Farthest log return from the last close; prices beyond are outside the range of float32 anyway."""


def quantile_paths(
    history: FloatArray, levels: Sequence[float], quantiles: FloatArray, numbers: FloatArray
) -> Float32Array:
    """Sample paths whose closes have given quantiles at each step.

    Parameters
    ----------
    history : float64 (B, T, 6)
        The windows, T >= 2.
    levels : sequence of float (Q,)
        Probabilities, increasing, inside (0, 1), at least two.
    quantiles : float64 (B, H, Q)
        Quantiles of the log return from the last close to the close of each step.
    numbers : float64 (B, S, H, 2)
        Uniforms (`btcbt.randomness.uniforms`). A path's first number draws its template and its place within the
        template's rank; the second lane draws the shapes of candles.

    Returns
    -------
    float32 (B, S, H, 6)
        A path depends neither on S, nor on the other windows, nor, up to its own step, on H.

    Raises
    ------
    ForecasterError
        If quantiles are NaN, infinite or crossed.
    """
    check_quantiles(levels, quantiles)
    n = history.shape[1] - 1
    ranks = template_ranks(log_returns(history), quantiles.shape[1])
    drawn = numbers[:, :, 0, 0]
    chosen = ranks.reshape(-1, ranks.shape[2])[pick(drawn, n)]  # (B, S, H)
    probability = (chosen + (drawn * n % 1.0)[..., None]) / n
    z = ndtri(np.clip(probability, SMALLEST_UNIFORM, 1 - 2.0**-53))
    closes = np.clip(at_normal_quantile(levels, quantiles, z), -MAX_LOG, MAX_LOG)
    returns = np.diff(closes, axis=2, prepend=0.0)
    return candles_from_returns(history, returns, np.ones((1, 1, 1)), numbers[..., 1])


def template_ranks(returns: FloatArray, horizon: int) -> IntArray:
    """Ranks of a window's own past paths, the template of dependence.

    A template starts at each return of the window and goes on for H steps; those that reach the newest return
    continue with the oldest one (as the circular block bootstrap; Politis and Romano, 1992), so that their number
    does not depend on H. Every rank occurs once at each step, so the marginals of what is drawn by rank are kept.

    Parameters
    ----------
    returns : float64 (B, N)
        Log returns of the windows.
    horizon : int
        H.

    Returns
    -------
    int64 (B, N, H)
        Rank, 0 .. N - 1, of the return to step h + 1 of each template; ties in order of time.
    """
    n = returns.shape[1]
    rows = np.arange(n + horizon - 1) % n
    level = np.concatenate((np.zeros((len(returns), 1)), np.cumsum(returns[:, rows], axis=1)), axis=1)
    ends = np.arange(n)[:, None] + np.arange(1, horizon + 1)
    moves = level[:, ends] - level[:, :n, None]
    return moves.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable").astype(np.int64, copy=False)


def at_normal_quantile(levels: Sequence[float], quantiles: FloatArray, z: FloatArray) -> FloatArray:
    """Values of quantile functions at the probabilities of standard normal numbers.

    Parameters
    ----------
    levels : sequence of float (Q,)
        Probabilities, increasing, inside (0, 1).
    quantiles : float64 (B, H, Q)
        At `levels`, not decreasing.
    z : float64 (B, S, H)

    Returns
    -------
    float64 (B, S, H)
        Non-decreasing in `z`. Beyond the outermost levels the tails are exponential, with the rate given by the
        outermost two quantiles on that side.
    """
    p = np.asarray(levels, dtype=np.float64)
    knots = ndtri(p)
    out = np.repeat(quantiles[:, None, :, 0], z.shape[1], axis=1)
    for k in range(len(knots) - 1):
        width = knots[k + 1] - knots[k]
        slope = (quantiles[..., k + 1] - quantiles[..., k]) / width
        out += slope[:, None] * np.clip(z - knots[k], 0.0, width)
    low, high = np.log(p[:2]), np.log1p(-p[:-3:-1])  # of the outermost level and the next one inside
    lower, upper = quantiles[..., 1] - quantiles[..., 0], quantiles[..., -1] - quantiles[..., -2]
    out -= (lower / (low[1] - low[0]))[:, None] * np.maximum(low[0] - log_ndtr(z), 0.0)
    out += (upper / (high[1] - high[0]))[:, None] * np.maximum(high[0] - log_ndtr(-z), 0.0)
    return np.asarray(out)


def check_quantiles(levels: Sequence[float], quantiles: FloatArray) -> None:
    """Check what a model returned.

    Raises
    ------
    ForecasterError
        Names the first step with a value that is not finite, or with crossed quantiles.
    """
    p = np.asarray(levels, dtype=np.float64)
    if len(p) < 2 or quantiles.shape[-1] != len(p) or not (np.diff(p, prepend=0.0, append=1.0) > 0).all():
        raise ForecasterError(
            f"quantiles {quantiles.shape} at levels {[round(float(one), 4) for one in p]}: expected (B, H, Q) at two "
            "or more increasing levels between 0 and 1; check the checkpoint's configuration"
        )
    bad = ~np.isfinite(quantiles).all(axis=2)
    if bad.any():
        row, step = (int(i) for i in np.argwhere(bad)[0])
        raise ForecasterError(
            f"quantiles of step {step + 1}: {quantiles[row, step].tolist()} are not all finite; "
            "the checkpoint is damaged, or cannot take this window"
        )
    crossed = np.diff(quantiles, axis=2) < 0
    if crossed.any():
        row, step, level = (int(i) for i in np.argwhere(crossed)[0])
        low, high = quantiles[row, step, level : level + 2]
        raise ForecasterError(
            f"quantiles of step {step + 1} cross: {low:.6g} at level {p[level]:g}, {high:.6g} at {p[level + 1]:g}; "
            "expected increasing ones; sort them in the model that makes them"
        )
