"""What the page says in words and tables, taken from the terminal's summary where that says it already."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from btcbt.metrics.table import find_score
from btcbt.report.cells import NONE, number
from btcbt.report.sensitivity import COST, DELAY
from btcbt.report.summary import account_parts, forecast_parts, standing_parts
from btcbt.storage.runs import Run
from btcbt.trees import leaves

NUMBERS = ("sharpe", "sharpe_hurdle", "deflated_sharpe", "trials", "break_even_bps", "capacity", "exposure", "costs")
"""Scores of accounts shown in the table on luck and limits."""
FORECAST_NUMBERS = ("crps_bps", "mae_bps", "direction", "coverage90")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts: the first column names the row.

    `shades` are the classes of the cells' backgrounds, which repeat what the numbers say, or empty; `left` are the
    columns of text.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    shades: Sequence[Sequence[str]] = ()
    left: Sequence[int] = ()


def page_content(run: Run) -> dict[str, Any]:
    """The variables of the template."""
    forecasts, accounts = forecast_parts(run), account_parts(run)
    sentences, tables = as_texts(forecasts)
    said, account_tables = as_texts(accounts)
    portfolio = run.config.portfolio
    return {
        "name": run.config.name,
        "symbol": f"{run.manifest['candles']['path']} {run.manifest['candles']['interval']}",
        "verdict": sentences[0] if sentences else "No origin is scored, so nothing is said of the forecasts.",
        "standing": [text.plain for text in standing_parts(run)],
        "costs": f"Accounts pay {portfolio.fee_bps:g} bps fees and {portfolio.slippage_bps:g} bps slippage a side.",
        "forecast_sentences": sentences[1:],
        "forecast_tables": [*tables, *_quality_tables(run.scores())] if forecasts else [],
        "account_sentences": said,
        "account_tables": [*account_tables, *account_tables_of(run.scores(), run.metrics)] if accounts else [],
        "heat": months_table(run.scores()) if accounts else None,
        "manifest": manifest_rows(run.manifest),
        "labels": _labels(run),
        "command": f"btcbt run {run.config.name}.yaml",
        "config": json.dumps(run.manifest["config"], indent=1),
        "glossary": glossary(_forecast_keys(run.metrics) + account_keys(run.metrics)),
    }


def as_texts(parts: Iterable[Text | RichTable]) -> tuple[list[str], list[Table]]:
    """Sentences and tables of parts of the terminal's summary."""
    sentences, tables = [], []
    for part in parts:
        match part:
            case RichTable():
                tables.append(as_table(part))
            case Text():
                sentences.append(part.plain)
    return sentences, tables


def as_table(part: RichTable) -> Table:
    """A table of the terminal."""
    cells = [[str(cell) for cell in column.cells] for column in part.columns]
    head = [str(column.header) for column in part.columns]
    rows = list(zip(*cells, strict=True))
    left = [k for k, column in enumerate(part.columns) if column.justify == "left"]
    return Table(str(part.title or ""), head, rows, " ".join(str(part.caption or "").split()), left=left)


def _quality_tables(scores: pd.DataFrame) -> list[Table]:
    """CRPS of the close by month, hour, regime and label, and the PIT where it is stored."""
    close = scores[(scores["channel"] == "close") & (scores["step"] == 0)]
    found = []
    for kind in ("month", "hour", "regime", "label"):
        rows = close[close["group"].str.startswith(f"{kind}=") & (close["metric"] == "crps_bps")]
        if len(rows):
            table = rows.pivot_table(index="group", columns="forecaster", values="value", sort=False)
            found.append(pivoted(f"CRPS of the close by {kind}, all steps pooled (bps, lower is better)", table, kind))
    pit = close[(close["group"] == "all") & close["metric"].str.startswith("pit")]
    if len(pit):
        table = pit.pivot_table(index="metric", columns="forecaster", values="value", sort=False)
        found.append(pivoted("Probability integral transform of the close", table, ""))
    return found


def account_tables_of(scores: pd.DataFrame, metrics: Mapping[str, float]) -> list[Table]:
    """Returns at other costs and with a delay; hurdles and limits of every account."""
    made = scores[scores["metric"] == "total_return"]
    changed = made[made["group"].str.startswith((COST, DELAY))]
    found = []
    if len(changed):
        table = 100 * changed.pivot_table(index="forecaster", columns="group", values="value", sort=False)
        table.columns = pd.Index([_changed(str(group)) for group in table.columns])
        found.append(pivoted("Net return at other costs, and filled later (%)", table, "", "+.1f"))
    rows = []
    for name in dict.fromkeys(made["forecaster"]):
        values = [metrics.get(f"strategy.{name}.{key}", math.nan) for key in NUMBERS]
        rows.append([str(name), *(_number(value) for value in values)])
    heads = [key.replace("_", " ") for key in NUMBERS]
    return [*found, Table("Luck and limits", ["account", *heads], rows, "What each means is in the glossary.")]


def _changed(group: str) -> str:
    late = group.startswith(DELAY)
    return f"{group.removeprefix(DELAY)} candle later" if late else f"{group.removeprefix(COST)} bps a side"


def months_table(scores: pd.DataFrame) -> Table | None:
    """Monthly net returns, a row an account."""
    rows = scores[(scores["metric"] == "total_return") & scores["group"].str.startswith("month=")]
    if not len(rows):
        return None
    table = 100 * rows.pivot_table(index="forecaster", columns="group", values="value", sort=True)
    table.columns = pd.Index([str(group).removeprefix("month=") for group in table.columns])
    plain = pivoted("Net return by month (%)", table, "", "+.1f")
    most = max(float(np.nanmax(np.abs(table.to_numpy()))), 1e-9)
    shades = [[_shade(value / most) for value in row] for row in table.to_numpy()]
    return Table(plain.title, plain.head, plain.rows, "Blue is a gain and orange a loss, as the sign says.", shades)


def _shade(share: float) -> str:
    if not math.isfinite(share) or share == 0:
        return ""
    return f"{'gain' if share > 0 else 'loss'}{min(3, 1 + int(3 * abs(share)))}"


def pivoted(title: str, table: pd.DataFrame, kind: str, form: str = ".1f") -> Table:
    """A table of numbers in one format; `kind` is cut from the names of its rows and heads them."""
    rows = [
        [str(index).removeprefix(f"{kind}="), *(number(value, form) for value in row)]
        for index, row in zip(table.index, table.to_numpy(dtype=float), strict=True)
    ]
    return Table(title, [kind, *map(str, table.columns)], rows)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def _labels(run: Run) -> list[Mapping[str, Any]]:
    """Stretches of equal contamination labels by forecaster, as shares of all origins."""
    origins = run.origins()
    found: list[Mapping[str, Any]] = []
    for name in run.manifest["forecasters"]:
        labels = origins[f"label.{name}"].astype(str).to_numpy()
        starts = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
        parts = [
            {
                "label": labels[a],
                "start": 1000 * a / len(labels),
                "width": 1000 * (b - a) / len(labels),
                "from": f"{origins.index[a]:%Y-%m-%d %H:%M}",
                "to": f"{origins.index[b - 1]:%Y-%m-%d %H:%M}",
            }
            for a, b in pairwise(starts)
        ]
        found.append({"name": name, "parts": parts})
    return found


def manifest_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The manifest without the experiment, which is shown whole."""
    tree = {key: value for key, value in manifest.items() if key != "config"}
    return [(key, NONE if value in (None, {}) else str(value)) for key, value in leaves(tree)]


def _forecast_keys(metrics: Mapping[str, float]) -> list[str]:
    return [key for key in metrics if any(f".{name}." in key for name in FORECAST_NUMBERS)]


def account_keys(metrics: Mapping[str, float]) -> list[str]:
    """Keys of the scores of accounts that the page shows."""
    keys = [key for key in metrics if key.startswith("strategy.") and key.rpartition(".")[2] in NUMBERS]
    return keys + [key for key in metrics if key.startswith(("strategy.", "placebo.", "selection."))]


def glossary(keys: Iterable[str]) -> list[Mapping[str, str]]:
    """Definitions of the scores of some dotted keys, from the score table."""
    found = {}
    for key in keys:
        one = find_score(key)
        if one is not None:
            found[one.family, one.name] = {
                "name": one.heading,
                "key": one.name,
                "unit": one.unit,
                "formula": one.formula,
                "source": one.source,
            }
    return list(found.values())
