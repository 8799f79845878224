"""CRPS and energy score that are right for how the paths of an origin were made.

Paths drawn independently are a sample of a forecaster's distribution F, and the fair scores of `distribution` estimate
without bias what F would score. Paths that depend on each other (centred on their own median, quantiles of a
distribution, systematic or antithetic sampling, a shuffle) are spread more evenly than a sample. The fair correction
for few paths is then too large and the score too small: by 1.3 to 3.4 % at 30 paths.

**The rule.** Each forecaster is scored by the estimator of its own kind: `independent` by the fair one, `dependent` as
the distribution that the paths are, every path with weight 1/S. Then no way of making paths out of the right
distribution can win, as the scores are proper: the fair one of independent paths expects CRPS(F, y), and that of
any other distribution, the ensemble's own among them, expects at least as much where y comes from F (Gneiting and
Raftery, 2007). To score both by the plain estimator would not do: it adds ``E|X - X'| / (2 S)``, 3.3 % at 30 paths,
to independent paths and nearly nothing to S quantiles of the same distribution. `finite_ensemble_cost` states how
much the plain estimator may have added to a dependent ensemble's score; more paths make it smaller.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import ArrayLike

from btcbt.metrics import distribution
from btcbt.records import FloatArray, PathKind


def estimator(kind: PathKind) -> str:
    """Name of the estimator of CRPS and energy score that is right for the kind of paths."""
    return "fair" if _checked(kind) == "independent" else "plain"


def crps(samples: ArrayLike, outcome: ArrayLike, kind: PathKind, *, is_sorted: bool = False) -> FloatArray:
    """Continuous ranked probability score by the estimator that is right for the kind of paths.

    ``E|X - y| - E|X - X'| / 2`` (Gneiting and Raftery, 2007, equation 21): the second mean over pairs of distinct paths
    if they are `independent` (fair; Ferro, 2014), over all S^2 pairs if they are `dependent` (the CRPS of the empirical
    distribution). In the unit of the outcome; smaller is better. NaN where the outcome or any path is NaN.

    Parameters
    ----------
    samples : float (..., S)
        Paths, last axis.
    outcome : float (...)
        What happened.
    kind : {"independent", "dependent"}
    is_sorted : bool
        The samples are in increasing order already.

    Returns
    -------
    float64 (...)
    """
    fair = distribution.crps(samples, outcome, is_sorted=is_sorted)
    if _checked(kind) == "independent":
        return fair
    return np.asarray(fair + finite_ensemble_cost(samples))


def energy_score(
    samples: ArrayLike, outcome: ArrayLike, kind: PathKind, between: FloatArray | None = None
) -> FloatArray:
    """Energy score of whole paths by the estimator that is right for the kind of paths, as `crps`.

    Gneiting and Raftery (2007), equation 22. NaN where anything of an origin is NaN.

    Parameters
    ----------
    samples : float (B, S, D)
        Paths as vectors in one unit.
    outcome : float (B, D)
    kind : {"independent", "dependent"}
    between : float64 (B, S), optional
        As in `distribution.energy_score`.

    Returns
    -------
    float64 (B,)
    """
    between = distribution.summed_distances(samples) if between is None else between
    fair = distribution.energy_score(samples, outcome, between)
    if _checked(kind) == "independent":
        return fair
    # All S^2 pairs instead of the S (S - 1) distinct ones.
    n = np.shape(samples)[1]
    return np.asarray(fair + between.sum(axis=1) / (2.0 * n**2 * max(n - 1, 1)))


def finite_ensemble_cost(samples: ArrayLike) -> FloatArray:
    """Return what the plain CRPS adds to the fair one: mean distance of two distinct paths over twice their number.

    The most that having S paths instead of infinitely many may have cost a dependent ensemble; 0 for one path.

    Parameters
    ----------
    samples : float (..., S)

    Returns
    -------
    float64 (...)
        At least 0, in the unit of the samples; NaN where any is NaN.
    """
    x = np.sort(np.asarray(samples, dtype=np.float64), axis=-1)
    n = x.shape[-1]
    if n == 1:
        return np.where(np.isnan(x[..., 0]), np.nan, 0.0)
    # Sum of |x_i - x_j| over pairs i < j is that of (2 i - n + 1) x_i over sorted x.
    pairs = x @ (2.0 * np.arange(n) - n + 1.0)
    return np.asarray(pairs / (n**2 * (n - 1.0)))


def crps_noise(samples: ArrayLike, outcome: ArrayLike, signs: ArrayLike) -> FloatArray:
    """One draw of the error of the fair CRPS of each origin that comes from having S independent paths.

    ``sum_k r_k (c_k - mean c) sqrt((S - 1) / S)`` with c_k the score without path k and random signs r_k: its variance
    is the jackknife's (Efron and Stein, 1981: upwards biased, by a share of the order 1 / S). Forecasters that draw
    path k from the same uniform numbers have errors in common; given the same signs, so have their draws, and the
    difference of two draws varies as the difference of two scores does (`path_noise_share`). Only for independent
    paths; for dependent ones, forecast with several seeds. NaN where anything is NaN, or with fewer than three paths.

    Parameters
    ----------
    samples : float (..., S)
        Not sorted: path k is last index k.
    outcome : float (...)
    signs : float (..., S)
        1 or -1 with equal probability; the same for all forecasters.

    Returns
    -------
    float64 (...)
        In the unit of the outcome.
    """
    x, y = np.asarray(samples, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    order = np.argsort(x, axis=-1)
    x, n = np.take_along_axis(x, order, axis=-1), x.shape[-1]
    if n < 3:
        return np.full(y.shape, np.nan)
    total = np.cumsum(x, axis=-1)
    rank = np.arange(n)
    # Sum over j of |x_i - x_j|, from sorted x.
    distance = (2.0 * rank - n + 2.0) * x - 2.0 * total + total[..., -1:]
    sorted_signs = np.take_along_axis(np.broadcast_to(signs, x.shape), order, axis=-1)
    return _jackknife(np.abs(x - y[..., None]), distance, sorted_signs)


def energy_noise(
    samples: ArrayLike, outcome: ArrayLike, signs: ArrayLike, between: FloatArray | None = None
) -> FloatArray:
    """One draw of the error of the fair energy score of each origin that comes from having S paths, as `crps_noise`.

    Parameters
    ----------
    samples : float (B, S, D)
    outcome : float (B, D)
    signs : float (B, S)
    between : float64 (B, S), optional
        As in `distribution.energy_score`.

    Returns
    -------
    float64 (B,)
    """
    x, y = np.asarray(samples, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    signs, n = np.asarray(signs, dtype=np.float64), x.shape[1]
    if n < 3:
        return np.full(len(x), np.nan)
    to_outcome = np.linalg.norm(x - y[:, None, :], axis=-1)
    return _jackknife(to_outcome, distribution.summed_distances(x) if between is None else between, signs)


def path_noise_share(noise: ArrayLike, reference_noise: ArrayLike, standard_error: float) -> float:
    """Share of the variance of a mean loss difference that is Monte-Carlo noise of the paths.

    ``sum (v_i - w_i)^2 / n^2`` over the squared standard error: paths of different origins are drawn independently,
    those of two forecasters at one origin may share random numbers. Above 10 %, more paths would sharpen the
    comparison. Known to ``sqrt(2 / n)`` of itself. NaN origins are left out.

    Parameters
    ----------
    noise, reference_noise : float (n,)
        Of `crps_noise` or `energy_noise` with the same signs, per origin; zeros for a closed form.
    standard_error : float
        Of the mean difference (`inference.MeanTest.standard_error`).

    Returns
    -------
    float
        In [0, 1] but for estimation error; NaN without origins or a positive standard error.
    """
    both = np.asarray(noise, dtype=np.float64) - np.asarray(reference_noise, dtype=np.float64)
    both = both[np.isfinite(both)]
    if len(both) == 0 or not standard_error > 0.0:
        return float("nan")
    return float(np.mean(both**2) / len(both) / standard_error**2)


def _checked(kind: str) -> str:
    if kind not in get_args(PathKind):
        raise ValueError(f"kind of paths '{kind}' is not among {get_args(PathKind)}")
    return kind


def _jackknife(to_outcome: FloatArray, between: FloatArray, signs: FloatArray) -> FloatArray:
    """A draw of a fair score's noise from each path's distance to the outcome, and summed to the others."""
    n = to_outcome.shape[-1]
    first = (to_outcome.sum(axis=-1, keepdims=True) - to_outcome) / (n - 1.0)
    pairs = between.sum(axis=-1, keepdims=True) - 2.0 * between
    without = first - pairs / (2.0 * (n - 1.0) * (n - 2.0))
    deviation = without - without.mean(axis=-1, keepdims=True)
    return np.asarray(np.sqrt((n - 1.0) / n) * np.sum(signs * deviation, axis=-1))
