"""When one forecaster is better, not only whether: conditional ability, and ability over time.

Equal mean losses over a record can hide a forecaster that wins in calm markets and loses in others. Giacomini and
White (2006) ask whether what is known at the origin foretells the difference of losses; Giacomini and Rossi (2010)
ask whether the difference over a moving window ever leaves zero.

Both have as their null that the difference has mean zero all along, so the long-run variance needs to allow for the
overlap alone: regimes in which a forecaster wins are what the tests look for.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, stats

from btcbt.metrics.inference import cosine_projections, cosine_terms, long_run_variance
from btcbt.records import FloatArray

_NAN = float("nan")
_GRID, _DRAWS, _SEED = 500, 4000, 2010


@dataclass(frozen=True, slots=True)
class ConditionalTest:
    """Outcome of `conditional_ability`.

    Attributes
    ----------
    statistic, p_value : float
        F statistic, and its upper-tail p-value.
    degrees : tuple of float
        Numerator and denominator degrees of freedom.
    coefficients : float64 (q,)
        Least-squares coefficients of the loss difference on the instruments, in the loss's unit per unit of each:
        which condition favours whom. Negative where the first forecaster gains.
    n : int
        Origins used.
    """

    statistic: float
    p_value: float
    degrees: tuple[float, float]
    coefficients: FloatArray
    n: int


def instruments(difference: ArrayLike, volatility: ArrayLike, overlap: int) -> FloatArray:
    """What is known at each origin: a constant, the newest known loss difference, and high volatility.

    Parameters
    ----------
    difference : float (n,)
        Loss less reference loss, in time order, equally spaced.
    volatility : float (n,)
        Of the context, known at the origin.
    overlap : int
        Origins whose outcomes overlap, itself included: the outcome of the origin that many rows earlier is the
        newest that is known.

    Returns
    -------
    float64 (n, 3)
        The constant 1; the difference `overlap` rows earlier in standard deviations; and 1 where volatility is above
        its median over the earlier origins, else 0 (no threshold looks ahead). NaN where nothing is known yet.
    """
    d, v = np.asarray(difference, dtype=np.float64), np.asarray(volatility, dtype=np.float64)
    if d.ndim != 1 or d.shape != v.shape:
        raise ValueError(f"difference {d.shape} and volatility {v.shape} are not two series of one length")
    lagged = np.full(len(d), np.nan)
    lagged[overlap:] = d[: max(len(d) - overlap, 0)]
    spread = float(np.nanstd(d)) if np.isfinite(d).any() else 0.0
    median = _running_median(v)
    high = np.where(np.isnan(v + median), np.nan, (v > median).astype(np.float64))
    return np.column_stack([np.ones(len(d)), lagged / (spread if spread > 0.0 else 1.0), high])


def conditional_ability(difference: ArrayLike, known: ArrayLike, overlap: int) -> ConditionalTest:
    """Test whether anything known at the origin foretells which forecaster loses less.

    Giacomini and White (2006), Econometrica 74(6): the null is that the difference has mean zero whatever is known, so
    that ``Z = h d`` has mean zero; ``n Zbar' Omega^-1 Zbar`` is chi-squared in large samples.
    Omega is the cosine long-run covariance of Z, under which ``(B - q + 1) / (B q)`` times that is F(q, B - q + 1)
    (Sun, 2013, Econometrics Journal 16(1)). Rejects in the upper tail. Dependence: under the null Z is
    correlated over the overlap alone. NaN: rows with any NaN are dropped. NaN where there are too few origins or
    instruments are collinear.

    Parameters
    ----------
    difference : float (n,)
        Loss less reference loss, in time order.
    known : float (n, q)
        Instruments; a constant among them (`instruments`).
    overlap : int
        Origins whose outcomes overlap, itself included.
    """
    d, h = np.asarray(difference, dtype=np.float64), np.asarray(known, dtype=np.float64)
    if d.ndim != 1 or h.ndim != 2 or len(h) != len(d) or h.shape[1] == 0:
        raise ValueError(f"difference {d.shape} and instruments {h.shape} are not (n,) and (n, q)")
    keep = np.isfinite(d) & np.isfinite(h).all(axis=1)
    d, h = d[keep], h[keep]
    (n, q), terms = h.shape, cosine_terms(int(keep.sum()), overlap)
    degrees = (float(q), float(terms - q + 1))
    nothing = ConditionalTest(_NAN, _NAN, degrees, np.full(q, np.nan), n)
    if terms < q + 1 or np.linalg.matrix_rank(h) < q:
        return nothing
    z = h * d[:, None]
    mean, projections = z.mean(axis=0), cosine_projections(z, overlap, terms)
    covariance = projections.T @ projections / terms
    if np.linalg.matrix_rank(covariance) < q:
        return nothing
    wald = float(n * mean @ np.linalg.solve(covariance, mean))
    statistic = wald * degrees[1] / (terms * q)
    coefficients = np.asarray(np.linalg.lstsq(h, d, rcond=None)[0], dtype=np.float64)
    return ConditionalTest(statistic, float(stats.f.sf(statistic, *degrees)), degrees, coefficients, n)


@dataclass(frozen=True, slots=True)
class FluctuationTest:
    """Outcome of `fluctuation`.

    Attributes
    ----------
    path : float64 (n - m + 1,)
        Standardised mean difference over each window of m origins; negative where the first forecaster is better.
    statistic : float
        Largest absolute value of the path.
    critical_value : float
        That it exceeds with probability 5 % if the difference has mean zero throughout.
    p_value : float
        Two-sided.
    window : int
        Origins in a window, m.
    start : int
        First origin of the window where the path is largest in size, counted among those used; -1 if there is none.
    n : int
        Origins used.
    """

    path: FloatArray
    statistic: float
    critical_value: float
    p_value: float
    window: int
    start: int
    n: int


def fluctuation(difference: ArrayLike, overlap: int, share: float = 0.3) -> FluctuationTest:
    """Test whether the difference of losses over a moving window ever leaves zero.

    Giacomini and Rossi (2010), J. Applied Econometrics 25(4): ``m^-1/2`` times the sum of differences over
    the window, over the square root of the long-run variance of the whole record. Two-sided. The null is that the
    mean is zero at every time; the variance is taken as constant. The null distribution is the supremum of
    increments of a Brownian motion, as there, but divided by the spread that the same number of
    cosines would estimate from that Brownian motion, as the long-run variance is estimated here; with many cosines
    it gives their table I. It is simulated (`fluctuation_null`). NaN: dropped, the rest close ranks; NaN with fewer
    than four overlaps, or a window shorter than one.

    Parameters
    ----------
    difference : float (n,)
        Loss less reference loss, in time order.
    overlap : int
        Origins whose outcomes overlap, itself included.
    share : float
        Window as a share of the record, in (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share {share} is not in (0, 1)")
    d = np.asarray(difference, dtype=np.float64)
    d = d[np.isfinite(d)]
    n, window = len(d), round(share * len(d))
    terms = cosine_terms(n, overlap)
    variance = long_run_variance(d, overlap, terms)
    if window < overlap or not variance > 0.0:
        return FluctuationTest(np.empty(0), _NAN, _NAN, _NAN, window, -1, n)
    total = np.concatenate([[0.0], np.cumsum(d)])
    path = (total[window:] - total[:-window]) / np.sqrt(variance * window)
    start = int(np.argmax(np.abs(path)))
    statistic = float(abs(path[start]))
    null = fluctuation_null(round(share, 3), terms)
    p_value = (1.0 + np.count_nonzero(null >= statistic)) / (1.0 + len(null))
    return FluctuationTest(path, statistic, float(np.quantile(null, 0.95)), float(p_value), window, start, n)


@lru_cache(maxsize=32)
def fluctuation_null(share: float, terms: int) -> FloatArray:
    """Draws of the limit of the fluctuation statistic under its null.

    ``sup |W(s + share) - W(s)| / sqrt(share V)`` over s, with W a Brownian motion on [0, 1] in 500 steps and V the
    mean of its `terms` lowest squared cosine projections, as `inference.long_run_variance` would find it; V is 1
    for 0 terms.

    Returns
    -------
    float64 (4000,)
        The same for the same arguments.
    """
    noise = np.random.default_rng(_SEED).standard_normal((_DRAWS, _GRID))
    walk = np.concatenate([np.zeros((_DRAWS, 1)), np.cumsum(noise, axis=1)], axis=1)
    window = max(1, round(share * _GRID))
    largest = np.abs(walk[:, window:] - walk[:, :-window]).max(axis=1) / np.sqrt(window)
    if terms:
        projections = fft.dct(noise, type=2, norm="ortho", axis=1)[:, 1 : terms + 1]
        largest /= np.sqrt(np.mean(projections**2, axis=1))
    return np.asarray(largest)


def _running_median(x: FloatArray) -> FloatArray:
    """Median of all earlier entries that are not NaN; NaN for the first."""
    seen: list[float] = []
    out = np.full(len(x), np.nan)
    for i, value in enumerate(x):
        if seen:
            half = len(seen) // 2
            out[i] = seen[half] if len(seen) % 2 else 0.5 * (seen[half - 1] + seen[half])
        if np.isfinite(value):
            insort(seen, float(value))
    return out
