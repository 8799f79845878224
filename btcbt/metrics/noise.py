"""How far a metric moves by chance, read from the intervals that are stored beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from statistics import median

from btcbt.metrics.score import Score

HEADLINE = ("crps_bps", "energy_bps", "coverage90", "direction", "total_return", "sharpe")
"""Scores that decide a check and that its table lists first, in this order."""
ERROR_UNITS = ("bps", "channel")
"""Units of forecast errors, which move with the CRPS."""
_CRPS = re.compile(r"forecast\.(.+)\.opponent\.crps_bps\.close\.h(\d+)\.low_pct")
_STEP = re.compile(r"\.h(\d+)$")
_ENDS = (
    # Rates: coverage90.close.h6 has coverage90_low.h6.
    (re.compile(r"\.(coverage90|direction)\.close\.(h\d+|all)$"), r".\1_{}.\2"),
    # Differences: opponent. ... .difference_pct has low_pct, against. ... .difference has low.
    (re.compile(r"\.difference(_bps|_pct)?$"), r".{}\1"),
    # Rankings: rank_ic.h24.mean has rank_ic.h24.low.
    (re.compile(r"\.(ic|rank_ic|spread_bps|hit_rate)\.(h\d+)\.mean$"), r".\1.\2.{}"),
    # Accounts: sharpe has sharpe_low.
    (re.compile(r"\.(sharpe|total_return)$"), r".\1_{}"),
)


class StoredNoise:
    """Half the width of the 95 % interval of each metric among the numbers of one run.

    Errors of forecasts without an interval of their own move as much, relative to their size, as the CRPS of the same
    step, whose difference to the opponent has one: the median over forecasters. Pooled ones take the last step.

    Parameters
    ----------
    numbers : mapping of str to float
        Headline numbers by dotted key.
    """

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self._numbers = numbers
        self._crps = _crps_noise(numbers)

    def of(self, metric: str, score: Score) -> float:
        """In the unit of the metric; NaN where no interval is stored."""
        for pattern, ends in _ENDS:
            if pattern.search(metric):
                return self._half(metric, pattern, ends)
        if score.family != "forecast" or score.better != "lower" or score.unit not in ERROR_UNITS or not self._crps:
            return math.nan
        step, last = _STEP.search(metric), max(self._crps)
        share = self._crps.get(int(step[1]) if step else last, self._crps[last])
        return share * abs(self._numbers.get(metric, math.nan))

    def _half(self, metric: str, pattern: re.Pattern[str], ends: str) -> float:
        # Shares of all steps together have no interval of their own: the widest, that of the last step, serves.
        at = f"{metric.removesuffix('all')}h{max(self._crps)}" if metric.endswith(".all") and self._crps else metric
        low, high = (self._numbers.get(pattern.sub(ends.format(end), at), math.nan) for end in ("low", "high"))
        return (high - low) / 2.0


def is_decisive(metric: str, score: Score) -> bool:
    """Whether a metric is one of `HEADLINE`, of the close and not of a group."""
    if score.name not in HEADLINE or ".by_" in metric or ".at_" in metric:
        return False
    return score.family == "strategy" or score.name == "energy_bps" or ".close." in metric


def _crps_noise(numbers: Mapping[str, float]) -> dict[int, float]:
    """Half widths of intervals of CRPS differences by step, as shares of the opponent's CRPS."""
    found: dict[int, list[float]] = {}
    for key, low in numbers.items():
        of = _CRPS.fullmatch(key)
        if of:
            half = (numbers.get(key.removesuffix("low_pct") + "high_pct", math.nan) - low) / 200.0
            if math.isfinite(half):
                found.setdefault(int(of[2]), []).append(half)
    return {step: median(halves) for step, halves in found.items()}
