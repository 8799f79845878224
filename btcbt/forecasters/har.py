"""HAR realised volatility with a profile by hour and weekend, and a filtered bootstrap of whole candles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from btcbt.errors import ConfigError
from btcbt.forecasters.fitted import FittedModel, Inputs
from btcbt.forecasters.seasonality import (
    LEVEL,
    MAX_MOVE,
    MAX_SIGMA,
    Pool,
    Profile,
    assemble,
    deseasonalised,
    expected_volume,
    fit_profile,
    fitted_volume,
    floored,
    make_pool,
    on_grid,
    range_variance,
    require_enough,
    slot_of,
    trailing_mean,
)
from btcbt.records import CLOSE, Candles, Float32Array, FloatArray

DEFAULT_LAGS = (1, 6, 24, LEVEL)


@dataclass(frozen=True, slots=True, eq=False)
class HarState:
    """The fitted state.

    Attributes
    ----------
    profile : Profile
    coefficients : float64 (1 + K,)
        Constant, and weight of the log of the mean variance over each lag.
    pool : Pool
        Candles standardised by the volatility expected by the regression.
    """

    profile: Profile
    coefficients: FloatArray
    pool: Pool


class Har(FittedModel[HarState]):
    """No drift; past candles, scaled to the volatility expected by a log-HAR model with a profile.

    The variance of candle t, measured by its range and divided by its slot's factor, follows ``log v_t = c + sum_k b_k
    log mean(v_{t-1} .. v_{t-k})`` over the lags k (Corsi, 2009, "A simple approximate long-memory model of realized
    volatility", in logs), by least squares on the candles of the fit. Each of these candles, its four prices in logs
    over the close before, divided by its expected volatility, joins a pool; each step of a path draws one and
    multiplies it by the volatility expected for that step given the path so far: filtered historical simulation
    (Barone-Adesi, Giannopoulos and Vosper, 1999). The range of the drawn candle enters the variance of the next step,
    so volatility clusters in the paths. Volume and amount are those of the drawn candle, rescaled from their expected
    value there to the one of the step.

    All four prices of a candle are shifted by the same amount, so that the expected close of every step is the last
    close up to terms of third order. A window with constant prices gets constant paths.

    Parameters
    ----------
    lags : tuple of int
        In candles, increasing.
    """

    kind: ClassVar[str] = "har"

    def __init__(self, lags: tuple[int, ...] = DEFAULT_LAGS) -> None:
        if not lags or lags[0] < 1 or any(a >= b for a, b in pairwise(lags)):
            raise ConfigError(f"forecaster of kind 'har': lags {list(lags)} are not increasing numbers from 1 on")
        self.lags = lags

    @property
    def needed_context(self) -> int:
        """Fewest candles in a window: the longest lag, and the close before it."""
        return max(LEVEL, self.lags[-1]) + 1

    def parameters(self) -> Mapping[str, object]:
        """The lags."""
        return {"lags": list(self.lags)}

    def fit(self, candles: Candles) -> HarState:
        """Fit profile and regression, and standardise the candles."""
        return fit_har(candles, self.lags)

    def sample(self, state: HarState, inputs: Inputs, numbers: FloatArray) -> Float32Array:
        """Paths (B, S, H, 6); the first uniform of each pair draws the candle."""
        return sample_har(state, inputs, numbers[..., 0], self.lags)


def fit_har(candles: Candles, lags: tuple[int, ...] = DEFAULT_LAGS) -> HarState:
    """Fit on a history.

    Parameters
    ----------
    candles : Candles
        Candles after a gap, which lack lags, are left out.
    lags : tuple of int

    Raises
    ------
    CandleError
        If fewer than `btcbt.forecasters.seasonality.MIN_FIT` candles are left.
    """
    open_time, values = on_grid(candles)
    profile = fit_profile(open_time, values, candles.interval_ms)
    factor = profile.variance[slot_of(open_time, candles.interval_ms)]
    variance = np.concatenate(([np.nan], range_variance(values))) / factor
    means = np.stack([trailing_mean(variance, lag) for lag in lags])
    level = trailing_mean(variance, LEVEL)
    usable = np.isfinite(variance) & np.isfinite(means).all(axis=0) & (level > 0)
    require_enough(int(usable.sum()), candles, "the HAR regression")
    logs = np.log(floored(means[:, usable], level[usable]))
    design = np.column_stack((np.ones(logs.shape[1]), *logs))
    target = np.log(floored(variance[usable], level[usable]))
    coefficients = np.asarray(np.linalg.lstsq(design, target, rcond=None)[0])
    sigma = np.full(len(values), np.nan)
    sigma[usable] = np.sqrt(np.exp(design @ coefficients) * factor[usable])
    return HarState(profile, coefficients, make_pool(values, sigma, fitted_volume(open_time, values, candles, profile)))


def sample_har(state: HarState, inputs: Inputs, u: FloatArray, lags: tuple[int, ...] = DEFAULT_LAGS) -> Float32Array:
    """Sample paths.

    Parameters
    ----------
    state : HarState
    inputs : Inputs
        B windows of T candles, T above the longest lag.
    u : float64 (B, S, H)
        Uniforms that draw the candles.
    lags : tuple of int
        The lags of the fit.

    Returns
    -------
    float32 (B, S, H, 6)
    """
    steps = u.shape[2]
    pool, future = state.pool, slot_of(inputs.future_open_time(steps), inputs.interval_ms)
    past, still = deseasonalised(inputs.values, inputs.open_time, inputs.interval_ms, state.profile)
    means = _VarianceMeans(past, u.shape[1], steps)
    drawn = range_variance(np.stack((np.zeros_like(pool.logs), pool.logs), axis=1), logs=True)[:, 0]
    mean, spread = float(pool.logs[:, CLOSE].mean()), float(pool.logs[:, CLOSE].var())
    rows = (u * len(pool)).astype(np.int64)
    prices = np.empty((*u.shape, 4), dtype=np.float64)
    close = np.zeros(u.shape[:2])
    for h in range(steps):
        level = means.mean(LEVEL, h)
        log_variance = np.full(u.shape[:2], state.coefficients[0])
        for lag, weight in zip(lags, state.coefficients[1:].tolist(), strict=True):
            log_variance += weight * np.log(floored(means.mean(lag, h), level))
        variance = np.exp(log_variance)
        sigma = np.minimum(np.sqrt(variance * state.profile.variance[future[:, h], None]), MAX_SIGMA)
        sigma[still] = 0.0
        moves = np.clip(pool.logs[rows[:, :, h]] * sigma[..., None], -MAX_MOVE, MAX_MOVE)
        prices[:, :, h] = moves + (close - sigma * mean - sigma**2 * spread / 2)[..., None]
        close = prices[:, :, h, CLOSE]
        means.add(variance * drawn[rows[:, :, h]], h)
    volume = expected_volume(inputs, future, state.profile)
    return assemble(inputs.values[:, -1, CLOSE], prices, rows, pool, volume)


class _VarianceMeans:
    """Means over the newest variances of each path, known and sampled.

    Parameters
    ----------
    past : float64 (B, T)
        The newest last.
    n_paths, steps : int
        S and H.
    """

    def __init__(self, past: FloatArray, n_paths: int, steps: int) -> None:
        self._known = np.cumsum(past[:, ::-1], axis=1)
        self._sampled = np.zeros((len(past), n_paths, steps + 1))

    def mean(self, length: int, step: int) -> FloatArray:
        """Mean of the newest `length` before a step, (B, S)."""
        new = min(length, step)
        total = self._sampled[:, :, step] - self._sampled[:, :, step - new]
        if length > new:
            total = total + self._known[:, length - new - 1, None]
        return np.asarray(total / length)

    def add(self, variance: FloatArray, step: int) -> None:
        """Add the variances (B, S) of a step."""
        self._sampled[:, :, step + 1] = self._sampled[:, :, step] + variance
