"""The scores of one forecaster, each with its formula. A new score is an entry here, and a test.

A `Mean` is accumulated batch by batch from the contribution of each origin, step and channel. A `SeriesTest` needs the
whole series of a step and channel. Both are rows of the score table (`btcbt.metrics.table`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from btcbt.metrics import accuracy, distribution, volatility
from btcbt.metrics.inference import MeanTest
from btcbt.metrics.panel import SANITY, LossPanel
from btcbt.metrics.score import EVERYWHERE, GROUPED, Score
from btcbt.records import Float32Array, FloatArray


class PanelStatistics:
    """Errors and other statistics of a panel, (B, H, C) unless stated otherwise, each computed once."""

    def __init__(self, panel: LossPanel) -> None:
        self.panel = panel

    @cached_property
    def naive(self) -> FloatArray:
        """The naive forecast, no change."""
        return np.broadcast_to(self.panel.naive[:, None, :], self.panel.outcome.shape)

    @cached_property
    def error(self) -> FloatArray:
        """Error of the median, which minimises the expected absolute error (Gneiting, 2011, JASA 106)."""
        return np.asarray(self._median.astype(np.float64) - self.panel.outcome)

    @cached_property
    def error_of_mean(self) -> FloatArray:
        """Error of the mean, which minimises the expected squared error."""
        return np.asarray(self.panel.mean.astype(np.float64) - self.panel.outcome)

    @cached_property
    def beside_naive(self) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
        """For median and mean: their error and the naive error, NaN wherever either is, so that ratios are paired."""
        pairs = []
        for error in (self.error, self.error_of_mean):
            ours = np.where(np.isnan(error) | np.isnan(self.naive - self.panel.outcome), np.nan, error)
            pairs.append((ours, np.where(np.isnan(ours), np.nan, self.naive - self.panel.outcome)))
        return pairs[0], pairs[1]

    @cached_property
    def changes(self) -> dict[str, FloatArray]:
        """Forecast and realised changes from the naive forecast, and the median's absolute error, scale-free."""
        naive = self.panel.to_bps(self.naive)
        median, outcome = self.panel.to_bps(self._median), self.panel.to_bps(self.panel.outcome)
        return {
            "median_change": median - naive,
            "mean_change": self.panel.mean_bps - naive,
            "change": outcome - naive,
            "abs_bps": np.abs(median - outcome),
        }

    @cached_property
    def error_bps(self) -> FloatArray:
        """Error of the mean, scale-free."""
        return self.changes["mean_change"] - self.changes["change"]

    @cached_property
    def hit(self) -> FloatArray:
        """Whether the median's change has the sign of the realised one; NaN where either is zero."""
        signs = (self.changes[name] for name in ("median_change", "change"))
        ours, theirs = (np.where(x == 0.0, np.nan, np.sign(x)) for x in signs)
        return np.where(np.isnan(ours * theirs), np.nan, ours == theirs)

    @cached_property
    def pinball(self) -> FloatArray:
        """Pinball losses (B, H, C, Q)."""
        panel = self.panel
        return distribution.pinball_loss(panel.quantiles, panel.outcome[..., None], distribution.PROBABILITIES)

    @cached_property
    def quantiles_bps(self) -> FloatArray:
        """Quantiles (B, H, C, Q), scale-free."""
        return self.panel.to_bps(self.panel.quantiles)

    @cached_property
    def volatility_error(self) -> FloatArray:
        """Forecast minus realised volatility of the close, (B, H), bps."""
        return volatility.volatility_error(self.panel.variance, self.panel.realised)

    @property
    def _median(self) -> Float32Array:
        return self.panel.quantiles[..., distribution.MEDIAN]


def _same(mean: FloatArray) -> FloatArray:
    return mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean(Score):
    """A score that is a mean over origins, or a function of means.

    Attributes
    ----------
    of : callable
        Contributions (B, H, C), (B, H) or (B,), depending on `per`; NaN entries are left out.
    over : callable, optional
        The mean is divided by the mean of this.
    then : callable
        Function applied to the result.
    each_candle : bool
        Whether `of` counts sampled candles, so that the mean is over the S x H candles of each origin.
    """

    of: Callable[[PanelStatistics], FloatArray]
    over: Callable[[PanelStatistics], FloatArray] | None = None
    then: Callable[[FloatArray], FloatArray] = _same
    each_candle: bool = False


class Series:
    """The series of one step and channel, read on demand.

    Parameters
    ----------
    read : callable
        Returns a series (B,) by its name; see `btcbt.metrics.streaming.SERIES`.
    overlap : int
        Origins whose outcomes overlap.
    """

    def __init__(self, read: Callable[[str], FloatArray], overlap: int) -> None:
        self.read, self.overlap = read, overlap

    @cached_property
    def change(self) -> FloatArray:
        """Realised change."""
        return self.read("change")

    @cached_property
    def ic(self) -> MeanTest:
        """Correlation of forecast and realised change."""
        return accuracy.information_coefficient(self._mean_change, self.change, self.overlap)

    @cached_property
    def rank_ic(self) -> MeanTest:
        """The same of their ranks."""
        return accuracy.information_coefficient(self._mean_change, self.change, self.overlap, rank=True)

    @cached_property
    def _mean_change(self) -> FloatArray:
        return self.read("mean_change")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesTest(Score):
    """A score that needs a whole series.

    Attributes
    ----------
    of : callable
        Series of a step and channel to the score.
    """

    of: Callable[[Series], float]


def _direction_p(series: Series) -> float:
    return accuracy.pesaran_timmermann(series.read("median_change"), series.change, series.overlap).p_value


def _width(level: int) -> Callable[[PanelStatistics], FloatArray]:
    def width(batch: PanelStatistics) -> FloatArray:
        lower, upper = distribution.interval(batch.quantiles_bps, level)
        return upper - lower

    return width


def _mean(name: str, of: Callable[[PanelStatistics], FloatArray], **about: object) -> Mean:
    """A score of every channel and step."""
    fields = {"better": "lower", "streams": True, "per": EVERYWHERE} | about
    return Mean(name=name, of=of, **fields)  # type: ignore[arg-type]


_HYNDMAN = "Hyndman and Koehler (2006), IJF 22; scaled out of sample, at the same step"
_CAMPBELL = "Campbell and Thompson (2008), RFS 21, equation 1"
_FAIR = "Ferro (2014), QJRMS 140; Gneiting and Raftery (2007), JASA 102, equation "
_KOENKER = "Koenker and Bassett (1978), Econometrica 46"
_CLOSE_PATH = ("step", *GROUPED)
_BROKEN = {
    "not_finite": "a value is NaN or infinite",
    "not_positive": "a price is not positive",
    "high_too_low": "the high is below open or close",
    "low_too_high": "the low is above open or close",
    "negative_volume": "the volume is negative",
}

MEANS: tuple[Mean, ...] = (
    _mean("mae", lambda b: np.abs(b.error), label="MAE", unit="channel", formula="mean |m - x|"),
    _mean(
        "mape",
        lambda b: 100.0 * np.abs(b.error) / np.where(b.panel.outcome == 0.0, np.nan, np.abs(b.panel.outcome)),
        label="MAPE",
        unit="%",
        formula="100 mean |m - x| / |x|, outcomes of zero left out",
        headline="",
    ),
    _mean(
        "mase",
        lambda b: np.abs(b.beside_naive[0][0]),
        over=lambda b: np.abs(b.beside_naive[0][1]),
        label="MASE",
        formula="mean |m - x| / mean |n - x|",
        source=_HYNDMAN,
    ),
    _mean(
        "rmse",
        lambda b: b.error_of_mean**2,
        then=np.sqrt,
        label="RMSE",
        unit="channel",
        formula="sqrt mean (mu - x)^2",
        headline="",
    ),
    _mean(
        "r2",
        lambda b: b.beside_naive[1][0] ** 2,
        over=lambda b: b.beside_naive[1][1] ** 2,
        then=lambda ratio: 1.0 - ratio,
        label="R2",
        better="higher",
        formula="1 - sum (mu - x)^2 / sum (n - x)^2",
        source=_CAMPBELL,
    ),
    _mean("bias", lambda b: b.error_of_mean, unit="channel", better=0.0, formula="mean (mu - x)", headline=""),
    _mean(
        "mae_bps",
        lambda b: b.changes["abs_bps"],
        label="MAE",
        unit="bps",
        formula="mean |m - x| of log returns; of volume as a multiple of the context's mean",
        headline="all",
    ),
    _mean(
        "rmse_bps",
        lambda b: b.error_bps**2,
        then=np.sqrt,
        label="RMSE",
        unit="bps",
        formula="sqrt mean (mu - x)^2 of log returns",
    ),
    _mean(
        "bias_bps",
        lambda b: b.error_bps,
        label="bias",
        unit="bps",
        better=0.0,
        formula="mean (mu - x) of log returns",
        headline="all",
    ),
    _mean(
        "direction",
        lambda b: b.hit,
        label="sign",
        unit="share",
        better="higher",
        formula="mean [sign(m - n) = sign(x - n)], changes of zero left out",
    ),
    _mean(
        "crps",
        lambda b: b.panel.crps.astype(np.float64),
        label="CRPS",
        unit="channel",
        formula="E|X - x| - E|X - X'| / 2; X, X' distinct if paths are independent (fair), any two if not (plain)",
        source=f"{_FAIR}21",
        headline="close",
    ),
    _mean(
        "crps_bps",
        lambda b: b.panel.crps_bps.astype(np.float64),
        label="CRPS",
        unit="bps",
        formula="CRPS of log returns",
        source=f"{_FAIR}21",
        headline="all",
    ),
    _mean(
        "pinball",
        lambda b: b.pinball.mean(axis=-1),
        unit="channel",
        formula="mean over the quantiles of max(p (x - q), (p - 1) (x - q))",
        source=_KOENKER,
        headline="",
    ),
    *(
        _mean(
            f"pinball_q{1000 * probability:03.0f}",
            lambda b, q=q: b.pinball[..., q],  # type: ignore[misc]
            unit="channel",
            formula=f"pinball loss at p = {probability:g}",
            source=_KOENKER,
            headline="",
        )
        for q, probability in enumerate(distribution.PROBABILITIES)
    ),
    *(
        score
        for i, level in enumerate(distribution.LEVELS)
        for score in (
            _mean(
                f"coverage{level}",
                lambda b, i=i: 100.0 * b.panel.covered[..., i].astype(np.float64),  # type: ignore[misc]
                label=f"in {level}%",
                unit="%",
                better=float(level),
                formula=f"100 mean [x inside the central {level} % interval]",
                headline="all" if level == 90 else "close",
            ),
            _mean(
                f"width{level}_bps",
                _width(level),
                unit="bps",
                formula=f"mean width of the central {level} % interval",
                headline="close" if level == 90 else "",
            ),
        )
    ),
    _mean(
        "scored",
        lambda b: np.isfinite(b.panel.crps).astype(np.float64),
        unit="share",
        better="higher",
        formula="share of forecasts with a finite score",
    ),
    _mean(
        "qlike",
        lambda b: volatility.qlike_loss(b.panel.variance, b.panel.realised),
        label="QLIKE",
        formula="mean (r / f - log(r / f) - 1), f forecast and r realised variance of the close from the origin",
        source="Patton (2011), J. Econometrics 160, equation 7, normalised to 0",
        per=_CLOSE_PATH,
    ),
    _mean(
        "volatility_mae_bps",
        lambda b: np.abs(b.volatility_error),
        unit="bps",
        formula="mean |sqrt f - sqrt r|",
        per=_CLOSE_PATH,
    ),
    _mean(
        "volatility_bias_bps",
        lambda b: b.volatility_error,
        unit="bps",
        better=0.0,
        formula="mean (sqrt f - sqrt r)",
        per=_CLOSE_PATH,
    ),
    _mean(
        "energy_bps",
        lambda b: b.panel.energy_bps,
        label="energy score",
        unit="bps",
        formula="as CRPS, of the vector of the close's log returns at all steps",
        source=f"{_FAIR}22",
        per=GROUPED,
    ),
    *(
        _mean(
            f"insane_{name}",
            lambda b, k=k: b.panel.insane[:, k].astype(np.float64),  # type: ignore[misc]
            each_candle=True,
            unit="share",
            formula=f"share of sampled candles in which {_BROKEN[name]}",
            per=GROUPED,
            headline="all",
        )
        for k, name in enumerate(SANITY)
    ),
)
"""Scores that are accumulated batch by batch."""


def _test(name: str, of: Callable[[Series], float], **about: object) -> SeriesTest:
    fields = {"per": ("channel", "step"), "relative": 1e-6} | about
    return SeriesTest(name=name, of=of, **fields)  # type: ignore[arg-type]


TESTS: tuple[SeriesTest, ...] = (
    _test(
        "pit_p",
        lambda s: distribution.uniformity_test(s.read("pit"), s.overlap).p_value,
        unit="p-value",
        formula="smooth test of four polynomials that F(x) is uniform, on origins whose outcomes do not overlap",
        source="Neyman (1937); randomised PIT: Czado, Gneiting and Held (2009), Biometrics 65",
    ),
    _test(
        "direction_p",
        _direction_p,
        unit="p-value",
        formula="one-sided test that signs agree more often than by chance, overlap-aware",
        source="Pesaran and Timmermann (1992), JBES 10; (2009), JASA 104",
    ),
    _test("ic", lambda s: s.ic.mean, label="IC", better="higher", formula="corr(mu - n, x - n) over origins"),
    _test("ic_t", lambda s: s.ic.statistic, unit="t", better="higher", formula="overlap-aware t of ic", headline=""),
    _test(
        "rank_ic",
        lambda s: s.rank_ic.mean,
        label="rank IC",
        better="higher",
        formula="the same of ranks (Spearman)",
    ),
    _test(
        "rank_ic_t",
        lambda s: s.rank_ic.statistic,
        unit="t",
        better="higher",
        formula="overlap-aware t of rank_ic",
        headline="",
    ),
)
"""Scores of whole series, over all origins only."""

OTHERS: tuple[Score, ...] = (
    Score(name="origins", unit="count", formula="origins that were scored", per=GROUPED, headline="all"),
    *(
        Score(
            name=f"{name}_{end}",
            unit=unit,
            formula=f"{words} end of the 95 % interval of {name} of the close, overlap and regimes allowed for",
            source="Wilson (1927), JASA 22, at the effective number of origins",
            per=("step",),
            relative=1e-6,
        )
        for name, unit in (("direction", "share"), ("coverage90", "%"))
        for end, words in (("low", "lower"), ("high", "upper"))
    ),
    Score(
        name="paths_dependent",
        formula="1 if paths are not drawn independently: CRPS and energy score are then the plain ones, else 0: fair",
        source="Ferro (2014), QJRMS 140",
        headline="all",
    ),
    *(
        Score(
            name=f"coverage{level}_attainable",
            unit="%",
            formula=f"coverage of the {level} % interval if calibrated: at most 100 (S - 1) / (S + 1) with S paths",
            headline="all",
        )
        for level in distribution.LEVELS
    ),
    Score(
        name="up_to_bps",
        unit="bps",
        formula="largest volatility of the context in the regime: a tercile over all origins",
        per=("regime",),
        headline="",
    ),
)
"""Counts and bounds that belong to them."""
FORECAST_SCORES: tuple[Score, ...] = (*MEANS, *TESTS, *OTHERS)
