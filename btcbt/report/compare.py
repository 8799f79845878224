"""Runs side by side in the terminal: what is known of their differences, and the tables that it is read from."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from btcbt.config import time_text
from btcbt.metrics.score import POOLED
from btcbt.records import FloatArray, IntArray
from btcbt.report.cells import NONE, number, plain_table
from btcbt.report.versus import SIZE
from btcbt.storage.panel_runs import PanelRun
from btcbt.storage.runs import Run

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 80
"""Columns of the text of a comparison."""
MOST_ACCOUNTS, MOST_KEYS = 12, 20
"""Rows shown in the terminal; the page has all."""
SAME, ROUNDING = "same", 1e-6
"""What is written for no difference, and the Sharpe ratio that rounding may make."""


@dataclass(frozen=True, slots=True, eq=False)
class RunComparison:
    """Two or more runs beside each other, on the origins and hours that they share.

    Attributes
    ----------
    runs : mapping of str to Run or PanelRun
        By letter, A first; all on one symbol, or all on several.
    origins : int64 (B,)
        Origins that all runs have scored, ms UTC.
    differences : DataFrame
        One row a comparison: ``run``, ``forecaster``, ``against`` (run A's), ``step`` (0: the whole path's energy
        score), ``difference``, ``low``, ``high`` (95 % interval) and ``detectable`` (smallest detectable difference)
        each with ``_bps`` and ``_pct``, ``p_value``, ``adjusted_p``, ``origins``. Negative is better than A's.
        Of runs on several symbols: pooled over those that all have, in percent alone, and ``effective_symbols``.
    rankings : DataFrame
        Of runs on several symbols, one row a forecaster and step: ``run``, ``forecaster``, ``against``, ``step``,
        ``rank_ic`` and ``against_rank_ic`` on common origins, ``difference`` with ``low`` and ``high``, ``p_value``,
        ``adjusted_p``. Positive is better than A's.
    adjustment : str
        How p-values were adjusted: ``romano-wolf`` or ``holm``.
    accounts : DataFrame
        One row an account and run, over common hours, net: ``run``, ``account``, ``total_return``, ``sharpe``,
        ``max_drawdown``, ``turnover``, and ``sharpe_difference`` to run A's with ``low`` and ``high``.
    hours : int64 (N,)
        Open times of the candles that all runs trade, ms UTC.
    returns : mapping of (str, str) to float64 (N,)
        Returns in these hours by run and account.
    settings : DataFrame
        Keys that differ, with a column a run.
    notes : tuple of str
        What limits the comparison.
    """

    runs: Mapping[str, Run | PanelRun]
    origins: IntArray
    differences: pd.DataFrame
    adjustment: str
    accounts: pd.DataFrame
    hours: IntArray
    returns: dict[tuple[str, str], FloatArray]
    settings: pd.DataFrame
    rankings: pd.DataFrame
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """The differences of losses, one row a comparison."""
        return self.differences.copy()

    def __str__(self) -> str:
        """What the command prints, in 80 columns."""
        console = Console(file=io.StringIO(), width=WIDTH)
        with console.capture() as capture:
            console.print(compare_summary(self))
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def compare_summary(found: RunComparison) -> RenderableType:
    """All of a comparison: runs, verdict, differences, accounts and settings."""
    parts: list[RenderableType] = [*run_lines(found), Text(), *verdict(found), Text(), differences_table(found)]
    if len(found.rankings):
        parts += [Text(), rankings_table(found)]
    if len(found.accounts):
        parts += [Text(), accounts_table(found, MOST_ACCOUNTS)]
    if len(found.settings):
        parts += [Text(), settings_table(found, MOST_KEYS)]
    return Group(*parts, *(Text(f"Note: {note}") for note in found.notes))


def run_lines(found: RunComparison) -> Iterator[Text]:
    """Which run each letter stands for, and what they share."""
    for letter, run in found.runs.items():
        origins = run.manifest["origins"]
        text = Text(f"{letter}  ")
        text.append(run.config.name, style="bold")
        text.append(f"  {origins['first'][:10]} .. {origins['last'][:10]}  {run.directory}")
        yield text
    first, last = (time_text(int(found.origins[end])) for end in (0, -1))
    yield Text(f"{len(found.origins):,} common origins, {first} .. {last}")


def verdict(found: RunComparison) -> list[Text]:
    """What the table says of each run's main forecaster at its last step, and how many differences are shown."""
    table = found.differences
    shown = table["adjusted_p"] <= SIZE
    better = int((shown & (table["difference_pct"] < 0)).sum())
    tested = int(table["adjusted_p"].notna().sum())
    count = (
        f"Of {tested} comparisons, {better} are better and {int(shown.sum()) - better} worse than A's at {SIZE:.0%}."
    )
    sentences = []
    for letter in list(found.runs)[1:]:
        rows = table[table["run"] == letter]
        rows = rows[(rows["forecaster"] == rows["forecaster"].iloc[0]) & (rows["step"] > POOLED)] if len(rows) else rows
        if len(rows):
            sentences.append(Text(_sentence(rows.iloc[-1]), style="bold"))
    return [*sentences, Text(count if tested else "No comparison could be tested.")]


def _sentence(row: Any) -> str:
    who, whom = f"{row['run']}'s {row['forecaster']}", f"A's {row['against']}"
    ahead = f"{row['step']} candles ahead"
    if is_same(row):
        return f"{who} and {whom} have the same CRPS {ahead}."
    if not math.isfinite(row["adjusted_p"]):
        return f"Too few common origins to compare {who} with {whom} {ahead}."
    p = "p < 0.001" if row["adjusted_p"] < 0.001 else f"p {row['adjusted_p']:.3f}"
    by = f"{abs(row['difference_pct']):.1f} % {'below' if row['difference_pct'] < 0 else 'above'}"
    interval = f"95 % interval {row['low_pct']:+.1f} .. {row['high_pct']:+.1f} %, adjusted {p}"
    if row["adjusted_p"] <= SIZE:
        word = "better" if row["difference_pct"] < 0 else "worse"
        return f"{who} is {word} than {whom}: its CRPS {ahead} is {by} ({interval})."
    return (
        f"No difference is shown: the CRPS of {who} {ahead} is {by} that of {whom} ({interval}); one of "
        f"{row['detectable_pct']:.1f} % would have shown (80 % power)."
    )


def differences_table(found: RunComparison, *, repeat: bool = False) -> Table:
    """Paired differences of losses, one row a comparison; names repeat or are left out."""
    table = plain_table("CRPS beside run A's, in % of it (negative: better than A's)")
    for heading in ("run", "forecaster", "ahead"):
        table.add_column(heading, overflow="fold")
    for heading in ("%", "95 % interval", "p", "adj. p", "min"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for row in found.differences.to_dict("records"):
        who = (row["run"], row["forecaster"])
        name = (
            row["forecaster"] if row["forecaster"] == row["against"] else f"{row['forecaster']} (A: {row['against']})"
        )
        if before is not None and before[0] != row["run"]:
            table.add_section()
        table.add_row(
            *((row["run"], name) if repeat or who != before else ("", "")),
            str(row["step"]) if row["step"] != POOLED else "path",
            SAME if is_same(row) else Text(number(row["difference_pct"], "+.1f"), style=_style(row)),
            NONE if is_same(row) else interval_text(row["low_pct"], row["high_pct"], "+.1f"),
            p_text(row["p_value"]),
            p_text(row["adjusted_p"]),
            number(row["detectable_pct"], ".1f"),
        )
        before = who
    tested = int(found.differences["adjusted_p"].notna().sum())
    several = any(isinstance(run, PanelRun) for run in found.runs.values())
    what = "; all symbols pooled, dependence between them allowed for" if several else ""
    method = "Romano-Wolf" if found.adjustment == "romano-wolf" else "Holm"
    table.caption = (
        f"ahead: candles, or the energy score of the whole path of closes; p: two-sided, overlap allowed for; adj. p: "
        f"for all {tested} comparisons ({method}); min: smallest difference that these origins would have shown "
        f"(80 % power at {SIZE:.0%}){what}"
    )
    return table


def rankings_table(found: RunComparison) -> Table:
    """RankIC beside run A's on common origins."""
    table = plain_table("RankIC beside run A's on common origins (positive: better than A's)")
    for heading in ("run", "forecaster", "ahead"):
        table.add_column(heading, overflow="fold")
    for heading in ("RankIC", "A's", "change", "95 % interval", "adj. p"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.rankings.to_dict("records"):
        same = row["difference"] == 0.0 and not math.isfinite(row["p_value"])
        table.add_row(
            row["run"],
            row["forecaster"],
            str(row["step"]),
            number(row["rank_ic"], "+.3f"),
            number(row["against_rank_ic"], "+.3f"),
            SAME if same else number(row["difference"], "+.3f"),
            NONE if same else interval_text(row["low"], row["high"], "+.2f"),
            p_text(row["adjusted_p"]),
        )
    table.caption = "mean rank correlation of forecast and realised returns across symbols; overlap allowed for"
    return table


def accounts_table(found: RunComparison, most: int | None = None, *, repeat: bool = False) -> Table:
    """Accounts over common hours, those of one name together."""
    table = plain_table(f"Accounts over {len(found.hours):,} common candles, net of each run's costs")
    table.add_column("account", overflow="fold")
    table.add_column("run")
    for heading in ("return", "Sharpe", "max DD", "x/year", "vs A", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    names = list(dict.fromkeys(found.accounts["account"]))
    for name in names[:most]:
        for k, row in enumerate(found.accounts[found.accounts["account"] == name].to_dict("records")):
            table.add_row(
                "" if k and not repeat else name,
                row["run"],
                number(100 * row["total_return"], "+.1f", "%"),
                number(row["sharpe"], "+.2f"),
                number(100 * row["max_drawdown"], ".1f", "%"),
                number(row["turnover"], ",.0f"),
                SAME if abs(row["sharpe_difference"]) < ROUNDING else number(row["sharpe_difference"], "+.2f"),
                interval_text(row["low"], row["high"], "+.1f"),
            )
    rest = len(names) - len(names[:most])
    table.caption = (f"and {rest} more accounts in the page; " if rest else "") + (
        "Sharpe: annualised; x/year: value traded / equity, per year; vs A: Sharpe ratio minus that of A's account of "
        "the same name, with its interval of a block bootstrap of both together, not adjusted for their number"
    )
    return table


def settings_table(found: RunComparison, most: int | None = None) -> Table:
    """Keys of the experiments that differ."""
    table = plain_table(f"{len(found.settings)} keys that differ")
    table.add_column("key", overflow="fold", ratio=2)
    for letter in found.runs:
        table.add_column(letter, overflow="fold", ratio=2)
    for row in found.settings.iloc[:most].to_dict("records"):
        table.add_row(*(Text(str(row[column])) for column in ("key", *found.runs)))
    if most is not None and len(found.settings) > most:
        table.caption = f"and {len(found.settings) - most} more in the page"
    return table


def is_same(row: Mapping[Any, Any]) -> bool:
    """Whether the losses of a comparison are the same at every origin."""
    return bool(row["difference_pct"] == 0.0) and not math.isfinite(row["p_value"])


def interval_text(low: float, high: float, form: str) -> str:
    """An interval as ``-1.0 .. +2.0``."""
    ends = (number(low, form), number(high, form))
    return NONE if NONE in ends else " .. ".join(ends)


def p_text(value: float) -> str:
    """A p-value with three digits."""
    return NONE if not math.isfinite(value) else "<.001" if value < 0.001 else f"{value:.3f}"


def _style(row: Mapping[Any, Any]) -> str:
    if not row["adjusted_p"] <= SIZE:
        return ""
    return "green" if row["difference_pct"] < 0 else "red"
