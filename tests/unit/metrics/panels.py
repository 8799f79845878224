"""Panels of coins: returns with a common factor, forecasts that know nothing of them, and what they lose.

Every table is (n, K): hourly origins and symbols. Returns over 24 hours overlap, have fat tails (Student's t with five
degrees of freedom), a volatility that clusters with a half-life of a day and a half and is common to all symbols, betas
between 0.5 and 1.5, and scales that differ up to eightfold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from btcbt.records import FloatArray
from tests.unit.metrics.designs import HORIZON, moving_sums


@dataclass(frozen=True)
class Panel:
    """Realised returns over 24 hours (bps), two forecasts of them that are alike in law, and who is listed."""

    outcome: FloatArray
    first: FloatArray
    second: FloatArray
    listed: NDArray[np.bool_]

    def losses(self, edge: float = 0.0) -> tuple[FloatArray, FloatArray]:
        """Absolute errors of both forecasts; those of the first are smaller by `edge`, a share of the second's."""
        a, b = np.abs(self.outcome - self.first), np.abs(self.outcome - self.second)
        a = a - edge * b.mean(axis=0)
        return np.where(self.listed, a, np.nan), np.where(self.listed, b, np.nan)

    def ranked(self, edge: float = 0.0) -> tuple[FloatArray, FloatArray]:
        """The first forecast, moved towards what comes by `edge` of the outcome, and the outcome."""
        return np.where(self.listed, self.first + edge * self.outcome, np.nan), self.outcome


def persistent(rng: np.random.Generator, shape: tuple[int, ...], persistence: float) -> FloatArray:
    """Autoregressions of variance one along the last axis."""
    noise = rng.normal(size=(*shape[:-1], shape[-1] + 300))
    return np.asarray(lfilter([np.sqrt(1.0 - persistence**2)], [1.0, -persistence], noise, axis=-1)[..., 300:])


def listing(rng: np.random.Generator, n: int, k: int) -> NDArray[np.bool_]:
    """Symbols that list in the first half and delist in the last fifth, two always there, with a gap of three days."""
    hour = np.arange(n)[:, None]
    start = np.where(np.arange(k) < 2, 0, rng.integers(0, n // 2, k))
    end = np.where(np.arange(k) < 2, n, rng.integers(4 * n // 5, n + 1, k))
    gap = rng.integers(0, n - 72, k)
    return np.asarray((hour >= start) & (hour < end) & ~((hour >= gap) & (hour < gap + 72)))


def panel(
    rng: np.random.Generator,
    n: int,
    k: int,
    *,
    unbalanced: bool = False,
    common: float = 1.0,
    follows_beta: float = 0.5,
) -> Panel:
    """A panel of `k` coins.

    Parameters
    ----------
    common : float
        Standard deviation of the market's hour in those of a coin's own.
    follows_beta : float
        How much of each forecast is a view on the market times the coin's beta.
    """
    length = n + HORIZON - 1
    beta, scale = rng.uniform(0.5, 1.5, (k, 1)), np.exp(rng.uniform(0.0, np.log(8.0), (k, 1)))
    volatility = np.exp(0.5 * persistent(rng, (length,), 0.98))
    shocks = rng.standard_t(5, (k + 1, length)) * np.sqrt(3.0 / 5.0) * volatility
    outcome = scale * moving_sums(common * beta * shocks[-1] + shocks[:k])

    def forecast() -> FloatArray:
        view, own = persistent(rng, (n,), 0.95), persistent(rng, (k, n), 0.95)
        return np.asarray(scale * (follows_beta * beta * view + own))

    listed = listing(rng, n, k) if unbalanced else np.ones((n, k), dtype=np.bool_)
    return Panel(outcome.T, forecast().T, forecast().T, listed)
