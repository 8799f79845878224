"""Intervals of what a score table states: differences of losses, and rates of coverage and direction.

A difference is stated with its interval and with the smallest difference that these hours could have shown, so that
"no difference was found" can be read as "none larger than x". Everything allows for forecasts that overlap.

One long-run variance serves the test, the interval and the smallest detectable difference. It is by
`inference.regime_cosine_terms` unless told otherwise, as the winner may switch with volatility regimes. Give the same
`overlap`, the one of the longest horizon, at every step of a table: a regime lasts as long for forecasts of one hour
as for those of 24.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from btcbt.metrics.inference import long_run_variance, mean_test, regime_cosine_terms
from btcbt.records import FloatArray

_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class LossDifference:
    """How two forecasters' mean losses differ, in the loss's unit.

    Attributes
    ----------
    difference : float
        Mean loss less mean reference loss; negative if the first forecaster is better.
    low, high : float
        Ends of its confidence interval.
    p_value : float
        Two-sided, of no difference.
    smallest_detectable : float
        The size of a difference that a test on this record would have found with the stated power; positive.
    standard_error : float
        Of the difference.
    relative_to : float
        Mean reference loss at the same origins: divide by it for percent.
    terms : int
        Cosine terms, the degrees of freedom.
    n : int
        Origins used.
    """

    difference: float
    low: float
    high: float
    p_value: float
    smallest_detectable: float
    standard_error: float
    relative_to: float
    terms: int
    n: int


def loss_difference(
    loss: ArrayLike,
    reference: ArrayLike,
    overlap: int,
    *,
    terms: int | None = None,
    level: float = 0.95,
    power: float = 0.8,
) -> LossDifference:
    """Difference of two mean losses with its interval and the smallest difference that would have been found.

    Student t with the cosine long-run variance (Lazarus, Lewis, Stock and Watson, 2018). Two-sided. Dependence: short
    memory, overlap and regimes of days. NaN: an origin where either loss is NaN is dropped; results are NaN where the
    record is shorter than four overlaps or the difference does not vary.

    Parameters
    ----------
    loss, reference : float (n,)
        Losses at the same origins, in time order.
    overlap : int
        Origins whose outcomes overlap, itself included, of the longest horizon in the table.
    terms : int, optional
        Cosine terms; `regime_cosine_terms` if left out.
    level : float
        Of the interval; the test that the detectable difference belongs to has size ``1 - level``.
    power : float
        With which the smallest detectable difference would have been found.
    """
    a, b = np.asarray(loss, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"loss {a.shape} and reference {b.shape} are not two series of one length")
    both = np.isfinite(a) & np.isfinite(b)
    n = int(both.sum())
    terms = regime_cosine_terms(n, overlap) if terms is None else terms
    test = mean_test(a[both] - b[both], overlap, terms)
    low, high = test.interval(level) if terms else (_NAN, _NAN)
    detectable = smallest_detectable(test.standard_error, terms, size=1.0 - level, power=power)
    base = float(b[both].mean()) if n else _NAN
    return LossDifference(test.mean, low, high, test.p_value, detectable, test.standard_error, base, terms, n)


def smallest_detectable(standard_error: float, degrees: float, *, size: float = 0.05, power: float = 0.8) -> float:
    """Difference that a two-sided t test finds with probability `power`, in the unit of the standard error.

    Solves ``P(|T| > t) = power`` for the noncentrality of a noncentral Student t (its other tail counted), times the
    standard error, which is taken at its word. With many degrees of freedom it is 2.80 standard errors at 5 % and
    80 %.

    Parameters
    ----------
    standard_error : float
        Of the mean difference.
    degrees : float
        Degrees of freedom of the test.
    size, power : float
        Two-sided size of the test, and its power.

    Returns
    -------
    float
        NaN without a positive standard error or degrees of freedom.
    """
    if not 0.0 < size < 1.0 or not size < power < 1.0:
        raise ValueError(f"size {size} and power {power} are not 0 < size < power < 1")
    if not (standard_error > 0.0 and degrees >= 1.0):
        return _NAN
    return standard_error * _noncentrality(degrees, size, power)


@lru_cache(maxsize=256)
def _noncentrality(degrees: float, size: float, power: float) -> float:
    """Difference that is found with probability `power`, in standard errors; the same for many rows of a table."""
    critical = float(stats.t.isf(size / 2.0, degrees))

    def shortfall(noncentrality: float) -> float:
        found = stats.nct.sf(critical, degrees, noncentrality) + stats.nct.cdf(-critical, degrees, noncentrality)
        return float(found) - power

    high = critical + float(stats.t.ppf(power, degrees))
    while shortfall(high) < 0.0:
        high *= 1.5
    return float(optimize.brentq(shortfall, 0.0, high, xtol=1e-10))


@dataclass(frozen=True, slots=True)
class Rate:
    """A share in [0, 1], its interval, and how many independent origins it is worth.

    Attributes
    ----------
    share, low, high : float
        The share of hits, and the ends of its confidence interval, in [0, 1].
    effective_n : float
        Independent origins that would know the share as well.
    n : int
        Origins used.
    """

    share: float
    low: float
    high: float
    effective_n: float
    n: int


def rate_interval(hits: ArrayLike, overlap: int, *, terms: int | None = None, level: float = 0.95) -> Rate:
    """Interval of a rate of coverage or direction, from hits that overlap.

    Wilson's score interval (1927) at the effective number of origins, ``n p (1 - p) / omega^2`` with omega^2 the
    long-run variance of the hits, and with Student's quantile in place of the normal one, as omega^2 is estimated
    (the design effect of Korn and Graubard, 1998). It stays in [0, 1] and does not vanish where every origin hits;
    there, with no variance to see, ``n / overlap`` origins count. Two-sided; NaN hits are dropped; NaN where the
    record is shorter than four overlaps.

    Parameters
    ----------
    hits : float (n,)
        1 for a hit, 0 for a miss, or a part of one (`distribution.interval_coverage`), in time order.
    overlap : int
        Origins whose outcomes overlap, itself included.
    terms : int, optional
        Cosine terms; `regime_cosine_terms` if left out.
    level : float
        Confidence.
    """
    x = np.asarray(hits, dtype=np.float64)
    x = x[np.isfinite(x)]
    if x.ndim != 1 or np.any((x < 0.0) | (x > 1.0)):
        raise ValueError(f"hits {np.shape(hits)} are not one series of numbers in [0, 1]")
    n = len(x)
    share = float(x.mean()) if n else _NAN
    terms = regime_cosine_terms(n, overlap) if terms is None else terms
    if terms < 1:
        return Rate(share, _NAN, _NAN, _NAN, n)
    variance = long_run_variance(x, overlap, terms)
    effective = n * share * (1.0 - share) / variance if variance > 0.0 else n / overlap
    # Hits cannot know more than as many independent origins; the estimate sometimes says so by luck.
    effective = min(effective, float(n))
    quantile = float(stats.t.isf((1.0 - level) / 2.0, terms))
    low, high = _wilson(share, effective, quantile)
    return Rate(share, low, high, effective, n)


def direction_hits(forecast: ArrayLike, outcome: ArrayLike) -> FloatArray:
    """1 where a forecast change has the sign of the realised one, 0 where not, NaN where either has none.

    The mean of what is not NaN is the score ``direction``.

    Parameters
    ----------
    forecast, outcome : float (...)
        Forecast and realised changes.

    Returns
    -------
    float64 (...)
    """
    product = np.sign(np.asarray(forecast, dtype=np.float64)) * np.sign(np.asarray(outcome, dtype=np.float64))
    return np.where(np.isnan(product) | (product == 0.0), np.nan, (product > 0.0).astype(np.float64))


def _wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    factor = quantile**2 / n
    centre = (share + factor / 2.0) / (1.0 + factor)
    half = quantile / (1.0 + factor) * float(np.sqrt(share * (1.0 - share) / n + factor / (4.0 * n)))
    return max(centre - half, 0.0), min(centre + half, 1.0)
