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

_CHUNK_BYTES = 2**25


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


def energy_score(samples: ArrayLike, outcome: ArrayLike, kind: PathKind) -> FloatArray:
    """Energy score of whole paths by the estimator that is right for the kind of paths, as `crps`.

    Gneiting and Raftery (2007), equation 22. NaN where anything of an origin is NaN.

    Parameters
    ----------
    samples : float (B, S, D)
        Paths as vectors in one unit.
    outcome : float (B, D)
    kind : {"independent", "dependent"}

    Returns
    -------
    float64 (B,)
    """
    if _checked(kind) == "independent":
        return distribution.energy_score(samples, outcome)
    from scoringrules import es_ensemble

    samples, outcome = np.asarray(samples, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    score = es_ensemble(outcome, samples, estimator="nrg", backend=distribution._backend())
    return np.where(np.isnan(outcome).any(axis=-1) | np.isnan(samples).any(axis=(1, 2)), np.nan, score)


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


def crps_noise(samples: ArrayLike, outcome: ArrayLike) -> FloatArray:
    """Variance of the fair CRPS of each origin that comes from having drawn S independent paths: a jackknife over
    paths.

    ``(S - 1) / S`` times the sum of squared deviations of the S scores with one path left out (Efron and Stein, 1981:
    upwards biased, by a share of the order 1 / S). Only for independent paths; for dependent ones, forecast with
    several seeds. NaN where anything is NaN, or with fewer than three paths.

    Parameters
    ----------
    samples : float (..., S)
    outcome : float (...)

    Returns
    -------
    float64 (...)
        In the squared unit of the outcome.
    """
    x = np.sort(np.asarray(samples, dtype=np.float64), axis=-1)
    y, n = np.asarray(outcome, dtype=np.float64), x.shape[-1]
    if n < 3:
        return np.full(y.shape, np.nan)
    total = np.cumsum(x, axis=-1)
    rank = np.arange(n)
    # Sum over j of |x_i - x_j|, from sorted x.
    distance = (2.0 * rank - n + 2.0) * x - 2.0 * total + total[..., -1:]
    return _jackknife(np.abs(x - y[..., None]), distance)


def energy_noise(samples: ArrayLike, outcome: ArrayLike) -> FloatArray:
    """Variance of the fair energy score of each origin that comes from having drawn S independent paths, as
    `crps_noise`.

    Parameters
    ----------
    samples : float (B, S, D)
    outcome : float (B, D)

    Returns
    -------
    float64 (B,)
    """
    x, y = np.asarray(samples, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    n = x.shape[1]
    if n < 3:
        return np.full(len(x), np.nan)
    out = np.empty(len(x))
    step = max(1, _CHUNK_BYTES // (8 * n * n * x.shape[2]))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        between = np.linalg.norm(x[rows, :, None, :] - x[rows, None, :, :], axis=-1).sum(axis=-1)
        out[rows] = _jackknife(np.linalg.norm(x[rows] - y[rows, None, :], axis=-1), between)
    return out


def path_noise_share(noise: ArrayLike, reference_noise: ArrayLike, standard_error: float) -> float:
    """Share of the variance of a mean loss difference that is Monte-Carlo noise of the paths.

    ``sum (v_i + w_i) / n^2`` over the squared standard error: paths of different origins and forecasters are drawn
    independently. Above 10 %, more paths would sharpen the comparison. NaN origins are left out.

    Parameters
    ----------
    noise, reference_noise : float (n,)
        Of `crps_noise` or `energy_noise`, per origin; zeros for a closed form.
    standard_error : float
        Of the mean difference (`inference.MeanTest.standard_error`).

    Returns
    -------
    float
        In [0, 1] but for estimation error; NaN without origins or a positive standard error.
    """
    both = np.asarray(noise, dtype=np.float64) + np.asarray(reference_noise, dtype=np.float64)
    both = both[np.isfinite(both)]
    if len(both) == 0 or not standard_error > 0.0:
        return float("nan")
    return float(both.mean() / len(both) / standard_error**2)


def _checked(kind: str) -> str:
    if kind not in get_args(PathKind):
        raise ValueError(f"kind of paths '{kind}' is not among {get_args(PathKind)}")
    return kind


def _jackknife(to_outcome: FloatArray, between: FloatArray) -> FloatArray:
    """Jackknife variance of a fair score from each path's distance to the outcome, and summed to the others."""
    n = to_outcome.shape[-1]
    first = (to_outcome.sum(axis=-1, keepdims=True) - to_outcome) / (n - 1.0)
    pairs = between.sum(axis=-1, keepdims=True) - 2.0 * between
    without = first - pairs / (2.0 * (n - 1.0) * (n - 2.0))
    return np.asarray((n - 1.0) * without.var(axis=-1))
