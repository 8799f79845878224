"""Summary of a run on several symbols for the terminal: pooled comparison, rankings, accounts with shared cash."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from btcbt.config import BUY_AND_HOLD
from btcbt.metrics.cross_section_scores import CROSS_SECTION
from btcbt.metrics.score import comparison_steps
from btcbt.report.cells import NONE, number, p_value, plain_table
from btcbt.report.panel_tables import (
    effective_symbols,
    main_forecaster,
    on_each_symbol,
    pooled,
)
from btcbt.report.versus import coloured
from btcbt.storage.panel_runs import PanelRun


def panel_summary(run: PanelRun) -> RenderableType:
    """Summary of a stored run on several symbols, for a rich console."""
    parts: list[RenderableType] = [verdict(run), "", head(run)]
    if run.metrics.get("origins.scored"):
        parts += ["", pooled_table(run), "", symbol_table(run), "", ranking_table(run)]
    parts += [labels(run), "", account_table(run), _foot(run)]
    return Group(*parts)


def verdict(run: PanelRun) -> Text:
    """One sentence on the main forecaster at the last step, over all symbols."""
    name, opponent, step = main_forecaster(run), run.manifest["opponent"], run.config.windows.horizon
    one, worth = pooled(run, name, step), number(effective_symbols(run, name, step), ".1f")
    where = f"at step {step} over {len(run.symbols)} symbols"
    if not math.isfinite(one.low):
        return Text(f"No verdict {where}: too few origins, or nothing to compare with {opponent}.", style="bold")
    edge = "An edge" if one.better else f"No edge larger than {-one.low:.1f} %" if one.low < 0 else "No edge"
    by = f"{abs(one.difference):.1f} % {'below' if one.difference < 0 else 'above'} that of {opponent}"
    return Text(
        f"{edge} {where}: the CRPS of {name} is {by} (95 % interval {one.low:+.1f} .. {one.high:+.1f} %, adjusted p "
        f"{p_value(one.adjusted_p)}); {one.detectable:.1f} % would have shown (80 % power), and the symbols are worth "
        f"{worth} independent ones.",
        style="bold",
    )


def head(run: PanelRun) -> Text:
    """What was run: symbols, origins and windows."""
    origins, windows = run.manifest["origins"], run.config.windows
    return Text(
        f"{run.config.name}: {', '.join(run.symbols)} at {run.config.candles.interval}, {origins['first']} .. "
        f"{origins['last']}\n{origins['eligible']:,} moments with an eligible symbol, {origins['scored']:,} with a "
        f"known outcome; context {windows.context}, horizon {windows.horizon} candles"
    )


def pooled_table(run: PanelRun) -> Table:
    """Every forecaster beside the opponent over all symbols."""
    steps, opponent = comparison_steps(run.config.windows.horizon), run.manifest["opponent"]
    table = plain_table(f"CRPS beside {opponent} over all symbols, {', '.join(map(str, steps))} candles ahead")
    table.add_column("forecaster", no_wrap=True)
    for step in steps:
        for heading in (f"{step} %", "p", "min"):
            table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("eff. symbols", justify="right")
    for name in run.manifest["forecasters"]:
        if name == opponent:
            continue
        cells: list[str | Text] = []
        for step in steps:
            one = pooled(run, name, step)
            cells += [coloured(one), p_value(one.adjusted_p), number(one.detectable, ".1f")]
        table.add_row(name, *cells, number(effective_symbols(run, name, steps[-1]), ".1f"), style=_style(run, name))
    table.caption = (
        "%: loss relative to the opponent's on each symbol, mean of the symbols at each origin; p: two-sided, allows "
        "for overlap and for dependence between symbols, adjusted for all comparisons; min: smallest difference that "
        f"would have shown (80 % power); eff. symbols: independent ones that would know as much, step {steps[-1]}"
    )
    return table


def symbol_table(run: PanelRun) -> Table:
    """The main forecaster beside the opponent at the last step, on each symbol and on all."""
    name, step = main_forecaster(run), run.config.windows.horizon
    table = plain_table(f"{name} beside {run.manifest['opponent']} on each symbol, {step} candles ahead")
    for heading in ("symbol", "%", "95% interval", "p", "min"):
        table.add_column(heading, justify="left" if heading == "symbol" else "right", no_wrap=True)
    rows = [*on_each_symbol(run, name, step).items(), ("all", pooled(run, name, step))]
    for shown, one in rows:
        cells = (coloured(one), f"{number(one.low, '+.1f')} .. {number(one.high, '+.1f')}", p_value(one.adjusted_p))
        table.add_row(shown, *cells, number(one.detectable, ".1f"), style="bold" if one is rows[-1][1] else "")
    table.caption = "p of a symbol: adjusted for the number of symbols"
    return table


def ranking_table(run: PanelRun) -> Table:
    """How every forecaster ranks the symbols."""
    steps = comparison_steps(run.config.windows.horizon)
    table = plain_table(f"Ranking of the symbols, {', '.join(map(str, steps))} candles ahead")
    table.add_column("forecaster", no_wrap=True)
    for step in steps:
        for heading in (f"RankIC {step}", "p"):
            table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("95% interval", "spread", "hits"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in run.manifest["forecasters"]:
        cells = []
        for step in steps:
            get = _getter(run.metrics, f"forecast.{name}.{CROSS_SECTION}.rank_ic.h{step}")
            cells += [number(get("mean"), "+.3f"), p_value(get("placebo_p"))]
        spread, hits = (
            run.metrics.get(f"forecast.{name}.{CROSS_SECTION}.{measure}.h{steps[-1]}.mean", math.nan)
            for measure in ("spread_bps", "hit_rate")
        )
        cells += [f"{number(get('low'), '+.2f')} .. {number(get('high'), '+.2f')}"]
        table.add_row(name, *cells, number(spread, "+.0f"), number(100 * hits, ".1f", "%"), style=_style(run, name))
    table.caption = (
        "RankIC: mean rank correlation of forecast and realised returns across symbols; p: share of shuffles of the "
        f"symbols that do as well, not adjusted; at step {steps[-1]}: interval of RankIC, spread of the best against "
        "the worst symbol in bps, and hits, symbols on the forecast side of the mean (chance: about 50 %)"
    )
    return table


def labels(run: PanelRun) -> Text:
    """Forecasts that are no evidence on new data, counted."""
    text = Text()
    for name, entry in run.manifest["forecasters"].items():
        unclean = {label: count for label, count in entry["labels"].items() if label != "clean"}
        if unclean:
            what = ", ".join(f"{count:,} {label}" for label, count in sorted(unclean.items()))
            text.append(f"{name}: {what} forecasts; not evidence on new data\n", style="yellow")
    text.rstrip()
    return text if text.plain else Text("Every forecast is out-of-sample.")


def account_table(run: PanelRun, *, every: bool = False) -> Table:
    """Accounts with shared cash: those on the main forecaster or on none, or `every` one."""
    main, costs = main_forecaster(run), run.config.portfolio.fee_bps + run.config.portfolio.slippage_bps
    table = plain_table(f"Net results in one account over all symbols, {costs:g} bps a side")
    table.add_column("account", no_wrap=True)
    for heading in ("return", "Sharpe", "95% interval", "max DD", "turnover/yr", "deflated"):
        table.add_column(heading, justify="right", no_wrap=True)
    names = [name for name in run.manifest["strategies"] if every or name.partition("@")[2] in ("", main)]
    for name in sorted(names, key=lambda name: name == BUY_AND_HOLD):
        get = _getter(run.metrics, f"strategy.{name}")
        low, high = (number(get(key), "+.1f") for key in ("sharpe_low", "sharpe_high"))
        table.add_row(
            name,
            number(100 * get("total_return"), "+.1f", "%"),
            number(get("sharpe"), "+.2f"),
            NONE if NONE in (low, high) else f"{low} .. {high}",
            number(100 * get("max_drawdown"), ".1f", "%"),
            number(get("turnover"), ",.0f"),
            number(get("deflated_sharpe"), ".2f"),
            style="bold" if name == BUY_AND_HOLD else "",
        )
    table.caption = (
        "strategies of single symbols trade an equal share in each; deflated: probability that the Sharpe ratio "
        "exceeds what the best of all trials shows by luck"
    )
    return table


def _foot(run: PanelRun) -> Text:
    seconds = run.manifest["seconds"]
    text = Text(f"{seconds['total']:.0f} s; runs of the single symbols lie beside this one\n")
    text.append(str(run.directory / "report.html"), style="cyan")
    return text


def _style(run: PanelRun, name: str) -> str:
    return "bold" if name == main_forecaster(run) else ""


def _getter(metrics: Mapping[str, float], prefix: str) -> Callable[[str], float]:
    return lambda key: metrics.get(f"{prefix}.{key}", math.nan)
