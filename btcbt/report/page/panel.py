"""What the page of a run on several symbols says in words and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from btcbt.metrics.cross_section_scores import CROSS_SECTION
from btcbt.metrics.pooled_versus import SYMBOLS
from btcbt.metrics.ranking import MEASURES
from btcbt.metrics.score import comparison_steps
from btcbt.report.cells import NONE, number
from btcbt.report.page.content import (
    Table,
    account_keys,
    account_tables_of,
    as_table,
    glossary,
    manifest_rows,
    months_table,
    pivoted,
)
from btcbt.report.panel import account_table, head, labels, pooled_table, symbol_table, verdict
from btcbt.report.panel_tables import cross_section_frame, each_row, symbol_frame
from btcbt.storage.panel_runs import PanelRun

MEASURE_NAMES = {"ic": "IC", "rank_ic": "RankIC", "spread_bps": "spread (bps)", "hit_rate": "hit rate (%)"}


def panel_content(run: PanelRun) -> dict[str, Any]:
    """The variables of the template."""
    portfolio, scored = run.config.portfolio, bool(run.metrics.get("origins.scored"))
    return {
        "name": run.config.name,
        "symbols": f"{len(run.symbols)} symbols at {run.config.candles.interval}",
        "verdict": verdict(run).plain,
        "standing": [head(run).plain, labels(run).plain],
        "costs": f"Accounts pay {portfolio.fee_bps:g} bps fees and {portfolio.slippage_bps:g} bps slippage a side.",
        "opponent": run.manifest["opponent"],
        "pooled_tables": [as_table(pooled_table(run)), as_table(symbol_table(run))] if scored else [],
        "every_symbol": _every_symbol(run) if scored else None,
        "rankings": list(_rankings(run)) if scored else [],
        "account_tables": [
            as_table(account_table(run, every=True)),
            *_each_symbol(run),
            *account_tables_of(run.scores(), run.metrics),
        ],
        "heat": months_table(run.scores()),
        "runs": _runs(run),
        "manifest": manifest_rows(run.manifest),
        "command": f"btcbt run {run.config.name}.yaml",
        "config": json.dumps(run.manifest["config"], indent=1),
        "glossary": glossary([*_forecast_keys(run), *account_keys(run.metrics)]),
    }


def _every_symbol(run: PanelRun) -> Table:
    """Every forecaster at every step on each symbol."""
    each = symbol_frame(run)
    rows = [
        [
            str(symbol),
            str(name),
            "path" if step == 0 else str(step),
            number(one["difference_pct"], "+.1f"),
            _interval(one["low_pct"], one["high_pct"], "+.1f"),
            number(one["p_value"], ".3f"),
            number(one["adjusted_p"], ".3f"),
            number(one["detectable_pct"], ".1f"),
            number(one["origins"], ",.0f"),
        ]
        for (name, step, symbol), one in each_row(each)
    ]
    heads = ["symbol", "forecaster", "ahead", "%", "95 % interval", "p", "adj. p", "min", "origins"]
    caption = (
        "ahead: candles, or the energy score of the whole path; %: CRPS in percent of the opponent's on the same "
        "symbol; adj. p: for the number of symbols; min: smallest difference that would have shown (80 % power)."
    )
    return Table(f"Each symbol beside {run.manifest['opponent']}", heads, rows, caption, left=[0, 1])


def _rankings(run: PanelRun) -> Iterator[Table]:
    """Measures of the ranking against placebos, a table a step, the last step first."""
    found = dict(each_row(cross_section_frame(run)))
    heads = ["forecaster", "measure", "mean", "95 % interval", "chance", "p", "adj. p", "placebo p", "placebos"]
    for step in reversed(comparison_steps(run.config.windows.horizon)):
        rows = []
        for name in run.manifest["forecasters"]:
            for measure in MEASURES:
                if (name, step, measure) in found:
                    rows.append([name, *_ranked(measure, found[name, step, measure])])
        yield Table(f"Ranking of the symbols, {step} candles ahead", heads, rows, left=[0, 1])


def _ranked(measure: str, one: Mapping[Any, float]) -> list[str]:
    scale, form = {"spread_bps": (1.0, "+.1f"), "hit_rate": (100.0, ".1f")}.get(measure, (1.0, "+.3f"))
    mean, low, high, chance, least, most = (
        scale * float(one[key]) for key in ("mean", "low", "high", "chance", "placebo_low", "placebo_high")
    )
    return [
        MEASURE_NAMES[measure],
        number(mean, form),
        _interval(low, high, form),
        number(chance, form.removeprefix("+")),
        *(number(one[key], ".3f") for key in ("p_value", "adjusted_p", "placebo_p")),
        _interval(least, most, form),
    ]


def _each_symbol(run: PanelRun) -> Iterator[Table]:
    """Net return of the strategies of single symbols, each with an account of its own."""
    made = {}
    for symbol in run.symbols:
        own = run.symbol(symbol)
        made[symbol] = {
            name: 100 * own.metrics.get(f"strategy.{name}.total_return", math.nan)
            for name in own.manifest["strategies"]
        }
    table = pd.DataFrame(made).dropna(how="all")
    if len(table):
        yield pivoted("Net return of an account on each symbol alone (%)", table, "", "+.1f")


def _runs(run: PanelRun) -> Table:
    """The run of each symbol, and the digest of its candles."""
    rows = []
    for symbol, entry in run.manifest["symbols"].items():
        origins, audit = entry["origins"], entry.get("audit") or {}
        rows.append(
            [
                symbol,
                f"{entry['name']}/{entry['digest']}",
                str(entry["candles"]["path"]),
                f"{origins['first'][:10]} .. {origins['last'][:10]}",
                f"{origins['scored']:,}",
                str(audit.get("verdict", NONE)),
                str(entry["candles"]["sha256"])[:16],
            ]
        )
    heads = ["symbol", "run", "candles", "origins", "scored", "audit", "sha256 of the candles"]
    return Table("Runs of the single symbols", heads, rows, left=[0, 1, 2, 3, 5, 6])


def _forecast_keys(run: PanelRun) -> list[str]:
    """Keys of the pooled comparisons and of the rankings."""
    of = tuple(
        f"forecast.{name}.{family}." for name in run.manifest["forecasters"] for family in (SYMBOLS, CROSS_SECTION)
    )
    return [key for key in run.metrics if key.startswith(of)]


def _interval(low: float, high: float, form: str) -> str:
    ends = (number(low, form), number(high, form))
    return NONE if NONE in ends else " .. ".join(ends)
