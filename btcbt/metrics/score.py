"""Entries of the score table, and the rows in which scores are stored.

A `Score` is one entry of the table in `btcbt.metrics.table`, which scoring, ``btcbt check``, terminal tables and the
documentation read. A `Row` is one number of a run: ``scores.parquet`` holds the rows of
every forecaster and account.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Better = Literal["lower", "higher", "neither"] | float
"""Which values are better: lower ones, higher ones, those closest to a number, or neither."""
Family = Literal[
    "forecast",
    "against",
    "opponent",
    "pooled",
    "cross_section",
    "confidence_set",
    "strategy",
    "selection",
    "placebo",
    "origins",
    "hypothesis",
]
"""Subject of a score; the first part of its dotted key (``against`` to ``cross_section`` follow a forecaster)."""
Breakdown = Literal["channel", "step", "month", "regime", "label", "cost_bps", "delay"]

ALL = "all"
"""The group of all origins, and the channel of scores that concern no single one."""
ACCOUNT = "account"
"""The channel of an account's scores, whose "forecaster" is the account's name."""
POOLED = 0
"""The step of a score of all steps together, or of none."""
MIDDLE_STEP = 6
"""A step between the first and the last at which forecasters are compared, too."""

GROUPED: tuple[Breakdown, ...] = ("month", "regime", "label")
EVERYWHERE: tuple[Breakdown, ...] = ("channel", "step", *GROUPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Definition of a score.

    Attributes
    ----------
    name : str
        As in the column `metric` and in dotted keys.
    family : str
        See `Family`.
    label : str
        Short heading; the name if empty.
    unit : str
        ``channel``: quote currency for prices, base currency for volume. ``""``: a pure number.
    better : str or float
        See `Better`.
    formula : str
        In plain text. x: outcome, m: median and mu: mean of the paths, F: their distribution, n: no change.
    source : str
        Paper and equation, where there is one.
    streams : bool
        Whether it is accumulated batch by batch, without its series.
    per : tuple of str
        Breakdowns. Groups (month, regime, label) are given at the first step, at the last, and pooled over steps.
        Accounts have month, cost_bps (other costs a side) and delay (fills that many candles later).
    headline : str
        Which channels are headline numbers (``metrics.json``): ``close``, ``all`` or ``""`` for none.
    absolute, relative : float
        Tolerance of ``btcbt check`` if no rule matches: ``absolute + relative x |baseline|``.
    """

    name: str
    family: Family = "forecast"
    label: str = ""
    unit: str = ""
    better: Better = "neither"
    formula: str
    source: str = ""
    streams: bool = False
    per: tuple[Breakdown, ...] = ()
    headline: Literal["close", "all", ""] = "close"
    absolute: float = 1e-12
    relative: float = 1e-9

    @property
    def heading(self) -> str:
        """Label, or the name if there is none."""
        return self.label or self.name

    @property
    def direction(self) -> str:
        """Which values are better, in words; empty if neither."""
        if isinstance(self.better, str):
            return "" if self.better == "neither" else f"{self.better} is better"
        return f"{self.better:g} is best"


class Row(NamedTuple):
    """One number of a run.

    Attributes
    ----------
    channel : str
        One of `btcbt.metrics.panel.SCORED`, `ALL`, or `ACCOUNT`. Scores of the close's path have ``close``.
    step : int
        1 .. H, or `POOLED`.
    group : str
        `ALL`, ``month=2019-06``, ``regime=high``, ``label=clean``, or ``against=random_walk``, ``opponent=har`` (a
        comparison with it), ``opponent=har,month=2019-06``, ``hypothesis=edge_24h``; of a panel of symbols
        ``pooled=har``, ``pooled=har,symbol=ETH`` and ``cross_section``; of accounts also ``cost_bps=5`` and
        ``delay=1``.
    metric : str
        Name of a score; ``<loss>.<statistic>``, say ``crps_bps.dm_p``, in a comparison.
    value : float
        NaN where it is not defined.
    """

    channel: str
    step: int
    group: str
    metric: str
    value: float


def comparison_steps(horizon: int) -> list[int]:
    """Steps at which forecasters are compared: 1, 6 and the last."""
    return sorted({1, min(MIDDLE_STEP, horizon), horizon})
