"""What a run on several symbols found, as tables: differences over all symbols and on each, rankings, accounts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from btcbt.metrics.cross_section_scores import CROSS_SECTION
from btcbt.metrics.pooled_versus import SYMBOL, SYMBOLS
from btcbt.report.figures import BASELINES
from btcbt.report.versus import Difference
from btcbt.storage.panel_runs import PanelRun

LOSS, PATH = "crps_bps", "energy_bps"
"""The losses that are compared: of the close at a step, and of the whole path, which has step 0."""


def main_forecaster(run: PanelRun) -> str:
    """The first forecaster that is neither the opponent nor, if there is one, a simple one."""
    names = [name for name in run.manifest["forecasters"] if name != run.manifest["opponent"]]
    simple = {name: run.manifest["forecasters"][name]["kind"] in BASELINES for name in names}
    order = [name for name in run.config.forecasters if name in simple] + names
    return min(order, key=lambda name: simple[name], default=str(run.manifest["opponent"]))


def pooled(run: PanelRun, name: str, step: int) -> Difference:
    """The difference of the close's CRPS at a step over all symbols; NaN where it is not known."""
    return Difference.of(run.metrics, f"forecast.{name}.{SYMBOLS}.{LOSS}.close.h{step}.")


def effective_symbols(run: PanelRun, name: str, step: int) -> float:
    """Independent symbols that would know the difference as well; NaN where it is not known."""
    return run.metrics.get(f"forecast.{name}.{SYMBOLS}.{LOSS}.close.h{step}.effective_symbols", math.nan)


def on_each_symbol(run: PanelRun, name: str, step: int) -> dict[str, Difference]:
    """The same on each symbol alone, from `symbol_frame`."""
    rows = dict(each_row(symbol_frame(run)))
    return {symbol: Difference.of(rows.get((name, step, symbol), {})) for symbol in run.symbols}


def each_row(table: pd.DataFrame) -> Iterator[tuple[Any, dict[Any, float]]]:
    """Index and values of each row of a table of numbers."""
    yield from zip(table.index.tolist(), table.to_dict("records"), strict=True)


def pooled_frame(run: PanelRun) -> pd.DataFrame:
    """Differences over all symbols by forecaster and step (0: the whole path); see `btcbt.metrics.pooled_versus`."""
    frame = run.scores()
    return _by_step(frame[frame["group"] == f"{SYMBOLS}={run.manifest['opponent']}"], ["forecaster", "step"])


def symbol_frame(run: PanelRun) -> pd.DataFrame:
    """Differences by forecaster, step (0: the whole path) and symbol; p is adjusted for the number of symbols."""
    frame, before = run.scores(), f"{SYMBOLS}={run.manifest['opponent']}{SYMBOL}"
    frame = frame[frame["group"].str.startswith(before)]
    frame = frame.assign(symbol=frame["group"].str.slice(len(before)))
    return _by_step(frame, ["forecaster", "step", "symbol"])


def cross_section_frame(run: PanelRun) -> pd.DataFrame:
    """How symbols are ranked, by forecaster, step and measure; see `btcbt.metrics.cross_section`."""
    frame = run.scores()
    frame = frame[frame["group"] == CROSS_SECTION]
    parts = frame["metric"].str.rsplit(".", n=1, expand=True).reindex(columns=[0, 1])
    frame = frame.assign(measure=parts[0], metric=parts[1])
    return _wide(frame[frame["measure"] != "ranked"], ["forecaster", "step", "measure"])


def _by_step(frame: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    """Rows of the losses, a column a statistic."""
    frame = frame[frame["metric"].str.startswith((f"{LOSS}.", f"{PATH}."))]
    return _wide(frame.assign(metric=frame["metric"].str.partition(".")[2]), index)


def _wide(frame: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    columns = list(dict.fromkeys(frame["metric"]))
    wide = frame.set_index([*index, "metric"])["value"].unstack("metric", sort=False)
    return wide.reindex(columns=columns).rename_axis(columns=None)
