"""When a forecaster is better than the opponent: under which conditions, in which window, in which month.

P-values are not adjusted for multiple testing: the table of `btcbt.metrics.versus` says whether there is a difference,
these say where to look for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from btcbt.metrics.conditional import conditional_ability, fluctuation, instruments
from btcbt.metrics.intervals import loss_difference
from btcbt.metrics.score import POOLED, Row, Score
from btcbt.metrics.versus import OPPONENT, Losses
from btcbt.records import CHANNELS, CLOSE, FloatArray, IntArray

MONTH = ",month="
"""Between opponent and month in the group of a row, ``opponent=har,month=2019-06``."""

_WHITE = "Giacomini and White (2006), Econometrica 74; Sun (2013), Econometrics Journal 16"
_ROSSI = "Giacomini and Rossi (2010), JAE 25; null simulated for the cosine variance"
WHEN_SCORES: tuple[Score, ...] = (
    Score(
        name="conditional_p",
        family="opponent",
        unit="p-value",
        formula="of no difference whatever the newest known difference and the volatility regime; not adjusted",
        source=_WHITE,
        relative=1e-6,
    ),
    Score(
        name="after_loss_bps",
        family="opponent",
        unit="bps",
        formula="expected change of the difference if the newest known one was a standard deviation higher",
        source=_WHITE,
        relative=1e-6,
    ),
    Score(
        name="high_volatility_bps",
        family="opponent",
        unit="bps",
        formula="expected change of the difference where volatility is above its median so far",
        source=_WHITE,
        relative=1e-6,
    ),
    Score(
        name="fluctuation",
        family="opponent",
        unit="t",
        formula="largest standardised mean difference, in size, over a window of 30 % of the origins",
        source=_ROSSI,
        relative=1e-6,
    ),
    Score(
        name="fluctuation_critical",
        family="opponent",
        unit="t",
        formula="what it exceeds in 5 % of records without any difference",
        source=_ROSSI,
    ),
    Score(
        name="fluctuation_p",
        family="opponent",
        unit="p-value",
        formula="its two-sided p-value; not adjusted",
        source=_ROSSI,
        relative=1e-6,
    ),
    Score(
        name="fluctuation_start",
        family="opponent",
        unit="ms UTC",
        formula="first origin of that window",
        source=_ROSSI,
    ),
)


def when(
    losses: Mapping[str, Mapping[tuple[str, int], Losses]],
    opponent: str,
    origins: IntArray,
    volatility: FloatArray,
    overlap: Callable[[int], int],
    horizon: int,
) -> Iterator[tuple[str, Row]]:
    """Conditional ability, fluctuation and monthly differences of every forecaster beside the opponent.

    Parameters
    ----------
    losses : mapping
        By forecaster, then by loss and step, of the same origins; as of `versus`.
    opponent : str
        One of the forecasters.
    origins : int64 (B,)
        ms UTC.
    volatility : float64 (B,)
        Of the context, known at the origin.
    overlap : callable
        Step to the number of origins whose outcomes overlap, itself included.
    horizon : int
        H, the step of the whole path.

    Yields
    ------
    str, Row
        The forecaster, and a row of the group ``opponent=NAME`` or ``opponent=NAME,month=2019-06``.
    """
    group = f"{OPPONENT}={opponent}"
    months = np.asarray(origins).astype("datetime64[ms]").astype("datetime64[M]")
    for name in losses:
        if name == opponent:
            continue
        for (loss, step), ours in losses[name].items():
            theirs, overlapping = losses[opponent][loss, step].loss, overlap(horizon if step == POOLED else step)
            difference = ours.loss - theirs
            for statistic, value in _tests(difference, origins, volatility, overlapping).items():
                yield name, Row(CHANNELS[CLOSE], step, group, f"{loss}.{statistic}", value)
            for month in np.unique(months):
                of = months == month
                found = loss_difference(ours.loss[of], theirs[of], overlap(horizon))
                percent = 100.0 / found.relative_to if found.relative_to > 0.0 else float("nan")
                numbers = {"difference": found.difference, "low": found.low, "high": found.high}
                in_month = f"{group}{MONTH}{month}"
                for statistic, value in numbers.items():
                    yield name, Row(CHANNELS[CLOSE], step, in_month, f"{loss}.{statistic}_pct", percent * value)


def _tests(difference: FloatArray, origins: IntArray, volatility: FloatArray, overlap: int) -> dict[str, float]:
    conditional = conditional_ability(difference, instruments(difference, volatility, overlap), overlap)
    moving = fluctuation(difference, overlap)
    start = float(origins[np.isfinite(difference)][moving.start]) if moving.start >= 0 else float("nan")
    return {
        "conditional_p": conditional.p_value,
        "after_loss_bps": float(conditional.coefficients[1]),
        "high_volatility_bps": float(conditional.coefficients[2]),
        "fluctuation": moving.statistic,
        "fluctuation_critical": moving.critical_value,
        "fluctuation_p": moving.p_value,
        "fluctuation_start": start,
    }
