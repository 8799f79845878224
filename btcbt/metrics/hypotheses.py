"""Evidence on claims that were registered beforehand, valid however often one looks.

The e-value of a claim on forecasts is `eprocess.conditional_e_process`, and its interval, as that of a claim on an
account, `confidence_sequence.latest_interval`.
"""

from __future__ import annotations

import numpy as np

from btcbt.metrics.confidence_sequence import latest_interval
from btcbt.metrics.eprocess import conditional_e_process
from btcbt.metrics.score import Score
from btcbt.records import FloatArray

HYPOTHESIS = "hypothesis"
"""Family of the scores, the first part of their dotted keys, and of their rows' group, ``hypothesis=NAME``."""
SIZE = 0.05
"""Probability of any false alarm of a study, all its hypotheses together."""

_HENZI = "Henzi and Ziegel (2022), Biometrika 109(3), with the correction in 109(4)"
_CHOE = "Choe and Ramdas (2023), OR 72(4); Waudby-Smith et al. (2024), AoS 52(6)"
HYPOTHESIS_SCORES: tuple[Score, ...] = (
    Score(
        name="e_value",
        family="hypothesis",
        better="higher",
        formula="evidence against 'at no hour is the expected loss lower by more than the threshold'",
        source=_HENZI,
        relative=1e-6,
    ),
    Score(
        name="highest_e_value",
        family="hypothesis",
        better="higher",
        formula="highest e_value of all hours so far",
        source=_HENZI,
        relative=1e-6,
    ),
    Score(
        name="rejects",
        family="hypothesis",
        better="higher",
        formula="1 if the null is rejected at 5 % for all hypotheses of the study together (Bonferroni): the highest "
        "e-value reached 20 times their number, or an account's interval lies above the threshold",
    ),
    Score(
        name="difference",
        family="hypothesis",
        unit="bps",
        formula="mean loss minus the opponent's; of an account, mean net return per candle minus the benchmark's",
        absolute=1e-9,
        relative=1e-6,
    ),
    Score(
        name="low",
        family="hypothesis",
        unit="bps",
        formula="lower end of its 95 % confidence sequence",
        source=_CHOE,
        absolute=1e-9,
        relative=1e-6,
    ),
    Score(
        name="high",
        family="hypothesis",
        unit="bps",
        formula="upper end of its 95 % confidence sequence",
        source=_CHOE,
        absolute=1e-9,
        relative=1e-6,
    ),
    Score(name="hours", family="hypothesis", unit="count", formula="origins, or an account's candles, so far"),
)


def forecast_evidence(
    difference: FloatArray, bound: FloatArray, overlap: int, stretch: int, threshold: float, hypotheses: int
) -> dict[str, float]:
    """Evidence that the first forecaster's expected loss is lower by more than a threshold.

    One-sided (the interval two-sided). NaN differences count as no bet, and are left out of the interval.

    Parameters
    ----------
    difference, bound : float64 (n,)
        Loss minus the opponent's in time order, and the most that its size can be, known at the origin.
    overlap : int
        Origins whose outcomes overlap, itself included.
    stretch : int
        The same at the last step: length of the stretches of the interval.
    threshold : float
        At least 0, in the unit of the loss.
    hypotheses : int
        Hypotheses of the study, which share the size of the test.
    """
    numbers = dict.fromkeys(("e_value", "highest_e_value"), 1.0)
    if len(difference):
        values = conditional_e_process(difference + threshold, bound + threshold, overlap).values
        numbers = {"e_value": float(values[-1]), "highest_e_value": float(values.max())}
    rejects = float(numbers["highest_e_value"] >= hypotheses / SIZE)
    return {**numbers, "rejects": rejects, **_interval(difference, stretch)}


def account_evidence(excess: FloatArray, stretch: int, threshold: float, hypotheses: int) -> dict[str, float]:
    """Evidence that the mean of net returns minus a benchmark's (n,) exceeds a threshold; see `forecast_evidence`."""
    lower = latest_interval(excess, stretch, level=1.0 - SIZE / hypotheses)[1]
    return {"rejects": float(lower > threshold), **_interval(excess, stretch)}


def _interval(values: FloatArray, stretch: int) -> dict[str, float]:
    """Mean and interval; NaN ends before there are enough stretches."""
    known = values[np.isfinite(values)]
    mean, low, high = latest_interval(known, stretch)
    ends = (low, high) if np.isfinite(low) else (float("nan"), float("nan"))
    return {"difference": mean, "low": ends[0], "high": ends[1], "hours": float(len(known))}
