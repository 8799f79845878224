"""Direction and correlation of point forecasts with outcomes.

NaN policy of every function: entries where any argument is NaN are dropped; if none is left the result is NaN.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from btcbt.metrics.inference import MeanTest, mean_test
from btcbt.records import FloatArray

Axis = int | tuple[int, ...]


def nan_mean(x: ArrayLike, axis: Axis = 0) -> FloatArray:
    """Mean over entries that are not NaN, in float64; NaN, without a warning, if there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(np.asarray(x), axis=axis, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class DirectionTest:
    """Outcome of `pesaran_timmermann`.

    Attributes
    ----------
    accuracy : float
        Share of correct signs.
    expected : float
        Share expected under independence, given how often forecast and outcome rise.
    statistic : float
        The 1992 statistic, standard normal without serial dependence.
    statistic_overlap : float
        The same covariance of signs over an overlap-aware standard error.
    p_value : float
        One-sided (signs agree more than by chance), of `statistic_overlap`.
    n : int
        Origins with a direction on both sides.
    """

    accuracy: float
    expected: float
    statistic: float
    statistic_overlap: float
    p_value: float
    n: int


def pesaran_timmermann(forecast: ArrayLike, outcome: ArrayLike, overlap: int = 1) -> DirectionTest:
    """Test whether forecast signs carry information about realised signs.

    The statistic of Pesaran and Timmermann (1992, JBES 10, equation 6) takes hits as independent. As
    ``accuracy - expected = 2 cov(sign forecast, sign outcome)``, the version with overlap is the mean test of
    that covariance (`mean_test`), in the spirit of their 2009 paper (JASA 104). One-sided, greater. Changes
    of zero and NaN are left out. NaN if either side never changes its sign.

    Parameters
    ----------
    forecast, outcome : float (n,)
        Forecast and realised changes in time order.
    overlap : int
        Origins whose outcomes overlap, itself included.
    """
    forecast, outcome = _directions(forecast, outcome)
    keep = ~np.isnan(forecast * outcome)
    x, y = (forecast[keep] > 0).astype(np.float64), (outcome[keep] > 0).astype(np.float64)
    n = len(x)
    nan = float("nan")
    if n == 0:
        return DirectionTest(nan, nan, nan, nan, nan, 0)
    px, py = float(x.mean()), float(y.mean())
    accuracy, expected = float(np.mean(x == y)), px * py + (1.0 - px) * (1.0 - py)
    if px in (0.0, 1.0) or py in (0.0, 1.0):
        return DirectionTest(accuracy, expected, nan, nan, nan, n)
    variance = expected * (1.0 - expected) / n
    variance_expected = (
        (2.0 * py - 1.0) ** 2 * px * (1.0 - px) + (2.0 * px - 1.0) ** 2 * py * (1.0 - py)
    ) / n + 4.0 * px * py * (1.0 - px) * (1.0 - py) / n**2
    spread = variance - variance_expected
    statistic = (accuracy - expected) / np.sqrt(spread) if spread > 0.0 else nan
    test = mean_test((x - px) * (y - py), overlap)
    return DirectionTest(accuracy, expected, float(statistic), test.statistic, test.p_greater, n)


def information_coefficient(
    forecast: ArrayLike, outcome: ArrayLike, overlap: int = 1, *, rank: bool = False
) -> MeanTest:
    """Correlation over time of forecast and realised changes, with an overlap-aware t-statistic.

    Parameters
    ----------
    forecast, outcome : float (n,)
        Forecast and realised changes (log returns, say) in time order.
    overlap : int
        Origins whose outcomes overlap, itself included.
    rank : bool
        Spearman's correlation (Pearson's of average ranks) instead of Pearson's.

    Returns
    -------
    MeanTest
        ``mean`` is the coefficient; the statistic is the mean test of the product of the standardised series. It
        tests zero, under which the errors of standardising do not matter: its standard error makes no confidence
        interval far from there. Two-sided; NaN pairs dropped; NaN if either side is constant.
    """
    forecast, outcome = np.asarray(forecast, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    keep = np.isfinite(forecast) & np.isfinite(outcome)
    x, y = forecast[keep], outcome[keep]
    if rank:
        x, y = stats.rankdata(x), stats.rankdata(y)
    zx, zy = _standardised(x), _standardised(y)
    test = mean_test(zx * zy, overlap)
    return MeanTest(test.mean, test.standard_error, test.statistic, test.p_value, test.degrees, len(x))


def _standardised(x: FloatArray) -> FloatArray:
    if len(x) == 0:
        return x
    spread = float(x.std())
    if spread <= 1e-12 * max(float(np.abs(x).max()), 1e-300):
        return np.full_like(x, np.nan)
    return np.asarray((x - x.mean()) / spread)


def _directions(forecast: ArrayLike, outcome: ArrayLike) -> tuple[FloatArray, FloatArray]:
    signs = np.sign(np.asarray(forecast, dtype=np.float64)), np.sign(np.asarray(outcome, dtype=np.float64))
    return np.where(signs[0] == 0.0, np.nan, signs[0]), np.where(signs[1] == 0.0, np.nan, signs[1])
