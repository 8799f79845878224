"""P-values adjusted for every comparison in a table, so that the smallest of many is not taken for a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from btcbt.metrics.inference import cosine_projections, cosine_terms, mean_test, regime_cosine_terms
from btcbt.records import FloatArray, IntArray

_MOST_DROPPED = 0.1  # share of rows that a joint test may lose to NaN before columns are tested on their own


@dataclass(frozen=True, slots=True)
class AdjustedTests:
    """Outcome of `adjusted_tests`, one entry for each comparison.

    Attributes
    ----------
    statistic, p_value : float64 (K,)
        t statistic and two-sided p-value of each comparison on its own.
    adjusted : float64 (K,)
        P-value after adjusting for all K: rejecting where it is at most 5 % makes any false claim at all in at most
        5 % of tables.
    method : {"romano-wolf", "holm"}
        How it was adjusted.
    """

    statistic: FloatArray
    p_value: FloatArray
    adjusted: FloatArray
    method: Literal["romano-wolf", "holm"]


def adjusted_tests(
    differences: ArrayLike, overlap: int, *, terms: int | None = None, reps: int = 4999, seed: int = 0
) -> AdjustedTests:
    """Test every loss difference of a table and adjust the p-values for their number (Romano and Wolf, 2005, 2016).

    The step-down maximum of studentised statistics. Their joint null distribution is that of the fixed-smoothing
    limit (`inference.mean_test`) with the correlations that the differences have, drawn by a Gaussian multiplier
    bootstrap of their cosine projections: each draw weights the projections of all columns by the same normal numbers.
    The number of projections is the smoothing parameter, as the length of blocks is in a block bootstrap; it follows
    the record's length and overlap. Comparisons that say nearly the same cost nearly nothing, other than with Holm
    (1979), which is the fall-back where columns share too few origins for a joint distribution.

    Two-sided. Dependence: overlap, regimes of days, and any correlation between comparisons. NaN: rows with a NaN in
    any testable column are dropped; if that loses more than a tenth of the rows, each column is tested on its own
    rows and Holm's adjustment is used. A column that does not vary has NaN and does not count.

    Parameters
    ----------
    differences : float (n, K)
        Loss less reference loss of each comparison, rows in time order.
    overlap : int
        Origins whose outcomes overlap, itself included, of the longest horizon among the columns.
    terms : int, optional
        Cosine terms of the statistics; `regime_cosine_terms` if left out.
    reps, seed : int
        Of the bootstrap.

    References
    ----------
    Romano and Wolf (2005), Econometrica 73(4); (2016), Statistics and Probability Letters 113, for the
    p-values.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"differences {table.shape} are not (n, K) with K of at least 1")
    statistic, p_value = _column_tests(table, overlap, terms)
    usable = np.flatnonzero(np.isfinite(p_value))
    rows = np.isfinite(table[:, usable]).all(axis=1)
    if len(usable) == 0 or rows.sum() < (1.0 - _MOST_DROPPED) * np.isfinite(table[:, usable]).any(axis=1).sum():
        return AdjustedTests(statistic, p_value, holm(p_value), "holm")
    if not rows.all():
        statistic[usable], p_value[usable] = _column_tests(table[np.ix_(rows, usable)], overlap, terms)
    joint = table[np.ix_(rows, usable)]
    terms = regime_cosine_terms(len(joint), overlap) if terms is None else terms
    null = _joint_null(joint, overlap, terms, reps, seed)
    adjusted = np.full(table.shape[1], np.nan)
    adjusted[usable] = _step_down(np.abs(statistic[usable]), null)
    # A draw may lie a little below the exact t distribution; an adjusted p-value is never below its own.
    return AdjustedTests(statistic, p_value, np.fmax(adjusted, p_value), "romano-wolf")


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's adjusted p-values (1979), valid under any dependence; NaN entries stay NaN and do not count.

    Parameters
    ----------
    p_values : float (K,)

    Returns
    -------
    float64 (K,)
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]  # NaN sort last
    scaled = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0) if len(order) else scaled
    return adjusted


def _column_tests(table: FloatArray, overlap: int, terms: int | None) -> tuple[FloatArray, FloatArray]:
    tests = []
    for column in table.T:
        n = int(np.isfinite(column).sum())
        tests.append(mean_test(column, overlap, regime_cosine_terms(n, overlap) if terms is None else terms))
    return np.array([t.statistic for t in tests]), np.array([t.p_value for t in tests])


def _joint_null(table: FloatArray, overlap: int, terms: int, reps: int, seed: int) -> FloatArray:
    """Draw absolute t statistics (reps, K) as they would be if all means were zero."""
    # Correlations take all projections below the frequency where the overlap falls off: they are less sensitive to
    # regimes than variances are, and a few would make the columns look more alike than they are.
    many = cosine_projections(table, overlap, max(terms, cosine_terms(len(table), overlap)))
    weights = many / np.sqrt(np.sum(many**2, axis=0))
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal((reps, len(weights))) @ weights
    variance = np.zeros_like(mean)
    for _ in range(terms):
        variance += (rng.standard_normal((reps, len(weights))) @ weights) ** 2
    return np.asarray(np.abs(mean) / np.sqrt(variance / terms))


def _step_down(statistic: FloatArray, null: FloatArray) -> FloatArray:
    """Adjusted p-values of absolute statistics (K,) from draws (reps, K): Romano and Wolf (2016)."""
    order: IntArray = np.argsort(-statistic)
    # The largest draw among the columns that are still in at each step.
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]
    p = (1.0 + np.count_nonzero(largest >= statistic[order], axis=0)) / (1.0 + len(null))
    adjusted = np.empty(len(statistic))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted
