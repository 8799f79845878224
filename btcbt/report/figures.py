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
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from btcbt.config import interval_ms, time_text
from btcbt.records import CHANNELS, CLOSE, VOLUME, Float32Array, FloatArray, IntArray, Window
from btcbt.report.colours import colours_of, cycle
from btcbt.storage.runs import Run

if TYPE_CHECKING:
    import pandas as pd

DPI = 130
HISTORY = 72
"""Past candles shown in a fan chart."""
BANDS = ((0.95, 0.16), (0.80, 0.20), (0.50, 0.26))
"""Central intervals of a fan, widest first, with their opacity."""
BASELINES = ("random_walk", "drift", "ewma_volatility", "garch", "har", "gjr_garch", "boosted_quantiles")
INK, FAINT, ACTUAL = "#222222", "#BBBBBB", "#111111"


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
    figures = {"fan": _example(run)}
    if run.manifest["origins"]["scored"]:
        titles = {name: _title(name, entry["kind"]) for name, entry in run.manifest["forecasters"].items()}
        figures["error_by_step"] = error_by_step(run.scores(), titles)
    if run.manifest["strategies"]:
        equity = run.equity()
        named = highlighted(list(equity.columns), primary(run))
        figures["equity"] = equity_chart(equity, run.config.portfolio.initial_cash, named)
    files = []
    for name, figure in figures.items():
        file = folder / f"{name}.png"
        figure.savefig(file, dpi=DPI)
        files.append(file)
    return files


def _example(run: Run) -> Figure:
    """Fan chart of the middle origin among those with a known outcome; the last origin if there are none."""
    origins = run.origins()
    scored = np.flatnonzero(origins["scored"].to_numpy())
    index = int(scored[len(scored) // 2]) if len(scored) else len(origins) - 1
    window, outcome = around(run, int(milliseconds(origins.index)[index]))
    kinds = {name: entry["kind"] for name, entry in run.manifest["forecasters"].items()}
    fans = {_title(name, kinds[name]): run.forecasts(name).paths(index, index + 1)[0] for name in _shown(run)}
    colours = {_title(name, kinds[name]): colour for name, colour in colours_of(kinds).items()}
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
    known = window.values[-HISTORY:]
    past = window.open_time[-HISTORY:] + window.interval_ms  # a close is known when its candle ends
    for column, (name, paths) in enumerate(fans.items()):
        future = window.future_open_time(paths.shape[1]) + window.interval_ms
        colour = shades[name]
        for row, (channel, label) in enumerate(((CLOSE, "Close (quote currency)"), (VOLUME, "Volume (base units)"))):
            axes = panels[row, column]
            axes.plot(dates(past), known[:, channel], color=INK, linewidth=1.2, label="known")
            draw_fan(axes, future, paths[:, :, channel], window, known[-1, channel], colour)
            if outcome is not None:
                axes.plot(
                    dates(future),
                    outcome[:, channel],
                    color=ACTUAL,
                    linewidth=1.2,
                    ls=(0, (2, 1.4)),
                    label="actual",
                )
            axes.axvline(dates(window.origin), color=INK, linewidth=0.6, alpha=0.5)
            style_axes(axes, label if column == 0 else "")
        date_axis(panels[1, column])
        panels[1, column].set_ylim(bottom=0)
        panels[0, column].set_title(f"{name}, {paths.shape[0]} paths", loc="left", fontsize=10, color=INK)
    panels[0, 0].legend(loc="best", fontsize=8, frameon=False)
    figure.suptitle(f"One forecast, made at {time_text(window.origin)}", x=0.01, ha="left", fontsize=12)
    return figure


def error_by_step(scores: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """CRPS of the close, and the share of outcomes inside the 90 % interval, by forecast step.

    Parameters
    ----------
    scores : DataFrame
        As `btcbt.storage.runs.Run.scores` gives them.
    titles : mapping of str to str
        Display name of each forecaster.
    """
    close = scores[(scores["channel"] == "close") & (scores["group"] == "all") & (scores["step"] > 0)]
    figure = new_figure(11.5, 4.2)
    left, right = figure.subplots(1, 2)
    for (name, title), colour in zip(titles.items(), cycle(len(titles)), strict=True):
        for axes, score in ((left, "crps_bps"), (right, "coverage90")):
            steps = close[(close["forecaster"] == name) & (close["metric"] == score)].sort_values("step")
            axes.plot(steps["step"], steps["value"], color=colour, linewidth=1.6, label=title)
    right.axhline(90, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    right.text(1, 90.3, "nominal", fontsize=8, color=INK)
    left.set_ylim(bottom=0)
    style_axes(left, "CRPS of the close (bps of the last close)")
    style_axes(right, "Outcomes inside the 90 % interval (%)")
    for axes in (left, right):
        axes.set_xlabel("Forecast step (candles ahead)", fontsize=9)
    left.legend(fontsize=8, frameon=False)
    figure.suptitle(
        "Forecast error by horizon: lower is better; coverage should be 90 %", x=0.01, ha="left", fontsize=12
    )
    return figure


def equity_chart(equity: pd.DataFrame, initial_cash: float, named: Sequence[str]) -> Figure:
    """Return since the start and drawdown, net of all costs.

    Parameters
    ----------
    equity : DataFrame (N', K)
        Equity at each close in quote units, indexed by open time.
    initial_cash : float
        Equity before the first row.
    named : sequence of str
        Columns drawn in colour; the others are drawn in grey.
    """
    figure = new_figure(11.5, 6.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.4])
    times = equity.index.to_numpy()
    values = equity.to_numpy(dtype=np.float64)
    growth = 100.0 * (values / initial_cash - 1.0)
    peak = np.maximum(np.maximum.accumulate(values, axis=0), initial_cash)
    drawdown = 100.0 * (values / peak - 1.0)
    faint = [k for k, name in enumerate(equity.columns) if name not in named]
    for k in faint:
        top.plot(
            times,
            growth[:, k],
            color=FAINT,
            linewidth=0.6,
            alpha=0.7,
            label="others" if k == faint[0] else None,
        )
    last = {name: growth[-1, list(equity.columns).index(name)] for name in named}
    for name, colour in zip(sorted(named, key=lambda n: -last[n]), cycle(len(named)), strict=True):
        k = list(equity.columns).index(name)
        held = name == "buy_and_hold"
        style = {"color": INK if held else colour, "linewidth": 1.8 if held else 1.3}
        top.plot(times, growth[:, k], label=f"{name}  {last[name]:+.1f} %", **style)
        bottom.plot(times, drawdown[:, k], **style)
    top.axhline(0, color=INK, linewidth=0.6)
    style_axes(top, "Net return since the start (%)")
    style_axes(bottom, "Drawdown (%)")
    date_axis(bottom)
    top.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle("Equity after fees, slippage and funding", x=0.01, ha="left", fontsize=12)
    return figure


def _shown(run: Run) -> list[str]:
    """At most two forecasters for the fan chart: the main one, and a random walk."""
    first = primary(run)
    kinds = {name: entry["kind"] for name, entry in run.manifest["forecasters"].items()}
    walks = [name for name in kinds if kinds[name] == "random_walk" and name != first]
    return [first, *walks[:1]]


def _title(name: str, kind: str) -> str:
    """Name of a forecaster, marked if its context is anchored."""
    return f"{name} (anchored)" if kind == "kronos_anchored" and "anchored" not in name else name


def draw_fan(axes: Axes, future: IntArray, paths: Float32Array, window: Window, last: float, colour: str) -> None:
    """Draw quantile bands that start at the last known value."""
    times = dates(np.concatenate([[window.origin], future]))
    samples = np.column_stack([np.full(len(paths), last), paths])
    for level, opacity in BANDS:
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
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
