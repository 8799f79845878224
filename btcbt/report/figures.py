"""Figures of a run: one forecast as a fan, errors by step, equity and drawdown.

Figures are made with matplotlib's objects alone: no global state, no display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from btcbt.config import BUY_AND_HOLD, interval_ms, time_text
from btcbt.metrics.distribution import sample_quantiles
from btcbt.records import CHANNELS, CLOSE, VOLUME, Float32Array, FloatArray, IntArray, Window
from btcbt.report.colours import COLOURS, colours_of
from btcbt.storage.panel_runs import PanelRun
from btcbt.storage.runs import Run

if TYPE_CHECKING:
    import pandas as pd

DPI = 130
HISTORY = 72
"""Past candles shown in a fan chart."""
BANDS = ((0.95, 0.16), (0.80, 0.20), (0.50, 0.26))
"""Central intervals of a fan, widest first, with their opacity."""
BASELINES = ("random_walk", "drift", "ewma_volatility", "garch", "har", "gjr_garch", "boosted_quantiles")
INK, GREY, FAINT, ACTUAL = "#222222", "#6B6B6B", "#BBBBBB", "#111111"
DASHES = ("-", "--", ":", "-.")
"""Tell accounts on one forecaster apart."""
CLOSE_LABEL = "Close (quote currency)"
BAR_GAP = 0.006
"""Distance of the interval bars of neighbouring forecasters, as a share of the horizon."""
LONGEST = 20
"""Letters of a strategy or forecaster in a label."""
MOST_BARS = 4
"""Forecasters whose intervals are all drawn; of more, shading goes, and coverage has the band of the first alone."""
MOST_NAMED = 8
"""Accounts drawn as lines in the figure of equity."""
WEIGHTS = LinearSegmentedColormap.from_list("weights", ["#D55E00", "#FFFFFF", "#0072B2"])


def draw_figures(run: Run) -> list[Path]:
    """Draw every figure of a run into its folder `figures`.

    Parameters
    ----------
    run : Run
        A stored run; nothing else is read.

    Returns
    -------
    list of Path
        The PNG files written.

    Raises
    ------
    StoreError
        If a table of the run is missing or damaged.
    """
    folder = run.directory / "figures"
    folder.mkdir(exist_ok=True)
    figures, heading = {"fan": _example(run)}, heading_of(run)
    if run.manifest["origins"]["scored"]:
        titles = titles_of(run)
        opponent = run.manifest.get("opponent") or next(iter(titles))
        figures["error_by_step"] = error_by_step(run.scores(), titles, opponent, heading, run_colours(run))
    if run.manifest["strategies"]:
        equity = run.equity()
        figures["equity"] = equity_chart(
            equity,
            run.config.portfolio.initial_cash,
            notable(equity, primary(run)),
            colours=run_colours(run),
            targets=run.targets(),
            heading=heading,
            costs=costs_of(run),
        )
    files = []
    for name, figure in figures.items():
        file = folder / f"{name}.png"
        figure.savefig(file, dpi=DPI)
        files.append(file)
    return files


def heading_of(run: Run) -> str:
    """Experiment, candles and dates, in the first line of a title."""
    origins, interval = run.manifest["origins"], run.manifest["candles"]["interval"]
    symbol = symbol_of(run)
    # A symbol often names its interval already.
    interval = "" if symbol.endswith(f"_{interval}") else f" {interval}"
    return f"{run.config.name}: {symbol}{interval}, {origins['first'][:10]} to {origins['last'][:10]}\n"


def symbol_of(run: Run) -> str:
    """Name of the candles: that of their file."""
    path = str(run.manifest["candles"]["path"])
    return path.rpartition(":")[2].rpartition("/")[2].removesuffix(".parquet")


def costs_of(run: Run | PanelRun) -> str:
    """What the accounts of a run pay, in words."""
    portfolio = run.config.portfolio
    return f"after {portfolio.fee_bps:g} bps fees and {portfolio.slippage_bps:g} bps slippage a side, and funding"


def _example(run: Run) -> Figure:
    """Fan chart of the middle origin among those with a known outcome; the last origin if there are none."""
    origins = run.origins()
    scored = np.flatnonzero(origins["scored"].to_numpy())
    index = int(scored[len(scored) // 2]) if len(scored) else len(origins) - 1
    window, outcome = around(run, int(milliseconds(origins.index)[index]))
    kinds = {name: entry["kind"] for name, entry in run.manifest["forecasters"].items()}
    fans = {_title(name, kinds[name]): run.forecasts(name).paths(index, index + 1)[0] for name in _shown(run)}
    colours = {_title(name, kinds[name]): colour for name, colour in run_colours(run).items()}
    return fan_chart(window, fans, outcome if len(scored) else None, colours)


def around(run: Run, origin: int) -> tuple[Window, FloatArray]:
    """The window of an origin, and the candles of its horizon as far as they are known."""
    candles, interval = run.candles(), interval_ms(run.config.candles.interval)
    times, values = milliseconds(candles.index), candles[list(CHANNELS)].to_numpy(dtype=np.float64)
    now = int(np.searchsorted(times, origin))
    known = slice(now - run.config.windows.context, now)
    return Window(times[known], values[known], interval), values[now : now + run.config.windows.horizon]


def milliseconds(index: Any) -> IntArray:
    """Times of a table's index, ms UTC."""
    return np.asarray(index.as_unit("ms").asi8, dtype=np.int64)


def primary(run: Run) -> str:
    """The main forecaster of a run: the first that is not a baseline, otherwise the first."""
    forecasters: Mapping[str, Any] = run.manifest["forecasters"]
    order = [*run.config.forecasters, *forecasters]
    return min(order, key=lambda name: forecasters[name]["kind"] in BASELINES)


def run_colours(run: Run) -> dict[str, str]:
    """Colour of each forecaster of a run, the first for the main one."""
    return colours_of(run.manifest["forecasters"], primary(run))


def highlighted(columns: Sequence[str], forecaster: str) -> list[str]:
    """Accounts drawn in colour: those on one forecaster, and those on none."""
    return [name for name in columns if "@" not in name or name.endswith(f"@{forecaster}")]


def fan_chart(
    window: Window,
    fans: Mapping[str, Float32Array],
    outcome: FloatArray | None,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Close and volume before and after one origin, with the central 50, 80 and 95 % of the sampled paths.

    Parameters
    ----------
    window : Window
        The known candles.
    fans : mapping of str to float32 (S, H, 6)
        Paths by forecaster, one column of panels each.
    outcome : float64 (H, 6), or None
        Realised candles, if known.
    colours : mapping of str to str, optional
        Colour by forecaster; in order of the columns if left out.
    """
    shades = colours or colours_of(fans)
    figure = new_figure(6.2 * len(fans), 5.6)
    panels: Any = figure.subplots(
        2, len(fans), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": [3, 1]}
    )
    for column, (name, paths) in enumerate(fans.items()):
        for row, (channel, label) in enumerate(((CLOSE, CLOSE_LABEL), (VOLUME, "Volume (base units)"))):
            draw_forecast(panels[row, column], window, paths, outcome, shades[name], channel)
            style_axes(panels[row, column], label if column == 0 else "")
        date_axis(panels[1, column])
        panels[1, column].set_ylim(bottom=0)
        panels[0, column].set_title(f"{short_name(name)}, {paths.shape[0]} paths", loc="left", fontsize=10, color=INK)
    panels[0, 0].legend(loc="best", fontsize=8, frameon=False)
    figure.suptitle(f"One forecast, made at {time_text(window.origin)}", x=0.01, ha="left", fontsize=12)
    return figure


def draw_forecast(
    axes: Axes,
    window: Window,
    paths: Float32Array,
    outcome: FloatArray | None,
    colour: str,
    channel: int = CLOSE,
) -> None:
    """Draw one channel before and after an origin: known, forecast as a fan, and realised as far as that is known.

    Parameters
    ----------
    paths : float32 (S, H, 6)
        Of one forecaster.
    outcome : float64 (<= H, 6), or None
        Realised candles.
    """
    known = window.values[-HISTORY:, channel]
    past = window.open_time[-HISTORY:] + window.interval_ms  # a close is known when its candle ends
    future = window.future_open_time(paths.shape[1]) + window.interval_ms
    axes.plot(dates(past), known, color=INK, linewidth=1.2, label="known")
    draw_fan(axes, future, paths[:, :, channel], window, known[-1], colour)
    if outcome is not None and len(outcome):
        times = dates(future[: len(outcome)])
        axes.plot(times, outcome[:, channel], color=ACTUAL, linewidth=1.2, ls=(0, (2, 1.4)), label="actual")
    axes.axvline(dates(window.origin), color=INK, linewidth=0.6, alpha=0.5)


def error_by_step(
    scores: pd.DataFrame,
    titles: Mapping[str, str],
    opponent: str = "",
    heading: str = "",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """CRPS of the close in percent of the opponent's, and the coverage of the 90 % interval, by forecast step.

    Bars are 95 % intervals at the steps where they are stored; the shading joins them.

    Parameters
    ----------
    scores : DataFrame
        As `btcbt.storage.runs.Run.scores` gives them.
    titles : mapping of str to str
        Display name of each forecaster.
    opponent : str
        The forecaster that the others are measured by; with none of this name, the CRPS is drawn in bps.
    heading : str
        Experiment, candles and dates, for the title.
    colours : mapping of str to str, optional
        Colour of each forecaster; in their order if left out.
    """
    figure = new_figure(12.5, 4.6)
    left, right = figure.subplots(1, 2)
    better = draw_skill(left, scores, titles, opponent, colours)
    draw_coverage(right, scores, titles, colours)
    text = "below zero is better" if better else "lower is better"
    figure.suptitle(
        f"{heading}Forecast error by horizon: {text}; coverage should be 90 %", x=0.01, ha="left", fontsize=12
    )
    return figure


def draw_skill(
    axes: Axes,
    scores: pd.DataFrame,
    titles: Mapping[str, str],
    opponent: str,
    colours: Mapping[str, str] | None = None,
) -> bool:
    """Draw the CRPS of the close by step in percent of the opponent's, with 95 % intervals.

    Parameters
    ----------
    scores, titles, opponent, colours
        As `error_by_step`.

    Returns
    -------
    bool
        Whether the opponent is known; with none of this name, the CRPS is drawn in bps.
    """
    close, shades = _by_step(scores), colours or colours_of(titles)
    everywhere, beside = close[close["group"] == "all"], close[close["group"] == f"opponent={opponent}"]
    known = opponent in titles and bool((everywhere["forecaster"] == opponent).any())
    base, lines = _steps(everywhere, opponent, "crps_bps"), {}
    for k, name in enumerate(titles):
        crps = _steps(everywhere, name, "crps_bps")
        if known and name != opponent:
            crps = (100.0 * (crps / base - 1.0)).dropna()
            aside = _aside(close, k, len(titles))
            low, high = (_steps(beside, name, f"crps_bps.{end}_pct") for end in ("low", "high"))
            _interval(axes, low, high, shades[name], aside, shade=len(titles) <= MOST_BARS)
        if not known or name != opponent:
            lines[name] = crps
    if known:
        axes.axhline(0, color=INK, linewidth=0.8)
    else:
        axes.set_ylim(bottom=0)
    label = (
        f"CRPS of the close against {short_name(titles[opponent])} (%)"
        if known
        else "CRPS of the close (bps of the last close)"
    )
    _draw_steps(axes, lines, titles, label, shades)
    return known


def draw_coverage(
    axes: Axes, scores: pd.DataFrame, titles: Mapping[str, str], colours: Mapping[str, str] | None = None
) -> None:
    """Draw the coverage of the 90 % interval by step with its sampling interval; see `error_by_step`."""
    close, shades, few = _by_step(scores), colours or colours_of(titles), len(titles) <= MOST_BARS
    everywhere = close[close["group"] == "all"]
    for k, name in enumerate(titles):
        low, high = (_steps(everywhere, name, f"coverage90_{end}") for end in ("low", "high"))
        if few or shades[name] == COLOURS[0]:
            _interval(axes, low, high, shades[name], _aside(close, k, len(titles)) if few else 0.0, shade=not few)
    axes.axhline(90, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    lines = {name: _steps(everywhere, name, "coverage90") for name in titles}
    _draw_steps(axes, lines, titles, "Outcomes inside the 90 % interval (%)", shades)


def _draw_steps(
    axes: Axes,
    lines: Mapping[str, pd.Series[float]],
    titles: Mapping[str, str],
    label: str,
    shades: Mapping[str, str],
) -> None:
    """Draw a line a forecaster by step, with its name at its end."""
    ends = []
    for name, steps in lines.items():
        if len(steps):
            axes.plot(steps.index, steps.to_numpy(), color=shades[name], linewidth=1.6, label=titles[name])
            ends.append((float(steps.iloc[-1]), short_name(titles[name]), shades[name]))
    style_axes(axes, label)
    axes.set_xlabel("Forecast step (candles ahead)", fontsize=9)
    axes.margins(x=0.02)
    label_ends(axes, ends)


def _by_step(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[(scores["channel"] == "close") & (scores["step"] > 0)]


def _aside(close: pd.DataFrame, k: int, count: int) -> float:
    """How far the bars of the k-th forecaster are moved, in steps, so that they do not hide each other."""
    return float(BAR_GAP * close["step"].max() * (k - (count - 1) / 2))


def _steps(scores: pd.DataFrame, name: str, metric: str) -> pd.Series[float]:
    """Values of a forecaster's score by step, in order; those that are not defined are left out."""
    rows = scores[(scores["forecaster"] == name) & (scores["metric"] == metric)]
    return rows.set_index("step")["value"].sort_index().dropna()


def _interval(
    axes: Axes, low: pd.Series[float], high: pd.Series[float], colour: str, aside: float, *, shade: bool = True
) -> None:
    """Bars from `low` to `high` where both are known, moved `aside` by some steps, and a shading that joins them."""
    steps = low.index.intersection(high.index)
    if not len(steps):
        return
    axes.vlines(steps + aside, low[steps], high[steps], color=colour, linewidth=1.2)
    if shade:
        axes.fill_between(steps, low[steps], high[steps], color=colour, alpha=0.10, linewidth=0)


def notable(equity: pd.DataFrame, forecaster: str) -> list[str]:
    """The accounts that are drawn: yardsticks on no forecaster, the best and the worst, then the best on `forecaster`.

    At most `MOST_NAMED`, buy and hold among them.
    """
    final = equity.iloc[-1].sort_values(ascending=False, kind="stable")
    order = [str(name) for name in final.index]
    traded = [name for name in order if name != BUY_AND_HOLD]
    first = [BUY_AND_HOLD] if BUY_AND_HOLD in order else []
    first += [*traded[:1], *traded[-1:], *(name for name in traded if name in highlighted(traded, forecaster))]
    return list(dict.fromkeys(first))[:MOST_NAMED]


def equity_chart(
    equity: pd.DataFrame,
    initial_cash: float,
    named: Sequence[str],
    *,
    colours: Mapping[str, str] | None = None,
    targets: pd.DataFrame | None = None,
    heading: str = "",
    costs: str = "after fees, slippage and funding",
) -> Figure:
    """Return since the start, drawdown and decided weights, net of all costs.

    Parameters
    ----------
    equity : DataFrame (N', K)
        Equity at each close in quote units, indexed by open time.
    initial_cash : float
        Equity before the first row.
    named : sequence of str
        Columns drawn as lines; the others are drawn as the range that they span.
    colours : mapping of str to str, optional
        Colour of each forecaster; an account has that of the one it trades on.
    targets : DataFrame (M, K'), optional
        Decided weights by origin, for the strip below.
    heading : str
        Experiment, candles and dates, for the title.
    costs : str
        What is paid, for the title.
    """
    held = [] if targets is None else [name for name in named if name in targets.columns]
    figure = new_figure(12.5, 6.4 + 0.22 * len(held))
    heights = [3.0, 1.4, 0.22 * len(held)] if held else [3.0, 1.4]
    top, bottom, *strips = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    times, values = equity.index.to_numpy(), equity.to_numpy(dtype=np.float64)
    peak = np.maximum(np.maximum.accumulate(values, axis=0), initial_cash)
    drawdown = 100.0 * (values / peak - 1.0)
    columns, looks = [str(name) for name in equity.columns], _looks(named, colours or {})
    draw_growth(top, equity, initial_cash, named, colours)
    for name in named:
        bottom.plot(times, drawdown[:, columns.index(name)], **looks[name])
    style_axes(bottom, "Drawdown (%)")
    if held and targets is not None:
        _weights(strips[0], targets[held].ffill())  # held where nothing is decided
    date_axis(strips[-1] if strips else bottom)
    figure.suptitle(f"{heading}Equity {costs}", x=0.01, ha="left", fontsize=12)
    return figure


def draw_growth(
    axes: Axes,
    equity: pd.DataFrame,
    initial_cash: float,
    named: Sequence[str],
    colours: Mapping[str, str] | None = None,
) -> None:
    """Draw the net return since the start: named accounts as lines, of all others the range that they span.

    Parameters
    ----------
    equity, initial_cash, named, colours
        As `equity_chart`.
    """
    times, columns = equity.index.to_numpy(), [str(name) for name in equity.columns]
    growth = 100.0 * (equity.to_numpy(dtype=np.float64) / initial_cash - 1.0)
    others = [k for k, name in enumerate(columns) if name not in named]
    if others:
        span = growth[:, others]
        word = "the other account" if len(others) == 1 else f"range of {len(others)} other accounts"
        axes.fill_between(times, span.min(axis=1), span.max(axis=1), color=FAINT, alpha=0.35, linewidth=0.6, label=word)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
    looks, ends = _looks(named, colours or {}), []
    for name in named:
        line = growth[:, columns.index(name)]
        axes.plot(times, line, label=name, **looks[name])
        ends.append((float(line[-1]), f"{short_name(name)}  {line[-1]:+.1f} %", looks[name]["color"]))
    axes.axhline(0, color=INK, linewidth=0.6)
    style_axes(axes, "Net return since the start (%)")
    label_ends(axes, ends)


def _looks(named: Sequence[str], colours: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colour of an account's forecaster and dashes of its strategy; buy and hold in ink."""
    looks: dict[str, dict[str, Any]] = {}
    for name in named:
        forecaster = name.partition("@")[2]
        colour = colours.get(forecaster, INK if name == BUY_AND_HOLD else GREY)
        used = sum(one["color"] == colour for one in looks.values())
        width = 1.8 if name == BUY_AND_HOLD else 1.3
        looks[name] = {"color": colour, "linewidth": width, "linestyle": DASHES[used % len(DASHES)]}
    return looks


def _weights(axes: Axes, targets: pd.DataFrame) -> None:
    """Decided weights over time, a row an account: blue is long, orange short, white out of the market."""
    edges = targets.index.to_numpy()
    step = edges[-1] - edges[-2] if len(edges) > 1 else np.timedelta64(1, "h")
    rows = np.arange(len(targets.columns) + 1)
    axes.pcolormesh(
        np.append(edges, edges[-1] + step),
        rows,
        targets.to_numpy(dtype=np.float64).T,
        cmap=WEIGHTS,
        vmin=-1.0,
        vmax=1.0,
        rasterized=True,
    )
    axes.set_yticks(rows[:-1] + 0.5, [short_name(str(name)) for name in targets.columns], fontsize=7)
    axes.yaxis.tick_right()
    axes.invert_yaxis()
    axes.set_title("Decided weight: blue long, orange short, white none", loc="left", fontsize=8, color=INK)
    axes.tick_params(labelsize=8, right=False)


def short_name(name: str) -> str:
    """A forecaster or account with the middles of its long parts left out, for a label."""
    half = LONGEST // 2
    parts = (part if len(part) <= LONGEST else f"{part[: half - 1]}…{part[-half:]}" for part in name.split("@"))
    return "@".join(parts)


def label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write the name of each line to the right of where it ends, apart from each other.

    Parameters
    ----------
    labels : sequence of (float, str, str)
        Height of the line's end in data, text and colour.
    """
    low, high = axes.get_ylim()
    apart = 0.055 * (high - low)
    heights: list[float] = []
    ordered = sorted((one for one in labels if np.isfinite(one[0])), key=lambda one: one[0])
    for height, _, _ in ordered:
        heights.append(height if not heights else max(height, heights[-1] + apart))
    # Those pushed over the top move down again, the highest first.
    ceiling = high
    for k in range(len(heights) - 1, -1, -1):
        heights[k] = ceiling = min(heights[k], ceiling)
        ceiling -= apart
    axes.set_ylim(low, high)
    for (height, text, colour), at in zip(ordered, heights, strict=True):
        axes.annotate(
            text,
            xy=(1.0, height),
            xytext=(1.03, at),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            fontsize=8,
            color=INK,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 1.2,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0.0, 0.5),
            },
        )


def _shown(run: Run) -> list[str]:
    """At most two forecasters for the fan chart: the main one, and a random walk."""
    first = primary(run)
    kinds = {name: entry["kind"] for name, entry in run.manifest["forecasters"].items()}
    walks = [name for name in kinds if kinds[name] == "random_walk" and name != first]
    return [first, *walks[:1]]


def titles_of(run: Run) -> dict[str, str]:
    """Display name of each forecaster."""
    return {name: _title(name, entry["kind"]) for name, entry in run.manifest["forecasters"].items()}


def _title(name: str, kind: str) -> str:
    """Name of a forecaster, marked if its context is anchored."""
    return f"{name} (anchored)" if kind == "kronos_anchored" and "anchored" not in name else name


def draw_fan(axes: Axes, future: IntArray, paths: Float32Array, window: Window, last: float, colour: str) -> None:
    """Draw quantile bands that start at the last known value."""
    times = dates(np.concatenate([[window.origin], future]))
    samples = np.column_stack([np.full(len(paths), last), paths])
    ordered = np.sort(samples, axis=0).T  # the quantiles that scores use: a new path falls below with probability p
    for level, opacity in BANDS:
        low, high = sample_quantiles(ordered, [(1 - level) / 2, (1 + level) / 2]).T
        axes.fill_between(
            times, low, high, color=colour, alpha=opacity, linewidth=0, label=f"{100 * level:.0f} % of paths"
        )
    axes.plot(times, np.median(samples, axis=0), color=colour, linewidth=1.6, label="median")


def dates(times: IntArray | int) -> Any:
    """Times in ms UTC as matplotlib takes them."""
    return np.asarray(times, dtype="datetime64[ms]")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure, size in inches, with a canvas that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, label: str) -> None:
    """Label the vertical axis; a faint grid, and no box."""
    axes.set_ylabel(label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def date_axis(axes: Axes) -> None:
    """Make the horizontal axis one of times, UTC."""
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_xlabel("Time (UTC)", fontsize=9)
