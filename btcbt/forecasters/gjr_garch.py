"""GJR-GARCH(1,1) with Student t innovations, on returns deseasonalised by hour and weekend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from arch import arch_model
from scipy.special import stdtrit

from btcbt.errors import CandleError
from btcbt.forecasters.baseline import SMALLEST_UNIFORM
from btcbt.forecasters.fitted import FittedModel, Inputs
from btcbt.forecasters.seasonality import (
    LEVEL,
    MAX_MOVE,
    MAX_SIGMA,
    Pool,
    Profile,
    candles_from_steps,
    deseasonalised,
    fit_profile,
    fitted_volume,
    make_pool,
    on_grid,
    require_enough,
    slot_of,
)
from btcbt.records import CLOSE, Candles, Float32Array, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class GjrState:
    """The fitted state.

    Attributes
    ----------
    profile : Profile
    omega, alpha, gamma, beta : float
        Parameters of the variance of deseasonalised log returns.
    nu : float
        Degrees of freedom of the innovations.
    pool : Pool
        Candles standardised by their expected volatility, which provide shape and volume.
    """

    profile: Profile
    omega: float
    alpha: float
    gamma: float
    beta: float
    nu: float
    pool: Pool

    def next_variance(self, shock: FloatArray, variance: FloatArray) -> FloatArray:
        """Variance after a shock (a deseasonalised log return) of a given variance."""
        return self.omega + (self.alpha + self.gamma * (shock < 0)) * shock**2 + self.beta * variance


class GjrGarch(FittedModel[GjrState]):
    """No drift; log returns with a profile, GJR variance and Student t innovations.

    ``r_t = sqrt(p_t) e_t``, ``e_t = sigma_t z_t`` and ``sigma_t^2 = omega + (alpha + gamma [e_{t-1} < 0]) e_{t-1}^2 +
    beta sigma_{t-1}^2`` (Glosten, Jagannathan and Runkle, 1993), p the factor of the slot and z of unit variance, by
    maximum likelihood on months of candles (`arch`). At an origin the recursion runs over the window, from the mean
    square of its returns on. The variance of each path then follows its own shocks. Half the variance is subtracted
    from each log return, which keeps the expected price at the last close up to terms of third order; a shock moves
    the log price by one at most, as Student t has no exponential moment. Candles are made by
    `btcbt.forecasters.seasonality.candles_from_steps`. A window with constant prices gets constant paths.
    """

    kind: ClassVar[str] = "gjr_garch"

    @property
    def needed_context(self) -> int:
        """Fewest candles in a window: 168, and the close before them."""
        return LEVEL + 1

    def fit(self, candles: Candles) -> GjrState:
        """Fit profile and variance, and standardise the candles."""
        return fit_gjr(candles)

    def sample(self, state: GjrState, inputs: Inputs, numbers: FloatArray) -> Float32Array:
        """Paths (B, S, H, 6); the first uniform of each pair draws the innovation, the second the candle shape."""
        return sample_gjr(state, inputs, numbers)


def fit_gjr(candles: Candles) -> GjrState:
    """Fit on a history; returns across a gap are left out.

    Raises
    ------
    CandleError
        If there are fewer than `btcbt.forecasters.seasonality.MIN_FIT` returns, or the fit does not converge.
    """
    open_time, values = on_grid(candles)
    profile = fit_profile(open_time, values, candles.interval_ms)
    root = np.sqrt(profile.variance[slot_of(open_time, candles.interval_ms)])
    returns = np.concatenate(([np.nan], np.diff(np.log(values[:, CLOSE])))) / root
    usable = np.isfinite(returns)
    require_enough(int(np.count_nonzero(returns[usable])), candles, "the GJR-GARCH fit")
    unit = float(np.sqrt(np.mean(returns[usable] ** 2)))  # makes the optimisation independent of units
    model = arch_model(returns[usable] / unit, mean="Zero", vol="GARCH", p=1, o=1, q=1, dist="t", rescale=False)
    result = model.fit(disp="off", show_warning=False)
    found = result.params.to_numpy()
    if result.convergence_flag != 0 or not np.isfinite(found).all():
        raise CandleError(
            f"candles {candles.source}: the GJR-GARCH fit does not converge on {int(usable.sum())} returns "
            f"(optimiser's flag {result.convergence_flag}); lengthen fit.window"
        )
    omega, alpha, gamma, beta, nu = found.tolist()
    sigma = np.full(len(values), np.nan)
    sigma[usable] = result.conditional_volatility * unit * root[usable]
    pool = make_pool(values, sigma, fitted_volume(open_time, values, candles, profile))
    return GjrState(profile, omega * unit**2, alpha, gamma, beta, nu, pool)


def sample_gjr(state: GjrState, inputs: Inputs, numbers: FloatArray) -> Float32Array:
    """Sample paths.

    Parameters
    ----------
    state : GjrState
    inputs : Inputs
        B windows.
    numbers : float64 (B, S, H, 2)
        Uniforms.

    Returns
    -------
    float32 (B, S, H, 6)
    """
    future = slot_of(inputs.future_open_time(numbers.shape[2]), inputs.interval_ms)
    root = np.sqrt(state.profile.variance[future])
    _, still = deseasonalised(inputs.values, inputs.open_time, inputs.interval_ms, state.profile)
    variance = np.broadcast_to(filter_variance(state, inputs)[:, None], numbers.shape[:2])
    unit = np.sqrt((state.nu - 2.0) / state.nu)
    z = unit * stdtrit(state.nu, np.maximum(numbers[..., 0], SMALLEST_UNIFORM))
    sigma, steps = np.empty_like(z), np.empty_like(z)
    for h in range(z.shape[2]):
        sigma[:, :, h] = np.minimum(np.sqrt(variance) * root[:, h, None], MAX_SIGMA)
        sigma[still, :, h] = 0.0
        shock = np.clip(sigma[:, :, h] * z[:, :, h], -MAX_MOVE, MAX_MOVE)
        steps[:, :, h] = shock - sigma[:, :, h] ** 2 / 2
        variance = state.next_variance(shock / root[:, h, None], variance)
    return candles_from_steps(inputs, steps, sigma, numbers[..., 1], state.pool, state.profile)


def filter_variance(state: GjrState, inputs: Inputs) -> FloatArray:
    """Variance of the first step over its slot's factor, (B,)."""
    factor = state.profile.variance[slot_of(inputs.open_time[:, 1:], inputs.interval_ms)]
    returns = np.diff(np.log(inputs.values[:, :, CLOSE]), axis=1) / np.sqrt(factor)
    variance = np.mean(returns**2, axis=1)
    for shock in returns.T:
        variance = state.next_variance(shock, variance)
    return np.asarray(variance)
