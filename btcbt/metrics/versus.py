"""Every forecaster against an opponent that was chosen beforehand: how much, how surely, and what could have been seen.

One table of comparisons: the close's CRPS at the steps of `score.comparison_steps`, and the energy score of its path.
Each difference is stated in bps and in percent of the opponent's loss, with its 95 % interval, its p-value adjusted for
every comparison of the table, the smallest difference that these origins could have shown, and the share of its
variance that is noise of the paths. One number of cosine terms, that of the longest overlap, serves all of it, so that
regimes of days that decide which forecaster is better are allowed for at every step (`intervals`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from btcbt.metrics.ensembles import path_noise_share
from btcbt.metrics.intervals import LossDifference, loss_difference
from btcbt.metrics.multiplicity import adjusted_tests
from btcbt.metrics.score import ALL, POOLED, Row, Score
from btcbt.records import CHANNELS, CLOSE, FloatArray

OPPONENT = "opponent"
"""Family of the scores, part of their dotted key, and of their rows' group, ``opponent=NAME``."""
MUCH_NOISE = 0.1
"""Share of path noise above which more paths would sharpen a comparison noticeably."""

_LAZARUS = "Lazarus, Lewis, Stock and Watson (2018), JBES 36; terms: inference.regime_cosine_terms"
_ROMANO = "Romano and Wolf (2005), Econometrica 73; (2016), SPL 113; Holm (1979) where rows are not shared"


class Losses(NamedTuple):
    """A loss of one forecaster.

    Attributes
    ----------
    loss : float64 (B,)
        By origin, in time order.
    noise : float64 (B,)
        A draw of the error that few paths make in it (`ensembles.crps_noise`); NaN if that is not known.
    """

    loss: FloatArray
    noise: FloatArray


def _in_units(name: str, formula: str, **about: object) -> tuple[Score, Score]:
    """The same in bps and in percent of the opponent's mean loss."""
    fields = {"family": "opponent", "source": _LAZARUS, "absolute": 1e-9, "relative": 1e-6} | about
    return (
        Score(name=f"{name}_bps", unit="bps", formula=formula, **fields),  # type: ignore[arg-type]
        Score(name=f"{name}_pct", unit="%", formula=f"{formula}, over the opponent's", **fields),  # type: ignore[arg-type]
    )


OPPONENT_SCORES: tuple[Score, ...] = (
    *_in_units("difference", "mean loss minus the opponent's, origins where both are known", better="lower", source=""),
    *_in_units("low", "lower end of the difference's 95 % interval"),
    *_in_units("high", "upper end of the difference's 95 % interval"),
    *_in_units(
        "detectable", "smallest difference that would have been found with a probability of 80 % by a test at 5 %"
    ),
    Score(
        name="p_value",
        family="opponent",
        unit="p-value",
        formula="two-sided, of no difference, overlap and regimes allowed for",
        source=_LAZARUS,
        relative=1e-6,
    ),
    Score(
        name="adjusted_p",
        family="opponent",
        label="adj. p",
        unit="p-value",
        formula="the same, adjusted for all comparisons of the table",
        source=_ROMANO,
        relative=1e-6,
    ),
    Score(
        name="path_noise",
        family="opponent",
        unit="share",
        better="lower",
        formula="share of the difference's variance that comes from few paths",
        source="jackknife over paths: Efron and Stein (1981), Annals of Statistics 9",
        relative=1e-6,
    ),
    Score(name="comparisons", family="opponent", unit="count", formula="comparisons that p is adjusted for"),
    Score(name="romano_wolf", family="opponent", formula="1 if p is adjusted by Romano and Wolf, 0 if by Holm"),
)
"""What is said of each forecaster and loss beside the opponent."""


def versus(
    losses: Mapping[str, Mapping[tuple[str, int], Losses]], opponent: str, overlap: int
) -> Iterator[tuple[str, Row]]:
    """Compare every forecaster with the opponent.

    Two-sided. Dependence: overlap, regimes of days, any correlation between comparisons. NaN: see `loss_difference` and
    `adjusted_tests`. Percentages take the opponent's mean loss as known.

    Parameters
    ----------
    losses : mapping
        By forecaster, then by loss and step, of the same origins; see `ScoreStream.compared`.
    opponent : str
        One of the forecasters.
    overlap : int
        Origins whose outcomes overlap at the last step, itself included.

    Yields
    ------
    str, Row
        The forecaster, and a row of the group ``opponent=NAME``.
    """
    pairs = [(name, at) for name in losses if name != opponent for at in losses[name]]
    if not pairs:
        return
    theirs = losses[opponent]
    tests, method = paired_differences([(losses[name][at].loss, theirs[at].loss) for name, at in pairs], overlap)
    group, counted = f"{OPPONENT}={opponent}", float(sum(np.isfinite(one.numbers["adjusted_p"]) for one in tests))
    for name in dict.fromkeys(name for name, _ in pairs):
        yield name, Row(ALL, POOLED, group, "comparisons", counted)
        yield name, Row(ALL, POOLED, group, "romano_wolf", float(method == "romano-wolf"))
    for (name, at), one in zip(pairs, tests, strict=True):
        noise = path_noise_share(losses[name][at].noise, theirs[at].noise, one.found.standard_error)
        loss, step = at
        for statistic, value in {**one.numbers, "path_noise": noise}.items():
            yield name, Row(CHANNELS[CLOSE], step, group, f"{loss}.{statistic}", value)


class PairedDifference(NamedTuple):
    """One comparison of a table.

    Attributes
    ----------
    found : LossDifference
        The difference, its standard error and origins.
    numbers : dict of str to float
        Statistics of `OPPONENT_SCORES` in both units, p-value and adjusted p-value.
    """

    found: LossDifference
    numbers: dict[str, float]


def paired_differences(
    pairs: Sequence[tuple[FloatArray, FloatArray]], overlap: int
) -> tuple[list[PairedDifference], Literal["romano-wolf", "holm"]]:
    """Compare losses in pairs, with p-values adjusted for all of them; see `versus`.

    Parameters
    ----------
    pairs : sequence of (float64 (B,), float64 (B,)), at least one
        Losses and reference losses, all at the same origins in time order.
    overlap : int
        Origins whose outcomes overlap at the last step, itself included.

    Returns
    -------
    list of PairedDifference
        One for each pair.
    {"romano-wolf", "holm"}
        How p-values were adjusted.
    """
    tests = adjusted_tests(np.column_stack([loss - reference for loss, reference in pairs]), overlap)
    made = []
    for (loss, reference), p, adjusted in zip(pairs, tests.p_value, tests.adjusted, strict=True):
        found = loss_difference(loss, reference, overlap)
        made.append(PairedDifference(found, _numbers(found) | {"p_value": float(p), "adjusted_p": float(adjusted)}))
    return made, tests.method


def _numbers(found: LossDifference) -> dict[str, float]:
    percent = 100.0 / found.relative_to if found.relative_to > 0.0 else float("nan")
    bps = {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "detectable": found.smallest_detectable,
    }
    return {
        f"{name}_{unit}": value * by for name, value in bps.items() for unit, by in (("bps", 1.0), ("pct", percent))
    }
