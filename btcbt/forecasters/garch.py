"""GARCH(1,1) with Student t innovations, fitted on each window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from arch.univariate import GARCH
from scipy.optimize import minimize
from scipy.signal import lfilter
from scipy.special import digamma, gammaln, stdtrit

from btcbt.forecasters.baseline import SMALLEST_UNIFORM, Baseline, log_returns
from btcbt.forecasters.candle_paths import candles_from_returns
from btcbt.forecasters.ewma_volatility import DEFAULT_DECAY, EwmaVolatility
from btcbt.records import Float32Array, FloatArray

MIN_RETURNS = 50
"""Fewest returns that four parameters are fitted on."""
MAX_SHOCK = 1.0
"""Largest absolute move of a step in log price. Student t has no exponential moment, so without a bound the
expected price would be infinite; only extreme draws reach it."""
MAX_ITERATIONS = 200

# Persistence alpha + beta, share of alpha in it, and 1 / nu. The likelihood often has two local maxima; two starts
# find the higher one more often than arch's grid of starting values does.
_STARTS = ((0.99, 0.03, 0.3), (0.7, 0.35, 0.3))
_BOUNDS = ((1e-8, 10.0), (0.0, 1.0), (0.0, 1.0), (1 / 500, 1 / 2.05))  # as arch bounds omega and nu


class Garch(Baseline):
    """No drift; log returns with GARCH(1,1) variance and Student t innovations.

    ``r_t = sigma_t z_t`` and ``sigma_t^2 = omega + alpha r_{t-1}^2 + beta sigma_{t-1}^2``, z of unit variance
    (Bollerslev, 1986 and 1987), fitted by maximum likelihood on the window's returns alone. The variance of
    each path then follows its own shocks. Half the variance is subtracted from each log return, which keeps the
    expected price at the last close up to terms of fourth order; a shock moves the log price by `MAX_SHOCK`
    at most. Candles are made from the returns as in `EwmaVolatility`.

    A window that cannot be fitted (constant closes, fewer than `MIN_RETURNS` returns, an optimiser that does
    not converge) gets the paths of `EwmaVolatility` with its default decay. ``provenance["fallbacks"]``
    counts such origins in the batch.
    """

    kind: ClassVar[str] = "garch"
    single_threaded = True

    def __init__(self, *, context: int, horizon: int, n_paths: int, seed: int, batch_size: int | None = None) -> None:
        super().__init__(context=context, horizon=horizon, n_paths=n_paths, seed=seed, batch_size=batch_size)
        self._fallback = EwmaVolatility(context=context, horizon=horizon, n_paths=n_paths, seed=seed)

    def _sample(self, history: FloatArray, numbers: FloatArray) -> tuple[Float32Array, dict[str, str]]:
        returns = log_returns(history)
        fits = [fit_garch(row) for row in returns]
        fitted = np.array([fit is not None for fit in fits], dtype=bool)
        paths = np.empty((*numbers.shape[:3], 6), dtype=np.float32)
        if fitted.any():
            models = np.array([fit.as_tuple() for fit in fits if fit is not None])
            sigma, steps = simulate_garch(models, numbers[fitted][..., 0])
            usual = np.sqrt(np.mean(returns[fitted] ** 2, axis=1))[:, None, None]
            paths[fitted] = candles_from_returns(history[fitted], steps, sigma / usual, numbers[fitted][..., 1])
        if not fitted.all():
            paths[~fitted], _ = self._fallback._sample(history[~fitted], numbers[~fitted])
        return paths, {"fallbacks": str(int(np.sum(~fitted)))}

    def _parameters(self) -> Mapping[str, object]:
        return {"fallback_decay": DEFAULT_DECAY}


@dataclass(frozen=True, slots=True)
class GarchFit:
    """Parameters in units of the returns, the variance of the next return, and the fit's log likelihood."""

    omega: float
    alpha: float
    beta: float
    nu: float
    next_variance: float
    log_likelihood: float

    def as_tuple(self) -> tuple[float, float, float, float, float]:
        """The row of `simulate_garch`'s parameters."""
        return self.omega, self.alpha, self.beta, self.nu, self.next_variance


def fit_garch(returns: FloatArray) -> GarchFit | None:
    """Fit by maximum likelihood; None if the fit fails.

    The likelihood is arch's: its variance recursion, start of the recursion and bounds. The gradient is
    analytic, which makes the fit about five times as fast as ``arch_model(...).fit()``, from two starts.

    Parameters
    ----------
    returns : float64 (N,)
        Log returns, the newest last.

    Returns
    -------
    GarchFit or None
        None for fewer than `MIN_RETURNS` returns, returns that are all zero, or an optimiser that failed.
    """
    rms = float(np.sqrt(np.mean(returns**2)))
    if len(returns) < MIN_RETURNS or rms == 0.0:
        return None
    likelihood = _Likelihood(returns / rms)  # makes the optimisation independent of units
    best = None
    for persistence, share, tail in _STARTS:
        result = minimize(
            likelihood,
            np.array([1 - persistence, persistence, share, tail]),
            jac=True,
            method="L-BFGS-B",
            bounds=_BOUNDS,
            options={"maxiter": MAX_ITERATIONS},
        )
        if result.success and np.isfinite(result.fun) and (best is None or result.fun < best.fun):
            best = result
    if best is None:
        return None
    omega, alpha, beta, nu = _natural(best.x)
    variance = likelihood.variance(omega, alpha, beta)[-1]
    next_variance = omega + alpha * likelihood.squares[-1] + beta * variance
    fun = float(best.fun) + len(returns) * np.log(rms)
    return GarchFit(omega * rms**2, alpha, beta, nu, float(next_variance) * rms**2, -fun)


def _natural(theta: FloatArray) -> tuple[float, float, float, float]:
    omega, persistence, share, tail = (float(x) for x in theta)
    return omega, persistence * share, persistence * (1 - share), 1 / tail


class _Likelihood:
    """Negative log likelihood of (omega, alpha + beta, alpha / (alpha + beta), 1 / nu), and its gradient."""

    def __init__(self, returns: FloatArray) -> None:
        self.returns = returns
        self.squares = returns**2
        self._process = GARCH()
        self._start = float(self._process.backcast(returns))
        self._limits = self._process.variance_bounds(returns)
        self._sigma2 = np.empty_like(returns)

    def variance(self, omega: float, alpha: float, beta: float) -> FloatArray:
        """Conditional variances (N,); overwritten by the next call."""
        self._process.compute_variance(
            np.array([omega, alpha, beta]), self.returns, self._sigma2, self._start, self._limits
        )
        return self._sigma2

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        omega, alpha, beta, nu = _natural(theta)
        n = len(self.returns)
        sigma2 = self.variance(omega, alpha, beta)
        ratio = self.squares / (sigma2 * (nu - 2))
        logs = float(np.log1p(ratio).sum())
        heavy = ratio / (1 + ratio)
        constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - np.log(np.pi * (nu - 2)) / 2
        value = -n * constant + np.log(sigma2).sum() / 2 + (nu + 1) / 2 * logs

        # d value / d sigma_t^2 reaches the parameters through the recursion, so it is propagated backward.
        slope = (0.5 - (nu + 1) / 2 * heavy) / sigma2
        carried = lfilter([1.0], [1.0, -beta], slope[::-1])[::-1]
        by_omega = carried.sum()
        # Sums instead of dot products, which BLAS may split over threads and round differently.
        by_alpha = np.sum(carried[1:] * self.squares[:-1]) + carried[0] * self._start
        by_beta = np.sum(carried[1:] * sigma2[:-1]) + carried[0] * self._start
        by_nu = -n * (digamma((nu + 1) / 2) - digamma(nu / 2) - 1 / (nu - 2)) / 2
        by_nu += logs / 2 - (nu + 1) / 2 * heavy.sum() / (nu - 2)
        persistence, share = theta[1], theta[2]
        gradient = np.array(
            [
                by_omega,
                share * by_alpha + (1 - share) * by_beta,
                persistence * (by_alpha - by_beta),
                -(nu**2) * by_nu,
            ]
        )
        return float(value), gradient


def simulate_garch(models: FloatArray, u: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Run the recursion forward from uniforms.

    Parameters
    ----------
    models : float64 (B, 5)
        omega, alpha, beta, nu and the variance of the first step.
    u : float64 (B, S, H)
        Uniforms in [0, 1), turned into innovations by the inverse of their distribution function.

    Returns
    -------
    sigma : float64 (B, S, H)
        Volatility of each step.
    steps : float64 (B, S, H)
        Log returns, less half the variance.
    """
    omega, alpha, beta, nu, first = (column[:, None] for column in models.T)
    unit = np.sqrt((nu - 2) / nu)[:, :, None]
    z = unit * stdtrit(nu[:, :, None], np.maximum(u, SMALLEST_UNIFORM))
    sigma, steps = np.empty_like(u), np.empty_like(u)
    variance = np.broadcast_to(first, u.shape[:2])
    for h in range(u.shape[2]):
        sigma[:, :, h] = np.sqrt(variance)
        shock = np.clip(sigma[:, :, h] * z[:, :, h], -MAX_SHOCK, MAX_SHOCK)
        steps[:, :, h] = shock - variance / 2
        variance = omega + alpha * shock**2 + beta * variance
    return sigma, steps
