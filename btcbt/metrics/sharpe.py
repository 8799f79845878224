"""Significance of Sharpe ratios: probabilistic and deflated Sharpe, minimum track record, bootstrap intervals.

Sharpe ratios here are per candle, not annualised, with a risk-free rate of zero, and the standard deviation
has ``n - 1`` in it. The closed forms take returns as independent (skewed and fat-tailed, but uncorrelated);
for hourly net returns that is nearly so, and `bootstrap_interval` does not need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from btcbt.metrics.inference import bootstrap_widening
from btcbt.records import FloatArray

MISS_RATE = 0.07
"""Of the 95 % bootstrap intervals of Sharpe ratios, as measured (docs/evidence.md), half of it on either side."""
_NAN, _SAME = float("nan"), 1e-12


def sharpe_ratio(returns: ArrayLike) -> float:
    """Mean over standard deviation of returns per candle.

    NaN for fewer than two returns, for returns that do not vary, and if any is NaN.
    """
    r = np.asarray(returns, dtype=np.float64)
    if len(r) < 2 or not np.ptp(r) > 8.0 * np.finfo(np.float64).eps * np.abs(r).max():
        return _NAN
    return float(r.mean() / r.std(ddof=1))


def probabilistic_sharpe(returns: ArrayLike, threshold: float = 0.0) -> float:
    """Probability that the true Sharpe ratio exceeds a threshold.

    Bailey and Lopez de Prado (2012), "The Sharpe ratio efficient frontier", equation 11. One-sided: one minus
    it is the p-value of "no better than the threshold". Takes returns as independent. NaN as `sharpe_ratio`.

    Parameters
    ----------
    returns : float (n,)
        Per candle, net of costs.
    threshold : float
        Sharpe ratio per candle to beat.
    """
    spread = _sharpe_spread(returns)
    if not spread > 0.0:
        return _NAN
    n = len(np.asarray(returns))
    return float(stats.norm.cdf((sharpe_ratio(returns) - threshold) * math.sqrt(n - 1) / spread))


def expected_best_sharpe(trial_sharpes: ArrayLike, n_trials: int | None = None) -> float:
    """Expected Sharpe ratio of the best of N trials without skill.

    Bailey and Lopez de Prado (2014), "The deflated Sharpe ratio", equation 1, from the variance of the Sharpe
    ratios that were tried and Euler's constant.

    Parameters
    ----------
    trial_sharpes : float (N,)
        Per candle, of every configuration ever tried, this one included; NaN (a strategy that never traded)
        count as trials but not towards the variance.
    n_trials : int, optional
        N, if more were tried than are given.

    Returns
    -------
    float
        0 for a single trial; NaN if there are several but fewer than two Sharpe ratios to take a variance of.
    """
    trials = np.asarray(trial_sharpes, dtype=np.float64)
    n = max(len(trials), n_trials or 0)
    if n <= 1:
        return 0.0
    known = trials[np.isfinite(trials)]
    if len(known) < 2:
        return _NAN
    gamma = float(np.euler_gamma)
    quantiles = stats.norm.ppf([1.0 - 1.0 / n, 1.0 - 1.0 / (n * math.e)])
    return float(known.std(ddof=1) * ((1.0 - gamma) * quantiles[0] + gamma * quantiles[1]))


def deflated_sharpe(returns: ArrayLike, trial_sharpes: ArrayLike, n_trials: int | None = None) -> float:
    """Probability that the true Sharpe ratio exceeds the expected best of all trials without skill.

    `probabilistic_sharpe` against `expected_best_sharpe` (Bailey and Lopez de Prado, 2014, equation 2).
    Trials are counted as if independent, so it is conservative for similar configurations.
    One-sided.
    """
    threshold = expected_best_sharpe(trial_sharpes, n_trials)
    return _NAN if math.isnan(threshold) else probabilistic_sharpe(returns, threshold)


def minimum_track_record(returns: ArrayLike, threshold: float = 0.0, alpha: float = 0.05) -> float:
    """Candles of this record needed before its Sharpe ratio exceeds a threshold at level `alpha`, one-sided.

    Bailey and Lopez de Prado (2012), equation 13. NaN where the ratio is not above the threshold (no record
    is long enough) and as `sharpe_ratio`. Takes returns as independent.
    """
    spread, edge = _sharpe_spread(returns), sharpe_ratio(returns) - threshold
    if not (edge > 0.0 and spread > 0.0):
        return _NAN
    return float(1.0 + (spread * stats.norm.isf(alpha) / edge) ** 2)


def bootstrap_interval(
    returns: ArrayLike, block: int, *, level: float = 0.95, reps: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Confidence intervals of the Sharpe ratio and of the total return that keep serial dependence.

    Stationary bootstrap (Politis and Romano, 1994) by `arch`, blocks of a mean length of at least `block`;
    longer where the automatic choice (Politis and White, 2004; corrected by Patton, Politis and White, 2009)
    is. Two-sided percentile intervals (of the logarithm, for the total return), widened for short records by
    `inference.bootstrap_widening`; resampling takes the record as stationary.

    Parameters
    ----------
    returns : float (n,)
        Simple, per candle, no NaN.
    block : int
        Shortest mean block, candles: the horizon.

    Returns
    -------
    dict
        ``sharpe`` (per candle) and ``total_return``, each (low, high). NaN where the record is shorter than
        four blocks or does not vary.
    """
    r = np.asarray(returns, dtype=np.float64)
    length = bootstrap_block(r, block)
    if length == 0:
        return {"sharpe": (_NAN, _NAN), "total_return": (_NAN, _NAN)}

    def both(sample: FloatArray) -> FloatArray:
        # The loss is bounded just below 100 %, so that the logarithm of ruin is finite.
        return np.array([sharpe_ratio(sample), np.log1p(np.maximum(sample, 1e-12 - 1.0)).sum()])

    low, high = _ends(r, both, length, level, reps, seed)
    return {
        "sharpe": (float(low[0]), float(high[0])),
        "total_return": (float(np.expm1(low[1])), float(np.expm1(high[1]))),
    }


def sharpe_difference_interval(
    returns: ArrayLike, reference: ArrayLike, block: int, *, level: float = 0.95, reps: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval of the difference of two Sharpe ratios over the same candles.

    As `bootstrap_interval`, with both records resampled in the same blocks, so that what moves both cancels. A
    percentile interval, where Ledoit and Wolf (2008), J. Empirical Finance 15, studentise.

    Parameters
    ----------
    returns, reference : float (n,)
        Simple, per candle, of the same candles in time order, no NaN.
    block : int
        Shortest mean block, candles: the horizon.

    Returns
    -------
    (float, float)
        Low and high of the first ratio minus the second, per candle. NaN where either record is shorter than four
        blocks or does not vary, or both are the same to rounding.
    """
    pair = np.column_stack([np.asarray(returns, dtype=np.float64), np.asarray(reference, dtype=np.float64)])
    lengths = [bootstrap_block(column, block) for column in pair.T]
    if 0 in lengths or np.allclose(pair[:, 0], pair[:, 1], rtol=0.0, atol=_SAME):
        return _NAN, _NAN

    def difference(sample: FloatArray) -> FloatArray:
        return np.array([sharpe_ratio(sample[:, 0]) - sharpe_ratio(sample[:, 1])])

    low, high = _ends(pair, difference, max(lengths), level, reps, seed)
    return float(low[0]), float(high[0])


def _ends(
    rows: FloatArray, statistics: Callable[[FloatArray], FloatArray], length: int, level: float, reps: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Ends of the widened percentile intervals of some statistics of rows (n, ...), blocks of a mean `length`."""
    from arch.bootstrap import StationaryBootstrap

    bootstrap = StationaryBootstrap(length, rows, seed=np.random.default_rng(seed))
    draws = np.asarray(bootstrap.apply(statistics, reps=reps))
    tail = (1.0 - level) / 2.0
    measured, wider = statistics(rows), bootstrap_widening(len(rows), length)
    low, high = (measured + wider * (end - measured) for end in np.nanquantile(draws, [tail, 1.0 - tail], axis=0))
    return low, high


def bootstrap_block(returns: FloatArray, block: int) -> int:
    """Mean block length: at least `block`, longer if the automatic choice is; 0 for too few returns."""
    from arch.bootstrap import optimal_block_length

    if block < 1:
        raise ValueError(f"block {block} is below 1")
    if len(returns) < max(4 * block, 8) or math.isnan(sharpe_ratio(returns)):
        return 0
    automatic = float(optimal_block_length(returns)["stationary"].iloc[0])
    longest = len(returns) // 4
    return min(longest, max(block, math.ceil(automatic) if math.isfinite(automatic) else block))


def compound(returns: FloatArray | Sequence[float]) -> float:
    """Total return of simple returns per candle; -1 after a loss of everything."""
    with np.errstate(divide="ignore"):
        return float(np.expm1(np.sum(np.log1p(np.asarray(returns, dtype=np.float64)))))


def moments(returns: FloatArray) -> tuple[float, float]:
    """Skewness and kurtosis (3 for a normal distribution) of returns that vary, not corrected for bias."""
    centred = returns - returns.mean()
    square = centred * centred
    variance = float(square.mean())
    return float((square * centred).mean()) / variance**1.5, float((square * square).mean()) / variance**2


def _sharpe_spread(returns: ArrayLike) -> float:
    """Standard deviation of the Sharpe ratio's estimate, times the root of n - 1 (Mertens, 2002)."""
    r = np.asarray(returns, dtype=np.float64)
    ratio = sharpe_ratio(r)
    if math.isnan(ratio):
        return _NAN
    skew, kurtosis = moments(r)
    return math.sqrt(max(0.0, 1.0 - skew * ratio + (kurtosis - 1.0) / 4.0 * ratio**2))
