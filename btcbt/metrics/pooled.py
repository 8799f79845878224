"""Two forecasters on a panel of symbols: one difference for all symbols, and one for each.

Coins move together, so five of them hold less than five times the evidence of one. The test here takes the mean over
symbols at each origin first and then treats that series as that of a single symbol: its long-run variance covers
overlap and regimes in time, and whatever dependence there is between symbols, at the same hour or at another. This is
the idea of Driscoll and Kraay (1998), REStat 80(4), with the cosine variance and the Student t of `inference` in the
place of their kernel and normal limit. It is also the test of overall equal predictive ability that allows for strong
dependence between symbols in Akgun, Pirotte, Urga and Yang (2024), IJF 40(1) (their S^(3)), again but for the kernel.
Their clustered hypothesis, that the two are equal for every symbol (C^(3), each symbol a cluster), is tested by the
largest statistic of any symbol (`multiplicity.adjusted_tests`) instead of by a Wald statistic, which would need more
cosine terms than there are symbols; it also says for which symbols.

Losses are in percent of the opponent's mean loss on the same symbol, so that a volatile coin does not decide alone.
Symbols weigh the same within an origin, and origins the same whatever the number of symbols that were listed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from btcbt.metrics.accuracy import nan_mean
from btcbt.metrics.inference import MIN_OVERLAPS, cosine_projections, cosine_terms
from btcbt.metrics.intervals import LossDifference, loss_difference
from btcbt.metrics.multiplicity import AdjustedTests, adjusted_tests
from btcbt.records import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class PooledComparison:
    """How two forecasters' mean losses differ over a panel of K symbols.

    Attributes
    ----------
    pooled : LossDifference
        Over all symbols, in percent of the opponent's mean loss; ``n`` counts origins with at least one symbol.
    symbols : tuple of LossDifference (K,)
        The same of each symbol by itself: the rows of a forest plot. Of a symbol that is not used, NaN.
    tests : AdjustedTests
        The test of each symbol, with p-values adjusted for the number of symbols.
    percent : float64 (K,)
        What losses of each symbol are multiplied by to be in percent; NaN of a symbol that is not used
        (`percent_factors`).
    series : float64 (n,)
        Mean difference of the symbols at each origin, in percent; NaN where there is none.
    effective_symbols : float
        See `effective_symbols`.
    """

    pooled: LossDifference
    symbols: tuple[LossDifference, ...]
    tests: AdjustedTests
    percent: FloatArray
    series: FloatArray
    effective_symbols: float

    @property
    def joint_p(self) -> float:
        """P-value of "no difference on any symbol": the smallest of the adjusted ones; NaN if there is none."""
        return float(np.fmin.reduce(self.tests.adjusted))


def pooled_comparison(
    loss: ArrayLike, reference: ArrayLike, overlap: int, *, level: float = 0.95, power: float = 0.8
) -> PooledComparison:
    """Compare two forecasters on a panel of symbols.

    Two-sided. Dependence: overlap, regimes of days (`inference.regime_cosine_terms`), any between symbols. NaN: a
    symbol counts at the origins where both losses are finite, and an origin where any symbol does. The opponent's mean
    loss on each symbol is taken as known. With one symbol it is `intervals.loss_difference` in percent.

    Parameters
    ----------
    loss, reference : float (n, K)
        Losses by origin, in time order, and symbol; NaN where a symbol was not eligible or not scored.
    overlap : int
        Origins whose outcomes overlap, itself included, of the longest horizon in the table.
    level, power : float
        Of the intervals, and of the smallest detectable difference.

    Raises
    ------
    ValueError
        If the losses are not two tables of one shape with at least one symbol.

    References
    ----------
    Driscoll and Kraay (1998), REStat 80(4); Akgun, Pirotte, Urga and Yang (2024), IJF 40(1).
    """
    percent = percent_factors(loss, reference, overlap)
    ours, theirs = (percent * np.asarray(x, dtype=np.float64) for x in (loss, reference))
    known = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = np.where(known, ours, np.nan), np.where(known, theirs, np.nan)
    pooled, *symbols = (
        loss_difference(a, b, overlap, level=level, power=power)
        for a, b in [(nan_mean(ours, 1), nan_mean(theirs, 1)), *zip(ours.T, theirs.T, strict=True)]
    )
    difference = ours - theirs
    tests = adjusted_tests(difference, overlap)
    effective = effective_symbols(difference, overlap)
    return PooledComparison(pooled, tuple(symbols), tests, percent, nan_mean(difference, 1), effective)


def percent_factors(loss: ArrayLike, reference: ArrayLike, overlap: int) -> FloatArray:
    """What losses of each symbol are multiplied by, to be in percent of the symbol's mean reference loss.

    Parameters
    ----------
    loss, reference : float (n, K)
        By origin and symbol.
    overlap : int
        Origins whose outcomes overlap, itself included.

    Returns
    -------
    float64 (K,)
        100 over the mean of the reference losses at origins where both are finite. NaN for a symbol with fewer such
        origins than `inference.MIN_OVERLAPS` overlaps, as its mean loss is hardly known, or a mean that is not
        positive.
    """
    a, b = np.asarray(loss, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or a.shape[1] == 0:
        raise ValueError(f"loss {a.shape} and reference {b.shape} are not two tables (n, K) of one shape, K at least 1")
    both = np.isfinite(a) & np.isfinite(b)
    mean = nan_mean(np.where(both, b, np.nan))
    usable = (both.sum(axis=0) >= MIN_OVERLAPS * overlap) & (mean > 0.0)
    return np.asarray(np.divide(100.0, mean, out=np.full(len(mean), np.nan), where=usable), dtype=np.float64)


def effective_symbols(difference: ArrayLike, overlap: int) -> float:
    """How many independent symbols would know the mean difference as well as these do.

    ``n_h sum_i Omega(e_i / n_t) / Omega(sum_i e_i / n_t)``, with e_i the difference of symbol i less its mean (0 where
    it is not known), n_t the number of symbols at each origin, n_h its harmonic mean, and Omega the long-run variance.
    In a balanced panel that is the mean variance of the symbols over the variance of their mean: 1 if all move as one,
    K if they are independent. Clipped to 1 .. n_h. A test that took symbols for independent would have a standard
    error too small by a factor of about ``sqrt(effective / n_h)``. NaN: left out; NaN if there are fewer than four
    overlaps or nothing varies.

    Parameters
    ----------
    difference : float (n, K)
        Loss less reference loss by origin, in time order, and symbol.
    overlap : int
        Origins whose outcomes overlap, itself included.
    """
    d = np.asarray(difference, dtype=np.float64)
    known = np.isfinite(d)
    rows = known.any(axis=1)
    d, known = d[rows], known[rows]
    count = known.sum(axis=1)
    shares = np.where(known, d - nan_mean(d), 0.0) / count[:, None]
    # A ratio of variances takes all terms below the frequency where the overlap falls off, as correlations do in
    # `multiplicity`: the few terms of a test would make it noisy.
    parts = cosine_projections(shares, overlap, cosine_terms(len(d), overlap))
    together = float(np.sum(parts.sum(axis=1) ** 2))
    separate = float(np.sum(parts**2))
    if not separate > 0.0:
        return float("nan")
    harmonic = float(len(count) / np.sum(1.0 / count))
    return min(harmonic, max(1.0, harmonic * separate / together)) if together > 0.0 else harmonic
