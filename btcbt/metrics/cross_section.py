"""Does a forecaster rank symbols? Correlation, spread and direction across symbols at each origin.

Ranking cancels the factor that all coins share. At each origin the forecast returns of the symbols are compared with
what their returns turned out to be, by four measures (`MEASURES`); their means over origins are tested with the
long-run variance that allows for overlap and regimes, and against placebos that shuffle symbols.

Each measure is a sum over symbols of a part of the forecast times a part of the outcome, ``c_t + sum_k a_tk b_tk`` with
the a of an origin summing to zero. So a shuffle of symbols shuffles the a alone, and its expectation is c_t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from btcbt.metrics.accuracy import nan_mean
from btcbt.metrics.inference import cosine_projections, mean_test, regime_cosine_terms
from btcbt.metrics.intervals import smallest_detectable
from btcbt.metrics.placebos import rank_p_value
from btcbt.records import FloatArray, IntArray

MEASURES = ("ic", "rank_ic", "spread", "hit_rate")
"""Pearson and Spearman correlation; return of the top less that of the bottom; share of right sides of the mean."""
FEWEST_SYMBOLS = 3
"""Origins with fewer symbols are left out: two are in order or not."""


@dataclass(frozen=True, slots=True)
class RankingMeasure:
    """Mean of one measure over origins.

    Attributes
    ----------
    mean, low, high : float
        Mean over origins and the ends of its interval; ``spread`` in the unit of the outcomes, ``hit_rate`` in [0, 1].
    p_value : float
        Two-sided, of a mean equal to `chance`.
    smallest_detectable : float
        Distance from chance that a test on this record would have found with a probability of 80 %.
    chance : float
        Expectation if the symbols were shuffled: 0; of ``hit_rate`` about a half, more where most symbols lie on one
        side of the mean in forecasts and outcomes.
    positive : float
        Share of origins where the measure is above chance.
    placebo_p : float
        Share of shuffles, the record itself included, with at least its t statistic; one-sided.
    placebo_low, placebo_high : float
        Ends of the central 95 % of the shuffles' means.
    """

    mean: float
    low: float
    high: float
    p_value: float
    smallest_detectable: float
    chance: float
    positive: float
    placebo_p: float
    placebo_low: float
    placebo_high: float


@dataclass(frozen=True, slots=True)
class CrossSection:
    """Outcome of `cross_section`.

    Attributes
    ----------
    measures : dict of str to RankingMeasure
        By the names of `MEASURES`.
    origins : int
        Origins used.
    too_few : int
        Origins left out because fewer than `FEWEST_SYMBOLS` symbols have both forecast and outcome.
    tied : int
        Origins left out because all forecasts, or all outcomes, are the same: nothing is ranked.
    symbols : float
        Mean number of symbols at the origins used.
    """

    measures: dict[str, RankingMeasure]
    origins: int
    too_few: int
    tied: int
    symbols: float


class Products(NamedTuple):
    """The measures of each origin, as products; see the module.

    Attributes
    ----------
    forecast, outcome : float64 (4, n, K)
        The parts a and b of each measure; 0 where a symbol is not known.
    chance : float64 (4, n)
        c; NaN at origins that are left out.
    valid : bool (n, K)
        Which symbols count.
    too_few, tied : int
        Origins left out.
    """

    forecast: FloatArray
    outcome: FloatArray
    chance: FloatArray
    valid: NDArray[np.bool_]
    too_few: int
    tied: int

    @property
    def values(self) -> FloatArray:
        """Each measure at each origin, (4, n); NaN where an origin is left out."""
        return np.asarray(self.chance + np.einsum("mnk,mnk->mn", self.forecast, self.outcome))


def cross_section(
    forecast: ArrayLike,
    outcome: ArrayLike,
    overlap: int,
    *,
    share: float = 0.2,
    runs: int = 499,
    seed: int = 0,
    level: float = 0.95,
) -> CrossSection:
    """Test whether forecast returns rank the symbols as realised returns do.

    Means of the measures at each origin, with Student intervals from the cosine long-run variance of their series
    (`inference.mean_test`; overlap and regimes of days). Symbols at one origin may depend on each other in any way.
    NaN: a symbol counts at an origin where both are finite; origins are left out as `CrossSection` says.

    Placebos shuffle the forecasts among the symbols of an origin. Each shuffle is held for a block of `overlap`
    origins, so that neighbouring origins agree as much as the real ones; blocks start at another phase in each run;
    among the symbols that count at an origin it is a uniform permutation, the same one while these do not change.
    Compared are t statistics, not means: symbols with larger betas or variances are not exchangeable with others, a
    forecast that follows betas has a noisier IC than its shuffles, and means would then be called significant too
    often, t statistics are not (Chung and Romano, 2013, Annals of Statistics 41(2)).

    Parameters
    ----------
    forecast : float (n, K)
        Forecast return of each symbol over the step, by origin in time order; only its order or size within an origin
        matters, not its unit.
    outcome : float (n, K)
        Realised return over the same step, say in bps.
    overlap : int
        Origins whose outcomes overlap, itself included, of the longest horizon in the table.
    share : float
        Share of symbols in the top and in the bottom of the spread, in (0, 0.5]; at least one symbol each.
    runs, seed : int
        Of the placebos; a run does not depend on the number of runs.
    level : float
        Of the intervals.
    """
    products = ranking_products(forecast, outcome, share=share)
    rows = np.isfinite(products.chance[0])
    kept = Products(
        products.forecast[:, rows],
        products.outcome[:, rows],
        products.chance[:, rows],
        products.valid[rows],
        products.too_few,
        products.tied,
    )
    means, statistics = _placebo_runs(kept, overlap, runs, seed)
    measures = {
        name: _measure(values, chance, overlap, level, placebo_means, placebo_statistics)
        for name, values, chance, placebo_means, placebo_statistics in zip(
            MEASURES, kept.values, kept.chance, means, statistics, strict=True
        )
    }
    symbols = float(kept.valid.sum(axis=1).mean()) if rows.any() else float("nan")
    return CrossSection(measures, int(rows.sum()), products.too_few, products.tied, symbols)


def ranking_products(forecast: ArrayLike, outcome: ArrayLike, *, share: float = 0.2) -> Products:
    """The measures of each origin, before any mean: ``ranking_products(f, y).values`` is RankIC and others over time.

    Parameters are those of `cross_section`.

    Raises
    ------
    ValueError
        If forecasts and outcomes are not two tables of one shape, or the share is not in (0, 0.5].
    """
    f, y = np.asarray(forecast, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if f.ndim != 2 or f.shape != y.shape:
        raise ValueError(f"forecast {f.shape} and outcome {y.shape} are not two tables (n, K) of one shape")
    if not 0.0 < share <= 0.5:
        raise ValueError(f"share {share} is not in (0, 0.5]")
    valid = np.isfinite(f) & np.isfinite(y)
    enough = valid.sum(axis=1) >= FEWEST_SYMBOLS
    f, y = np.where(valid, f, np.nan), np.where(valid, y, np.nan)
    used = enough & _differ(f) & _differ(y)
    f[~used], y[~used] = np.nan, np.nan
    counts = np.maximum(valid.sum(axis=1), 1)[:, None]
    sides = _sides(f), _sides(y)
    mean_sides = [_row_mean(side, counts) for side in sides]
    parts = [
        (_unit(f, counts), _unit(y, counts)),
        (_unit(_ranks(f), counts), _unit(_ranks(y), counts)),
        (_tails(f, counts, share), y),
        ((sides[0] - mean_sides[0]) / (2.0 * counts), sides[1]),
    ]
    chance = np.zeros((len(MEASURES), len(f)))
    chance[3] = 0.5 + 0.5 * (mean_sides[0] * mean_sides[1])[:, 0]
    chance[:, ~used] = np.nan
    a, b = (np.nan_to_num(np.array(side)) for side in zip(*parts, strict=True))
    return Products(a, b, chance, valid, int(np.count_nonzero(~enough)), int(np.count_nonzero(enough & ~used)))


def _measure(
    values: FloatArray, chance: FloatArray, overlap: int, level: float, means: FloatArray, statistics: FloatArray
) -> RankingMeasure:
    """Sum up a measure (n,) and its placebos (runs,)."""
    terms = regime_cosine_terms(len(values), overlap)
    test = mean_test(values - chance, overlap, terms)
    mean = mean_test(values, overlap, terms)
    low, high = mean.interval(level)
    tails = np.quantile(means, [0.025, 0.975]) if len(means) else np.full(2, np.nan)
    return RankingMeasure(
        mean=mean.mean,
        low=low,
        high=high,
        p_value=test.p_value,
        smallest_detectable=smallest_detectable(test.standard_error, terms, size=1.0 - level),
        chance=float(nan_mean(chance)),
        positive=float(nan_mean(values > chance)),
        placebo_p=rank_p_value(test.statistic, statistics),
        placebo_low=float(tails[0]),
        placebo_high=float(tails[1]),
    )


def _placebo_runs(products: Products, block: int, runs: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Means and t statistics (4, runs) of the measures with shuffled forecasts; all origins are used ones."""
    n = len(products.valid)
    terms = regime_cosine_terms(n, block)
    means, statistics = np.full((2, len(MEASURES), runs), np.nan)
    natural = np.argsort(~products.valid, axis=1, kind="stable")[None]
    outcome = np.take_along_axis(products.outcome, natural, axis=2)
    for run in range(runs if n else 0):
        order = _shuffle(products.valid, block, (seed, run))
        shuffled = np.take_along_axis(products.forecast, order[None], axis=2)
        excess = np.einsum("mnk,mnk->nm", shuffled, outcome)
        variance = (cosine_projections(excess, block, terms) ** 2).sum(axis=0) / max(terms, 1)
        mean = excess.mean(axis=0)
        means[:, run] = mean + products.chance.mean(axis=1)
        statistics[:, run] = np.divide(mean, np.sqrt(variance / n), out=np.full(len(mean), np.nan), where=variance > 0)
    return means, statistics


def _shuffle(valid: NDArray[np.bool_], block: int, key: tuple[int, int]) -> IntArray:
    """The symbols of each origin (n, K) in a random order that is held over a block, those that do not count last."""
    rng = np.random.default_rng(key)
    blocks = (np.arange(len(valid)) + int(rng.integers(block))) // block
    keys = rng.random((int(blocks[-1]) + 1, valid.shape[1]))[blocks]
    keys[~valid] = 2.0
    return np.argsort(keys, axis=1)


def _differ(x: FloatArray) -> NDArray[np.bool_]:
    """Whether the finite entries of a row differ by more than rounding."""
    if x.shape[1] == 0:
        return np.zeros(len(x), dtype=np.bool_)
    high, low = np.fmax.reduce(x, axis=1), np.fmin.reduce(x, axis=1)
    rounding = 8.0 * np.finfo(np.float64).eps * np.fmax(np.abs(high), np.abs(low))
    return np.asarray(high - low > rounding)


def _row_mean(x: FloatArray, counts: IntArray) -> FloatArray:
    return np.asarray(np.nansum(x, axis=1, keepdims=True) / counts)


def _unit(x: FloatArray, counts: IntArray) -> FloatArray:
    """Rows less their mean, with a sum of squares of one: the sum of products of two is their correlation."""
    centred = x - _row_mean(x, counts)
    length = np.sqrt(np.nansum(centred**2, axis=1, keepdims=True))
    return np.asarray(np.divide(centred, length, out=np.full_like(centred, np.nan), where=length > 0.0))


def _ranks(x: FloatArray, method: str = "average") -> FloatArray:
    return np.asarray(stats.rankdata(x, method=method, axis=1, nan_policy="omit"), dtype=np.float64)


def _sides(x: FloatArray) -> FloatArray:
    """1 above the mean of the row, -1 below, 0 at it, which counts as half a hit."""
    return np.asarray(np.sign(x - nan_mean(x, 1)[:, None]))


def _tails(x: FloatArray, counts: IntArray, share: float) -> FloatArray:
    """Weights: one in all on the top `share` of a row and minus one on the bottom; ties share their places."""
    places = np.maximum(1, np.floor(share * counts + 1e-9))
    lowest, highest = _ranks(x, "min"), _ranks(x, "max")
    tied = highest - lowest + 1.0
    top = np.clip((places - (counts - highest)) / tied, 0.0, 1.0)
    bottom = np.clip((places - (lowest - 1.0)) / tied, 0.0, 1.0)
    return np.asarray((top - bottom) / places)
