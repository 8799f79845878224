"""What a notebook shows of a run at the end of a cell: the verdict, forecasters beside the opponent, the accounts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from btcbt.config import BUY_AND_HOLD
from btcbt.records import FloatArray
from btcbt.report.figures import heading_of, run_colours
from btcbt.report.page.content import Table, as_table, as_texts
from btcbt.report.panel import pooled_table, ranking_table, verdict
from btcbt.report.panel_figures import panel_colours, panel_heading
from btcbt.report.versus import versus_parts
from btcbt.storage.panel_runs import PanelRun
from btcbt.storage.runs import Run

BEST = 3
"""Accounts shown, besides buy and hold."""
WIDTH, HEIGHT, POINTS = 180, 28, 90
"""Of a sparkline: pixels, and points of its line."""


def card(run: Run) -> str:
    """HTML without scripts; every text of the run is escaped."""
    sentences, tables = as_texts(versus_parts(run)) if run.manifest["origins"]["scored"] else ([], [])
    said = sentences[0] if sentences else "No origin is scored, so nothing is said of the forecasts."
    accounts = list(_accounts(run, run_colours(run))) if run.manifest["strategies"] else []
    return _card(run, heading_of(run), said, tables, accounts)


def panel_card(run: PanelRun) -> str:
    """The same of a run on several symbols."""
    tables = [pooled_table(run), ranking_table(run)] if run.metrics.get("origins.scored") else []
    accounts = list(_accounts(run, panel_colours(run)))
    return _card(run, panel_heading(run), verdict(run).plain, [as_table(one) for one in tables], accounts)


def _card(
    run: Run | PanelRun, heading: str, sentence: str, tables: Sequence[Table], accounts: Sequence[Mapping[str, Any]]
) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files(__package__).joinpath("card.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        heading=heading.strip(),
        verdict=sentence,
        tables=tables,
        accounts=accounts,
        costs=run.config.portfolio,
        directory=str(run.directory),
        origins=run.manifest["origins"],
        width=WIDTH,
        height=HEIGHT,
    )


def _accounts(run: Run | PanelRun, colours: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """The best accounts and buy and hold: name, net return, and the equity as a line."""
    equity, cash = run.equity(), run.config.portfolio.initial_cash
    final = equity.iloc[-1].drop(BUY_AND_HOLD, errors="ignore").sort_values(ascending=False, kind="stable")
    names = [*map(str, final.index[:BEST]), *([BUY_AND_HOLD] if BUY_AND_HOLD in equity else [])]
    growth = {name: equity[name].to_numpy(dtype=np.float64) / cash - 1.0 for name in names}
    low = min(0.0, *(float(one.min()) for one in growth.values()))
    high = max(0.0, *(float(one.max()) for one in growth.values()))
    for name, line in growth.items():
        yield {
            "name": name,
            "return": f"{100 * line[-1]:+.1f} %",
            "colour": colours.get(name.partition("@")[2], "currentColor"),
            "points": _points(line, low, high),
            "zero": f"{_height(np.zeros(1), low, high)[0]:.1f}",
            "others": len(final) - BEST,
        }


def _points(line: FloatArray, low: float, high: float) -> str:
    """Points of an SVG line, on one scale for all accounts."""
    rows = np.unique(np.linspace(0, len(line) - 1, min(len(line), POINTS)).round().astype(np.int64))
    across = 1 + (WIDTH - 2) * rows / max(len(line) - 1, 1)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, _height(line[rows], low, high), strict=True))


def _height(values: FloatArray, low: float, high: float) -> FloatArray:
    span = high - low if high > low else 1.0
    return np.asarray(2 + (HEIGHT - 4) * (high - values) / span)
