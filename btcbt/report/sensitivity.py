"""The lines of a summary on costs, delay and size of accounts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from btcbt.config import BUY_AND_HOLD
from btcbt.storage.runs import Run

if TYPE_CHECKING:
    import pandas as pd

COST, DELAY = "cost_bps=", "delay="
LATE = f"{DELAY}1"


def sensitivity_lines(run: Run) -> list[Text]:
    """The account with the highest Sharpe ratio at other costs, late and large; and how many accounts gain then."""
    if not (run.directory / "scores.parquet").is_file():
        return []  # of an older version
    scores = run.scores()
    changed = scores["group"].str.startswith((COST, DELAY)) & (scores["metric"] == "total_return")
    table = scores[changed].pivot_table(index="forecaster", columns="group", values="value", sort=False)
    names = [name for name in run.manifest["strategies"] if name != BUY_AND_HOLD and name in table.index]
    sharpes = {name: run.metrics.get(f"strategy.{name}.sharpe", math.nan) for name in names}
    best = max((name for name in names if math.isfinite(sharpes[name])), key=sharpes.__getitem__, default=None)
    if best is None:
        return []
    groups = [str(group) for group in table.columns if str(group).startswith(COST)]
    costs = sorted(groups, key=lambda group: float(group.removeprefix(COST)))
    one, gains = table.loc[best], _gains(table.loc[names])
    at = _list(group.removeprefix(COST) for group in costs)
    made = _list(_percent(one[group]) for group in costs)
    text = Text(
        f"Costs and delay: the best, {best}, makes {made} at {at} bps a side, {_percent(one[LATE])} if filled one "
        "candle later"
    )
    size = run.metrics.get(f"strategy.{best}.capacity", math.nan)
    if math.isfinite(size):
        text.append(f"; 95 % of its orders are within 1 % of the candle's volume up to a cash of {size:,.0f}")
    text.append(
        f". Above zero are {_list(str(gains[group]) for group in costs)} of {len(names)} accounts; "
        f"{gains[LATE]} one candle later."
    )
    return [text]


def _gains(table: pd.DataFrame) -> dict[str, int]:
    return {str(group): int(np.count_nonzero(column > 0)) for group, column in table.items()}


def _list(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _percent(value: float) -> str:
    return f"{100 * value:+.1f}%"
