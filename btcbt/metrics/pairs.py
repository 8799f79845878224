"""Paired tests of forecasters at the same origins: skill, mean difference and significance.

The losses that are compared are in `LOSSES`, the statistics of each pair in `STATISTICS`; both are part of the score
table. P-values are not adjusted for multiple testing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from btcbt.metrics.comparison import model_confidence_set
from btcbt.metrics.inference import MeanTest, diebold_mariano
from btcbt.metrics.score import ALL, Row, Score
from btcbt.records import CHANNELS, CLOSE, FloatArray

LOSSES = {"crps_bps": "crps_bps", "abs_bps": "mae_bps", "energy_bps": "energy_bps", "qlike": "qlike"}
"""Losses by name, and the score that is the mean of each."""
CONFIDENCE_SET = "confidence_set"
Losses = Mapping[str, Mapping[tuple[str, int], tuple[int, FloatArray]]]
"""By forecaster, the result of `ScoreStream.losses`."""

_DIEBOLD = "Diebold and Mariano (1995), JBES 13; long-run variance: Lazarus et al. (2018), JBES 36"
_HARVEY = "Harvey, Leybourne and Newbold (1997), IJF 13"
STATISTICS: tuple[Score, ...] = (
    Score(
        name="skill",
        family="against",
        better="higher",
        formula="1 - mean loss / mean loss of the other, over origins where both are known",
    ),
    Score(
        name="dm",
        family="against",
        unit="t",
        better="lower",
        formula="Diebold-Mariano statistic, negative if better than the other",
        source=_DIEBOLD,
        relative=1e-6,
    ),
    Score(
        name="dm_p",
        family="against",
        label="p",
        unit="p-value",
        formula="its two-sided p-value, overlap-aware",
        source=_DIEBOLD,
        relative=1e-6,
    ),
    Score(
        name="hln",
        family="against",
        unit="t",
        better="lower",
        formula="the statistic with the correction for small samples",
        source=_HARVEY,
        relative=1e-6,
    ),
    Score(
        name="hln_p",
        family="against",
        unit="p-value",
        formula="its two-sided p-value",
        source=_HARVEY,
        relative=1e-6,
    ),
    Score(
        name="difference",
        family="against",
        unit="that of the loss",
        better="lower",
        formula="mean loss minus that of the other",
        absolute=1e-9,
    ),
    Score(
        name="low",
        family="against",
        unit="that of the loss",
        formula="lower end of the difference's 95 % interval",
        source=_DIEBOLD,
        absolute=1e-9,
    ),
    Score(
        name="high",
        family="against",
        unit="that of the loss",
        formula="upper end of the difference's 95 % interval",
        source=_DIEBOLD,
        absolute=1e-9,
    ),
)
"""The statistics of each loss of a pair."""
SHARED = Score(name="origins", family="against", unit="count", formula="shared origins")
CONFIDENCE = Score(
    name=CONFIDENCE_SET,
    family="confidence_set",
    unit="p-value",
    formula="p-value with which a forecaster stays among those statistically indistinguishable from the best",
    source="Hansen, Lunde and Nason (2011), Econometrica 79",
    relative=1e-6,
)
PAIR_SCORES: tuple[Score, ...] = (*STATISTICS, SHARED, CONFIDENCE)


def pair_rows(
    channel: str, step: int, group: str, loss: str, ours: Any, theirs: Any, overlap: int, *, interval: bool = False
) -> Iterator[Row]:
    """Skill and Diebold-Mariano test of a loss; with `interval` also the mean difference and its 95 % interval.

    Parameters
    ----------
    channel, step, group, loss : str, int, str, str
        Fields of the rows.
    ours, theirs : float (n,)
        Losses at the same origins, in time order; origins where either is NaN are left out.
    overlap : int
        Origins whose outcomes overlap, itself included.
    interval : bool
        Whether to add the mean difference and its interval.
    """
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    both = np.isfinite(ours) & np.isfinite(theirs)
    test = diebold_mariano(ours, theirs, overlap)
    scale = float(theirs[both].mean()) if both.any() else 0.0
    skill = 1.0 - float(ours[both].mean()) / scale if scale > 0.0 else float("nan")
    numbers = {"skill": skill, "dm": test.statistic, "dm_p": test.p_value}
    if interval:
        numbers |= _interval(test)
    yield from (Row(channel, step, group, f"{loss}.{name}", value) for name, value in numbers.items())


def hln_rows(channel: str, step: int, group: str, loss: str, ours: Any, theirs: Any, overlap: int) -> Iterator[Row]:
    """The test of Harvey, Leybourne and Newbold; parameters as in `pair_rows`."""
    test = diebold_mariano(ours, theirs, overlap, "hln")
    yield Row(channel, step, group, f"{loss}.hln", test.statistic)
    yield Row(channel, step, group, f"{loss}.hln_p", test.p_value)


def against(losses: Losses) -> Iterator[tuple[str, Row]]:
    """Paired tests of every forecaster against each of those before it, at the same origins.

    Yields
    ------
    str, Row
        The forecaster, and a row whose group names the other, ``against=OTHER``; statistics as in `pair_rows`.
    """
    for other, name in combinations(losses, 2):
        for (loss, step), (overlap, ours) in losses[name].items():
            theirs, group = losses[other][loss, step][1], f"against={other}"
            for row in pair_rows(CHANNELS[CLOSE], step, group, loss, ours, theirs, overlap, interval=True):
                yield name, row


def confidence_sets(losses: Losses, *, reps: int = 1000, seed: int = 0) -> Iterator[tuple[str, Row]]:
    """Model confidence sets over forecasters at the same origins (`comparison.model_confidence_set`).

    Parameters
    ----------
    losses : mapping
        See `Losses`.
    reps, seed : int
        Of the bootstrap.

    Yields
    ------
    str, Row
        The forecaster, and its p-value; the metric is ``<loss>.confidence_set``.
    """
    for loss, step in next(iter(losses.values())):
        overlap = next(iter(losses.values()))[loss, step][0]
        table = np.column_stack([series[loss, step][1] for series in losses.values()])
        p_values = model_confidence_set(table, list(losses), overlap, reps=reps, seed=seed)
        for name, p_value in p_values.items():
            yield name, Row(CHANNELS[CLOSE], step, ALL, f"{loss}.{CONFIDENCE_SET}", p_value)


def _interval(test: MeanTest) -> dict[str, float]:
    low, high = test.interval()
    return {"difference": test.mean, "low": low, "high": high}
