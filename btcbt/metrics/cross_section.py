"""Does a forecaster rank symbols? Correlation, spread and direction across symbols at each origin.

Ranking cancels the factor that all coins share. At each origin the forecast returns of the symbols are compared with
what their returns turned out to be, by the measures of `ranking`; their means over origins are tested with the
long-run variance that allows for overlap and regimes, and against placebos that shuffle symbols.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from btcbt.metrics.accuracy import nan_mean
from btcbt.metrics.inference import mean_test, regime_cosine_terms
from btcbt.metrics.intervals import smallest_detectable
from btcbt.metrics.placebos import rank_p_value
from btcbt.metrics.ranking import MEASURES, Rankings, rank_symbols
from btcbt.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class RankingMeasure:
    """Mean of one measure over origins.

    Attributes
    ----------
    mean, low, high : float
        Mean over origins and the ends of its interval.
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
    series : float64 (n,)
        The measure less chance at each origin; NaN where it is left out.
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
    series: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class CrossSection:
    """Outcome of `cross_section`.

    Attributes
    ----------
    measures : dict of str to RankingMeasure
        By the names of `ranking.MEASURES`.
    origins : int
        Origins used.
    too_few : int
        Origins left out because fewer than `ranking.FEWEST_SYMBOLS` symbols have both forecast and outcome.
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


def cross_section(
    forecast: ArrayLike,
    outcome: ArrayLike,
    overlap: int,
    *,
    share: float = 0.2,
    runs: int = 199,
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
    forecast, outcome : float (n, K)
        Forecast and realised return (bps) of each symbol over the step, by origin in time order; see `rank_symbols`.
    overlap : int
        Origins whose outcomes overlap, itself included, of the longest horizon in the table.
    share : float
        Of symbols in the top and in the bottom of the spread.
    runs, seed : int
        Of the placebos; a run does not depend on the number of runs.
    level : float
        Of the intervals.
    """
    found = rank_symbols(forecast, outcome, share=share)
    used = found.used()
    values, placebos = found.values, _placebo_runs(used, overlap, runs, seed)
    measures = {
        name: _measure(values[k], found.chance[k], overlap, level, *placebos[:, k]) for k, name in enumerate(MEASURES)
    }
    symbols = float(nan_mean(used.valid.sum(axis=1)))
    return CrossSection(measures, len(used.valid), found.too_few, found.tied, symbols)


def _measure(
    values: FloatArray, chance: FloatArray, overlap: int, level: float, means: FloatArray, statistics: FloatArray
) -> RankingMeasure:
    """Sum up a measure (n,), NaN where an origin is left out, and its placebos (runs,)."""
    terms = regime_cosine_terms(int(np.isfinite(chance).sum()), overlap)
    series = values - chance
    test, mean = mean_test(series, overlap, terms), mean_test(values, overlap, terms)
    low, high = mean.interval(level)
    tails = np.quantile(means, [0.025, 0.975]) if len(means) else np.full(2, np.nan)
    return RankingMeasure(
        mean=mean.mean,
        low=low,
        high=high,
        p_value=test.p_value,
        smallest_detectable=smallest_detectable(test.standard_error, terms, size=1.0 - level),
        chance=float(nan_mean(chance)),
        positive=float(nan_mean(np.where(np.isfinite(series), series > 0.0, np.nan))),
        placebo_p=rank_p_value(test.statistic, statistics),
        placebo_low=float(tails[0]),
        placebo_high=float(tails[1]),
        series=series,
    )


def _placebo_runs(rankings: Rankings, block: int, runs: int, seed: int) -> FloatArray:
    """Means and t statistics, (2, 4, runs), of the measures with shuffled forecasts; all origins are used ones."""
    n = len(rankings.valid)
    terms = regime_cosine_terms(n, block)
    # `inference.cosine_projections` as a matrix: with few rows a product is ten times as fast as a transform.
    cosines = fft.idct(np.eye(terms + 1, n)[1:], type=2, norm="ortho", axis=1) if n else np.empty((0, 0))
    out = np.full((2, len(MEASURES), runs), np.nan)
    natural = np.argsort(~rankings.valid, axis=1, kind="stable")[None]
    outcome = np.take_along_axis(rankings.outcome, natural, axis=2)
    for run in range(runs if n else 0):
        order = _shuffle(rankings.valid, block, (seed, run))
        shuffled = np.take_along_axis(rankings.forecast, order[None], axis=2)
        excess = np.einsum("mnk,mnk->nm", shuffled, outcome)
        variance = np.sum((cosines @ excess) ** 2, axis=0) / max(terms, 1)
        mean = excess.mean(axis=0)
        out[0, :, run] = mean + rankings.chance.mean(axis=1)
        out[1, :, run] = np.divide(mean, np.sqrt(variance / n), out=np.full(len(mean), np.nan), where=variance > 0)
    return out


def _shuffle(valid: NDArray[np.bool_], block: int, key: tuple[int, int]) -> IntArray:
    """The symbols of each origin (n, K) in a random order that is held over a block, those that do not count last."""
    rng = np.random.default_rng(key)
    blocks = (np.arange(len(valid)) + int(rng.integers(block))) // block
    keys = rng.random((int(blocks[-1]) + 1, valid.shape[1]))
    # Sorted once for each stretch of one block where the same symbols count.
    begins = np.r_[True, (np.diff(blocks) > 0) | (valid[1:] != valid[:-1]).any(axis=1)]
    first = np.flatnonzero(begins)
    order = np.argsort(np.where(valid[first], keys[blocks[first]], 2.0), axis=1)
    return np.asarray(order[np.cumsum(begins) - 1])
