"""Loss differences of forecasts made every hour for 24 hours, many records at once: (records, n)."""

import numpy as np
from scipy import fft, stats

from btcbt.records import FloatArray

HORIZON = 24


def moving_sums(shocks: FloatArray, horizon: int = HORIZON) -> FloatArray:
    """Sums over each `horizon` neighbours of shocks (records, n + horizon - 1)."""
    total = np.cumsum(np.pad(shocks, ((0, 0), (1, 0))), axis=1)
    return total[:, horizon:] - total[:, :-horizon]


def overlapping(rng: np.random.Generator, records: int, n: int, horizon: int = HORIZON) -> FloatArray:
    """Losses of overlapping forecasts: a moving average whose long-run standard deviation is the horizon."""
    return moving_sums(rng.normal(size=(records, n + horizon - 1)), horizon)


def switching(rng: np.random.Generator, records: int, n: int, edge: float = 0.08) -> FloatArray:
    """The same, but the winner switches with volatility regimes that last ten days on average; mean zero.

    In the volatile regime shocks are twice as large and the first forecaster loses `edge` an hour, in the calm one it
    gains as much.
    """
    length = n + HORIZON - 1
    switches = rng.random((records, length)) < 1.0 / 240.0
    switches[:, 0] = rng.random(records) < 0.5
    volatile = np.cumsum(switches, axis=1) % 2
    return moving_sums(rng.normal(size=(records, length)) * (1.0 + volatile) + edge * (2.0 * volatile - 1.0))


def clustered(rng: np.random.Generator, records: int, n: int) -> tuple[FloatArray, FloatArray]:
    """Differences with volatility that persists for a day and a half, and that volatility as known at each origin."""
    from scipy.signal import lfilter

    noise = rng.normal(size=(records, n + HORIZON + 199))
    log_volatility = lfilter([np.sqrt(1.0 - 0.98**2)], [1.0, -0.98], noise, axis=1)[:, 200:]
    volatility = np.exp(0.5 * log_volatility)
    return moving_sums(rng.normal(size=volatility.shape) * volatility), volatility[:, :n]


def flipped(rng: np.random.Generator, difference: FloatArray, records: int, block: int) -> FloatArray:
    """A real loss difference (n,) with signs flipped in blocks of some hours, cut at random: a true null."""
    n = len(difference)
    signs = rng.choice([-1.0, 1.0], size=(records, n // block + 2))
    place = (np.arange(n) + rng.integers(block, size=(records, 1))) // block
    return np.asarray(difference * np.take_along_axis(signs, place, axis=1))


def t_rejections(x: FloatArray, terms: int, size: float = 0.05) -> float:
    """Share of records (records, n) in which a test with that many cosine terms rejects a zero mean: a fast twin."""
    projections = fft.dct(x - x.mean(axis=1, keepdims=True), type=2, norm="ortho", axis=1)[:, 1 : terms + 1]
    statistic = x.mean(axis=1) / np.sqrt(np.mean(projections**2, axis=1) / x.shape[1])
    return float(np.mean(np.abs(statistic) > stats.t.isf(size / 2.0, terms)))
