"""Confidence sequences: an interval of the mean loss difference after every hour, all of them right at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, stats

from btcbt.metrics.inference import cosine_projections, cosine_terms, regime_cosine_terms
from btcbt.records import FloatArray

MIN_STRETCHES = 90
"""Non-overlapping stretches before the first interval: three months of hours at an overlap of 24."""


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """Intervals over time.

    Attributes
    ----------
    mean, low, high : float64 (n, ...)
        Running mean of what is known, and the ends of its interval; infinite before the first.
    """

    mean: FloatArray
    low: FloatArray
    high: FloatArray

    def excludes(self, value: float = 0.0) -> FloatArray:
        """Whether any interval so far leaves `value` out, 1 or 0 for each record (...)."""
        return np.asarray(((self.low > value) | (self.high < value)).any(axis=0), dtype=np.float64)


def confidence_sequence(
    difference: ArrayLike, overlap: int, *, level: float = 0.95, best_at: int = 180
) -> ConfidenceSequence:
    """Asymptotic confidence sequence of the mean difference of unbounded losses.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Annals of Statistics 52(6): Robbins' normal
    mixture boundary with an estimated variance, as Choe and Ramdas (2023) use for scores without bounds: with n
    origins known, long-run variance w^2 and ``r = rho^2``, the mean plus or minus ``w sqrt(2 (n r + 1) / (n^2 r)
    log(sqrt(n r + 1) / alpha))``. The strong approximation that it rests on holds for series with short memory with
    their long-run variance. That is estimated at the end of each stretch from all complete stretches so far: the
    larger of what `cosine_terms` and `regime_cosine_terms` say, as a look every hour finds the hour at which a
    single estimate is too small by luck. Each is widened by the ratio of Student's to the normal quantile with its
    degrees of freedom. No interval before `MIN_STRETCHES` stretches.

    Two-sided, and each end is one-sided at half the size. The null: the mean is constant (theirs allows it to
    change; then the interval is of the running mean of conditional means). Dependence: short memory, overlap in
    particular. NaN are not allowed: drop them first.

    Parameters
    ----------
    difference : float (n, ...)
        Loss less reference loss in time order; further axes are further records.
    overlap : int
        Origins whose outcomes overlap, itself included.
    level : float
        Confidence that all intervals hold.
    best_at : int
        Stretches after which the boundary is at its tightest.
    """
    x = np.asarray(difference, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("differences have NaN; drop those origins first")
    count = np.arange(1, len(x) + 1, dtype=np.float64).reshape(-1, *(1,) * (x.ndim - 1))
    mean = np.cumsum(x, axis=0) / count
    half = _deviation_so_far(x, overlap, 1.0 - level) * _boundary(count, best_at * overlap, 1.0 - level)
    return ConfidenceSequence(mean, mean - half, mean + half)


def latest_interval(
    difference: ArrayLike, overlap: int, *, level: float = 0.95, best_at: int = 180
) -> tuple[float, float, float]:
    """Mean and ends of the newest interval of `confidence_sequence` of one record (n,), without the earlier ones.

    NaN for the mean of nothing, infinite ends before the first interval.
    """
    x = np.asarray(difference, dtype=np.float64)
    mean = float(x.mean()) if len(x) else float("nan")
    stretches = len(x) // overlap
    if stretches < MIN_STRETCHES:
        return mean, -np.inf, np.inf
    sums = x[: stretches * overlap].reshape(stretches, overlap).sum(axis=1)
    deviations = []
    for rule in (cosine_terms, regime_cosine_terms):
        terms = rule(stretches * overlap, overlap)
        squares = cosine_projections(sums, 1, terms) ** 2 / overlap
        deviations.append(_widening(1.0 - level, terms) * float(np.sqrt(squares.mean())))
    half = max(deviations) * float(_boundary(np.asarray(float(len(x))), best_at * overlap, 1.0 - level))
    return mean, mean - half, mean + half


def _boundary(count: FloatArray, best_at: int, size: float) -> FloatArray:
    """Half-width of the interval after `count` origins, in long-run standard deviations."""
    # The boundary is tightest near best_at: their choice, with the logarithm of a logarithm for Lambert's W.
    surprise = -2.0 * np.log(size)
    rho = (surprise + np.log(1.0 + surprise)) / best_at
    known = count * rho + 1.0
    return np.asarray(np.sqrt(2.0 * known / (count**2 * rho) * np.log(np.sqrt(known) / size)))


def _widening(size: float, terms: int) -> float:
    return float(stats.t.isf(size / 2.0, terms) / stats.norm.isf(size / 2.0))


def _deviation_so_far(x: FloatArray, overlap: int, size: float) -> FloatArray:
    """Root of the long-run variance (n, ...) that each origin knows, widened for how little is known of it."""
    stretches = len(x) // overlap
    sums = x[: stretches * overlap].reshape(stretches, overlap, *x.shape[1:]).sum(axis=1)
    out = np.full(x.shape, np.inf)
    for count in range(MIN_STRETCHES, stretches + 1):
        counts = [rule(count * overlap, overlap) for rule in (cosine_terms, regime_cosine_terms)]
        cosines = fft.dct(np.eye(count), type=2, norm="ortho", axis=0)[1 : max(counts) + 1]
        squares = np.tensordot(cosines, sums[:count], axes=1) ** 2 / overlap
        widened = [_widening(size, terms) * np.sqrt(squares[:terms].mean(axis=0)) for terms in counts]
        out[count * overlap - 1 :] = np.maximum(*widened)
    return out
