"""Rows of the score table on how every forecaster ranks the symbols of a panel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from btcbt.metrics.cross_section import cross_section
from btcbt.metrics.multiplicity import adjusted_tests
from btcbt.metrics.ranking import MEASURES
from btcbt.metrics.score import Row, Score
from btcbt.records import CHANNELS, CLOSE, FloatArray

CROSS_SECTION = "cross_section"
"""Family of the scores, part of their dotted key, and the group of their rows."""

_LAZARUS = "Lazarus, Lewis, Stock and Watson (2018), JBES 36; terms: inference.regime_cosine_terms"
_ROMANO = "Romano and Wolf (2005), Econometrica 73; (2016), SPL 113; Holm (1979) where rows are not shared"
_CHUNG = "Chung and Romano (2013), AoS 41; Phipson and Smyth (2010), SAGMB 9"
_FORMULAS = {
    "ic": ("", "Pearson correlation across symbols of forecast and realised returns at an origin"),
    "rank_ic": ("", "Spearman rank correlation across symbols of forecast and realised returns at an origin"),
    "spread_bps": (
        "bps",
        "return of the fifth of symbols forecast highest less that of the fifth forecast lowest",
    ),
    "hit_rate": ("share", "share of symbols on the forecast side of the mean of all symbols at an origin"),
}
_NUMBERS = ("mean", "low", "high", "p_value", "chance", "positive", "placebo_p", "placebo_low", "placebo_high")


def _of_measure(measure: str) -> tuple[Score, ...]:
    unit, what = _FORMULAS[measure]
    mean = f"mean over origins of the {what}"
    entries = (
        ("mean", unit, mean, ""),
        ("low", unit, f"lower end of its 95 % interval; {mean}", _LAZARUS),
        ("high", unit, f"upper end of its 95 % interval; {mean}", _LAZARUS),
        ("p_value", "p-value", "two-sided, of a mean as by chance; overlap and regimes allowed for", _LAZARUS),
        ("adjusted_p", "p-value", "the same, adjusted for all forecasters, steps and measures", _ROMANO),
        ("detectable", unit, "distance from chance that would have been found with a probability of 80 %", _LAZARUS),
        ("chance", unit, "its expectation if the symbols of each origin were shuffled", ""),
        ("positive", "share", "share of origins above chance", ""),
        ("placebo_p", "p-value", "(1 + shuffles of symbols with at least its t statistic) / (1 + shuffles)", _CHUNG),
        ("placebo_low", unit, "2.5 % quantile of the means of the shuffles", ""),
        ("placebo_high", unit, "97.5 % quantile of the means of the shuffles", ""),
    )
    higher = ("mean", "low", "high", "positive")
    return tuple(
        Score(
            name=f"{measure}.{name}",
            family="cross_section",
            unit=unit,
            better="higher" if name in higher else "neither",
            formula=formula,
            source=source,
            absolute=1e-9,
            relative=1e-6,
        )
        for name, unit, formula, source in entries
    )


_COUNTS = {
    "origins": "origins where symbols are ranked",
    "too_few": "origins left out with fewer than three symbols",
    "tied": "origins left out where all forecasts or all outcomes are the same",
    "symbols": "mean number of symbols ranked at an origin",
}
CROSS_SECTION_SCORES: tuple[Score, ...] = (
    *(entry for measure in MEASURES for entry in _of_measure(measure)),
    *(
        Score(name=f"ranked.{name}", family="cross_section", unit="count", formula=formula)
        for name, formula in _COUNTS.items()
    ),
)
"""What is said of each forecaster's ranking at each step."""


def cross_section_rows(
    forecasts: Mapping[str, Mapping[int, FloatArray]],
    outcomes: Mapping[int, FloatArray],
    overlap: int,
    *,
    runs: int = 199,
    seed: int = 0,
) -> Iterator[tuple[str, Row]]:
    """How every forecaster ranks the symbols, at each step.

    Parameters
    ----------
    forecasts : mapping of str to mapping of int to float64 (B, K)
        By forecaster and step: forecast return of each symbol, by origin in time order; NaN where it is not eligible.
    outcomes : mapping of int to float64 (B, K)
        By step: realised log return of each symbol, bps; NaN where it is not known.
    overlap : int
        Origins whose outcomes overlap at the last step, itself included.
    runs, seed : int
        Of the placebos (`cross_section.cross_section`).

    Yields
    ------
    str, Row
        The forecaster, and a row of the close, the step and the group ``cross_section``; metric ``rank_ic.mean`` and
        the like.
    """
    found = {
        (name, step): cross_section(forecast, outcomes[step], overlap, runs=runs, seed=seed)
        for name, own in forecasts.items()
        for step, forecast in own.items()
    }
    if not found:
        return
    excess = [one.measures[measure].series for one in found.values() for measure in MEASURES]
    adjusted = iter(adjusted_tests(np.column_stack(excess), overlap).adjusted)
    for (name, step), one in found.items():
        numbers = {f"ranked.{count}": float(getattr(one, count)) for count in _COUNTS}
        for measure in MEASURES:
            of = one.measures[measure]
            numbers |= {f"{measure}.{name}": getattr(of, name) for name in _NUMBERS}
            numbers |= {f"{measure}.detectable": of.smallest_detectable, f"{measure}.adjusted_p": float(next(adjusted))}
        for metric, value in numbers.items():
            yield name, Row(CHANNELS[CLOSE], step, CROSS_SECTION, metric, value)
