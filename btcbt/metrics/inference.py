"""Tests of a mean and of equal predictive ability, with overlapping forecast horizons.

Forecasts made every hour for the next 24 hours share most of their outcomes, so their losses are correlated
by construction: a moving average of order ``overlap - 1``, in addition to correlation from volatility. Every
test here takes that `overlap`: the number of origins (this one included) whose outcomes overlap.

Why not the usual kernel estimator with normal critical values: with 300 origins and an overlap of 24 it
rejects a true null in about 9 % of simulations at a nominal 5 % (and its variance can be negative). The
equally weighted cosine estimator below cannot be negative, has an exact Student t limit with few terms, and
rejects in 4 to 6 % (`tests/unit/metrics/test_size_and_power_proof.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, stats

from btcbt.records import FloatArray

MIN_OVERLAPS = 4
"""Fewest non-overlapping blocks for a test; with fewer the result is NaN."""


@dataclass(frozen=True, slots=True)
class MeanTest:
    """A mean, its standard error, and the test that it is zero.

    Attributes
    ----------
    mean, standard_error, statistic : float
        ``statistic = mean / standard_error`` (times a small-sample factor for ``hln``).
    p_value : float
        Two-sided.
    degrees : float
        Degrees of freedom of the Student t that the statistic is compared with.
    n : int
        Observations used.
    """

    mean: float
    standard_error: float
    statistic: float
    p_value: float
    degrees: float
    n: int

    @property
    def p_greater(self) -> float:
        """One-sided p-value of the alternative that the mean is above zero."""
        return float(stats.t.sf(self.statistic, self.degrees))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Symmetric confidence interval of the mean."""
        half = float(stats.t.isf((1.0 - level) / 2.0, self.degrees)) * self.standard_error
        return self.mean - half, self.mean + half


def cosine_terms(n: int, overlap: int) -> int:
    """Number of cosine terms that estimate the long-run variance of `n` observations; 0 if `n` is too small.

    The rule of Lazarus, Lewis, Stock and Watson (2018), ``0.4 n^(2/3)``, kept below the frequency at which
    the spectrum of an overlap falls off, ``n / (3 overlap)``, and at least two.
    """
    if overlap < 1:
        raise ValueError(f"overlap {overlap} is below 1")
    if n < MIN_OVERLAPS * overlap or n < 3:
        return 0
    return max(2, int(min(0.4 * n ** (2.0 / 3.0), n / (3.0 * overlap))))


def regime_cosine_terms(n: int, overlap: int) -> int:
    """Number of cosine terms if the better forecaster changes with regimes of days.

    ``0.3 (n / overlap)^(2/3)``, at least two; 0 if `n` is too small. The rate of Lazarus, Lewis, Stock and Watson
    (2018) in the number of non-overlapping blocks instead of origins, so that the terms stay below the frequencies
    at which the spectrum of regimes of ten days falls off. Where volatility regimes of ten days decide which
    forecaster is the better one, the terms of `cosine_terms` reject a true null in 10 to 12 % and these in 5 to 7 %;
    against a difference of three standard errors they have less power: 80 instead of 86 % in a year, 74 instead of 85 %
    in four months, 40 instead of 80 % in one (`tests/unit/metrics/test_long_run_proof.py`). A block bootstrap with
    blocks chosen from the data (Politis and White, 2004) does not see such regimes: it chooses blocks of three days and
    rejects in 15 %.
    """
    if overlap < 1:
        raise ValueError(f"overlap {overlap} is below 1")
    if n < MIN_OVERLAPS * overlap or n < 3:
        return 0
    return max(2, int(0.3 * (n / overlap) ** (2.0 / 3.0)))


def cosine_projections(x: ArrayLike, overlap: int, terms: int | None = None) -> FloatArray:
    """Projections of a series on its lowest cosines, from which the long-run variance is estimated.

    Parameters
    ----------
    x : float (n,) or (n, K)
        Series in time order, no NaN; means are removed.
    overlap : int
        Origins whose outcomes overlap, itself included.
    terms : int, optional
        Number of cosines, B; `cosine_terms` if left out.

    Returns
    -------
    float64 (B, ...)
        Each row is, asymptotically, an independent normal draw with the long-run (co)variance of `x`. Lazarus,
        Lewis, Stock and Watson (2018), JBES 36(4), equation (5).
    """
    x = np.asarray(x, dtype=np.float64)
    terms = cosine_terms(len(x), overlap) if terms is None else terms
    centred = x - x.mean(axis=0, keepdims=True) if len(x) else x
    if terms == 0:
        return np.empty((0, *x.shape[1:]))
    return np.asarray(fft.dct(centred, type=2, norm="ortho", axis=0)[1 : terms + 1], dtype=np.float64)


def long_run_variance(x: ArrayLike, overlap: int, terms: int | None = None) -> float:
    """Long-run variance of a series: n times the variance of its mean.

    From `terms` cosines, `cosine_terms` if left out. Never negative. NaN observations are dropped, and the rest
    treated as consecutive. NaN with fewer than `MIN_OVERLAPS` blocks; 0 for a constant.
    """
    x = _finite(x)
    projections = cosine_projections(x, overlap, terms)
    if not len(projections):
        return float("nan")
    return 0.0 if _is_constant(x) else float(np.mean(projections**2))


def mean_test(x: ArrayLike, overlap: int, terms: int | None = None) -> MeanTest:
    """Test whether a serially correlated series has mean zero.

    Two-sided Student t with as many degrees of freedom as cosine terms (Lazarus et al., 2018); dependence: any short
    memory, overlap in particular; NaN: dropped. A constant series, or one shorter than `MIN_OVERLAPS` times
    the overlap, has a NaN statistic and p-value.

    Parameters
    ----------
    x : float (n,)
        Series in time order.
    overlap : int
        Origins whose outcomes overlap, itself included; 1 for none.
    terms : int, optional
        Cosine terms; `cosine_terms` if left out, `regime_cosine_terms` where the mean may switch with regimes.
    """
    x = _finite(x)
    n = len(x)
    mean = float(x.mean()) if n else float("nan")
    terms = cosine_terms(n, overlap) if terms is None else terms
    degrees = float(terms)
    variance = long_run_variance(x, overlap, terms)
    if not variance > 0.0:
        return MeanTest(mean, 0.0 if variance == 0.0 else float("nan"), float("nan"), float("nan"), degrees, n)
    standard_error = float(np.sqrt(variance / n))
    statistic = mean / standard_error
    return MeanTest(mean, standard_error, statistic, float(2.0 * stats.t.sf(abs(statistic), degrees)), degrees, n)


def diebold_mariano(
    loss: ArrayLike, reference: ArrayLike, overlap: int, method: Literal["cosine", "hln"] = "cosine"
) -> MeanTest:
    """Test whether two forecasters have the same expected loss.

    Parameters
    ----------
    loss, reference : float (n,)
        Losses at the same origins, in time order. A negative mean of the test means that `loss` is
        smaller.
    overlap : int
        Origins whose outcomes overlap, itself included: ``ceil(step / stride)``.
    method : {"cosine", "hln"}
        ``cosine``: `mean_test` of the difference, the fixed-smoothing version of the test that Coroneo and
        Iacone (2020), JAE 35(4), recommend. ``hln``: the original with a rectangular window over ``overlap -
        1`` lags (Diebold and Mariano, 1995), the small-sample factor and Student t(n - 1) of Harvey,
        Leybourne and Newbold (1997), and a Bartlett window where the rectangular variance is not positive
        (Harvey, Leybourne and Whitehouse, 2017). It rejects too often when n is below about 25 overlaps.

    Returns
    -------
    MeanTest
        Two-sided; origins where either loss is NaN are dropped; identical losses give NaN.
    """
    difference = np.asarray(loss, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if difference.ndim != 1:
        raise ValueError(f"losses have one dimension, not shape {difference.shape}")
    if method == "cosine":
        return mean_test(difference, overlap)
    if method != "hln":
        raise ValueError(f"method '{method}' is neither 'cosine' nor 'hln'")
    return _harvey_leybourne_newbold(_finite(difference), overlap)


def bootstrap_widening(n: int, block: int, correlation: float = 0.0) -> float:
    """Factor by which a stationary bootstrap of a mean is too narrow in a short record.

    With n rows, mean block b and correlation r of neighbours (none beyond), the expected bootstrap variance is a
    share ``(1 + 2 r (1 - 1/b)) / (1 + 2 r) - (2 b - 1) / n`` of the true one: block boundaries break some of the
    correlation, and deviations are from the sample's mean (Politis and Romano, 1994, lemma 1). As it is estimated
    from about n / b blocks, it is also widened by the ratio of Student's to the normal 97.5 % quantile. Both are the
    counterparts of the Harvey-Leybourne-Newbold factor and of their Student t; without them model confidence sets of
    a 30-day record reject equal models at 5 % in up to 28 % of simulations, with them in 7 %.

    Raises
    ------
    ValueError
        If the blocks are too long for the record.
    """
    share = (1.0 + 2.0 * correlation * (1.0 - 1.0 / block)) / (1.0 + 2.0 * correlation) - (2.0 * block - 1.0) / n
    if block < 1 or share <= 0.0:
        raise ValueError(f"blocks of {block} do not fit a record of {n}")
    return float(stats.t.isf(0.025, n / block) / stats.norm.isf(0.025) / np.sqrt(share))


def _harvey_leybourne_newbold(x: FloatArray, overlap: int) -> MeanTest:
    n, degrees = len(x), float(max(len(x) - 1, 0))
    mean = float(x.mean()) if n else float("nan")
    nothing = MeanTest(mean, float("nan"), float("nan"), float("nan"), degrees, n)
    if n < MIN_OVERLAPS * overlap or n < 3 or _is_constant(x):
        return nothing
    centred = x - mean
    covariances = np.array([centred[: n - lag] @ centred[lag:] for lag in range(overlap)]) / n
    variance = covariances[0] + 2.0 * covariances[1:].sum()
    if variance <= 0.0:
        weights = 1.0 - np.arange(1, overlap) / overlap
        variance = covariances[0] + 2.0 * (weights @ covariances[1:])
    standard_error = float(np.sqrt(variance / n))
    factor = np.sqrt((n + 1 - 2 * overlap + overlap * (overlap - 1) / n) / n)
    statistic = float(factor * mean / standard_error)
    return MeanTest(mean, standard_error, statistic, float(2.0 * stats.t.sf(abs(statistic), degrees)), degrees, n)


def _finite(x: ArrayLike) -> FloatArray:
    x = np.asarray(x, dtype=np.float64)
    return np.asarray(x[np.isfinite(x)])


def _is_constant(x: FloatArray) -> bool:
    """Whether the spread is no more than the rounding of the values themselves."""
    return len(x) == 0 or bool(np.ptp(x) <= 8.0 * np.finfo(np.float64).eps * np.abs(x).max())
