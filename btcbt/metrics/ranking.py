"""How well forecasts rank symbols at each origin: correlation, spread and direction across symbols.

Each measure is a sum over symbols of a part of the forecast times a part of the outcome, ``c_t + sum_k a_tk b_tk`` with
the a of an origin summing to zero. So a shuffle of symbols shuffles the a alone, and its expectation is c_t.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from btcbt.metrics.accuracy import nan_mean
from btcbt.records import FloatArray, IntArray

MEASURES = ("ic", "rank_ic", "spread_bps", "hit_rate")
"""Pearson and Spearman correlation; return of the top less that of the bottom; share of right sides of the mean."""
FEWEST_SYMBOLS = 3
"""Origins with fewer symbols are left out: two are in order or not."""


class Rankings(NamedTuple):
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

    def used(self) -> Rankings:
        """These without the origins that are left out."""
        rows = np.isfinite(self.chance[0])
        return self._replace(
            forecast=self.forecast[:, rows],
            outcome=self.outcome[:, rows],
            chance=self.chance[:, rows],
            valid=self.valid[rows],
        )


def rank_symbols(forecast: ArrayLike, outcome: ArrayLike, *, share: float = 0.2) -> Rankings:
    """The measures of each origin: ``rank_symbols(f, y).values[1]`` is RankIC over time.

    NaN: a symbol counts at an origin where both are finite. An origin is left out if fewer than `FEWEST_SYMBOLS` count,
    or if all forecasts or all outcomes are the same. Equal forecasts share their ranks, and their places in the top and
    bottom; a symbol at the mean is half a hit.

    Parameters
    ----------
    forecast : float (n, K)
        Forecast return of each symbol over the step, by origin; only its order or size within an origin matters, not
        its unit.
    outcome : float (n, K)
        Realised return over the same step, bps.
    share : float
        Share of symbols in the top and in the bottom of the spread, in (0, 0.5]; at least one symbol each.

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
    return Rankings(a, b, chance, valid, int(np.count_nonzero(~enough)), int(np.count_nonzero(enough & ~used)))


def _differ(x: FloatArray) -> NDArray[np.bool_]:
    """Whether the finite entries of a row differ by more than rounding."""
    if x.shape[1] == 0:
        return np.zeros(len(x), dtype=np.bool_)
    return np.asarray(np.fmax.reduce(x, axis=1) - np.fmin.reduce(x, axis=1) > _rounding(x))


def _rounding(x: FloatArray) -> FloatArray:
    """Differences between the entries of a row that are no more than the rounding of their values."""
    return np.asarray(8.0 * np.finfo(np.float64).eps * np.fmax.reduce(np.abs(x), axis=1))


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
    distance = x - nan_mean(x, 1)[:, None]
    return np.where(np.abs(distance) <= _rounding(x)[:, None], 0.0, np.sign(distance))


def _tails(x: FloatArray, counts: IntArray, share: float) -> FloatArray:
    """Weights: one in all on the top `share` of a row and minus one on the bottom; ties share their places."""
    places = np.maximum(1, np.floor(share * counts + 1e-9))
    lowest, highest = _ranks(x, "min"), _ranks(x, "max")
    tied = highest - lowest + 1.0
    top = np.clip((places - (counts - highest)) / tied, 0.0, 1.0)
    bottom = np.clip((places - (lowest - 1.0)) / tied, 0.0, 1.0)
    return np.asarray((top - bottom) / places)
