"""Figures of a run on several symbols: skill on each symbol as a forest plot, and RankIC over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from btcbt.metrics.moving import MovingMean, moving_mean
from btcbt.metrics.score import comparison_steps
from btcbt.records import IntArray
from btcbt.report.colours import colours_of
from btcbt.report.figures import (
    DPI,
    INK,
    date_axis,
    dates,
    label_ends,
    milliseconds,
    new_figure,
    short_name,
    style_axes,
)
from btcbt.report.panel_tables import main_forecaster, on_each_symbol, pooled
from btcbt.report.versus import SIZE, Difference
from btcbt.storage.panel_runs import PanelRun


class Ranked(NamedTuple):
    """RankIC of a forecaster at a step over a moving window; `time` is the last origin of each, ms UTC."""

    forecaster: str
    step: int
    time: IntArray
    moving: MovingMean


def draw_panel_figures(run: PanelRun) -> list[Path]:
    """Draw `forest.png` and `rank_ic.png` into the folder `figures` of a run; nothing where no outcome is known.

    Raises
    ------
    StoreError
        If a table of the run is missing or damaged.
    """
    if not run.metrics.get("origins.scored"):
        return []
    folder, name, step = run.directory / "figures", main_forecaster(run), run.config.windows.horizon
    folder.mkdir(exist_ok=True)
    forest, rank_ic = new_figure(9.5, 2.0 + 0.36 * len(run.symbols)), new_figure(9.5, 4.2)
    draw_forest(forest.subplots(), run, name, step)
    draw_rank_ic(rank_ic.subplots(), run, step, name)
    titles = {"forest": (forest, forest_title(run, name, step)), "rank_ic": (rank_ic, rank_ic_title(run, step))}
    return [_saved(figure, title, folder / f"{file}.png") for file, (figure, title) in titles.items()]


def panel_heading(run: PanelRun) -> str:
    """Experiment, symbols and dates, in the first line of a title."""
    origins = run.manifest["origins"]
    what = f"{len(run.symbols)} symbols at {run.config.candles.interval}"
    return f"{run.config.name}: {what}, {origins['first'][:10]} to {origins['last'][:10]}\n"


def forest_title(run: PanelRun, name: str, step: int) -> str:
    """Title of the forest plot."""
    return f"{panel_heading(run)}CRPS of {short_name(name)}, {step} candles ahead: left of zero is better"


def rank_ic_title(run: PanelRun, step: int) -> str:
    """Title of the figure of RankIC."""
    return f"{panel_heading(run)}Rank correlation of forecast and outcome across symbols, {step} candles ahead"


def panel_colours(run: PanelRun) -> dict[str, str]:
    """Colour of each forecaster, the first for the main one."""
    return colours_of(run.manifest["forecasters"], main_forecaster(run))


def draw_forest(axes: Axes, run: PanelRun, name: str, step: int) -> None:
    """Draw the difference to the opponent on each symbol with its 95 % interval, and over all as a diamond.

    Filled marks are significant at 5 %: adjusted for the number of symbols, and the diamond for all comparisons.
    """
    colour, rows = panel_colours(run)[name], list(on_each_symbol(run, name, step).items())
    for k, (_, one) in enumerate(rows):
        axes.plot([one.low, one.high], [k, k], color=colour, linewidth=1.6)
        axes.plot(one.difference, k, marker="s", markersize=7, color=colour, markerfacecolor=_fill(one, colour))
    last, every = len(rows), pooled(run, name, step)
    if math.isfinite(every.low):
        corners = [
            (every.low, last),
            (every.difference, last - 0.3),
            (every.high, last),
            (every.difference, last + 0.3),
        ]
        axes.add_patch(Polygon(corners, facecolor=_fill(every, colour), edgecolor=colour, linewidth=1.6))
        axes.update_datalim(corners)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axhline(last - 0.5, color="#BBBBBB", linewidth=0.6)
    axes.set_yticks(range(last + 1), [*map(short_name, run.symbols), "all symbols"])
    axes.set_ylim(last + 0.6, -0.6)
    axes.autoscale_view(scaley=False)
    style_axes(axes, "")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"CRPS against {short_name(run.manifest['opponent'])} (%), 95 % intervals", fontsize=9)
    for k, one in enumerate([*(one for _, one in rows), every]):
        if math.isfinite(one.low):
            text = f"{one.difference:+.1f} ({one.low:+.1f} .. {one.high:+.1f})"
            axes.annotate(text, (1.01, k), xycoords=axes.get_yaxis_transform(), fontsize=8, va="center", color=INK)


def _fill(one: Difference, colour: str) -> str:
    return colour if one.adjusted_p <= SIZE else "white"


def draw_rank_ic(axes: Axes, run: PanelRun, step: int, banded: str, names: Sequence[str] | None = None) -> None:
    """Draw the mean RankIC over a moving window, a line a forecaster, with the 95 % interval of one of them."""
    colours, ends = panel_colours(run), []
    shown = [one for one in rankings_over_time(run) if one.step == step and (names is None or one.forecaster in names)]
    for one in shown:
        times, colour = dates(one.time), colours[one.forecaster]
        axes.plot(times, one.moving.mean, color=colour, linewidth=1.5)
        if one.forecaster == banded:
            axes.fill_between(times, one.moving.low, one.moving.high, color=colour, alpha=0.15, linewidth=0)
        ends.append((float(one.moving.mean[-1]), short_name(one.forecaster), colour))
    if not shown:
        axes.text(0.5, 0.5, "too few origins rank three symbols", transform=axes.transAxes, ha="center", color=INK)
    axes.axhline(0, color=INK, linewidth=0.8)
    window = f", mean over {shown[0].moving.window} origins; shaded: {short_name(banded)}'s 95 %" if shown else ""
    style_axes(axes, f"RankIC{window}")
    axes.margins(x=0.01)
    label_ends(axes, ends)
    date_axis(axes)


def rankings_over_time(run: PanelRun) -> Iterator[Ranked]:
    """RankIC over a moving window by forecaster and step; those that are too short are left out."""
    table, windows = run.rankings(), run.config.windows
    times, overlap = milliseconds(table.index), math.ceil(windows.horizon / windows.stride)
    for name in run.manifest["forecasters"]:
        for step in comparison_steps(windows.horizon):
            if f"{name}.h{step}" not in table.columns:
                continue
            moving = moving_mean(table[f"{name}.h{step}"].to_numpy(dtype=np.float64), overlap)
            if len(moving.last) and np.isfinite(moving.low).all():
                yield Ranked(name, step, times[moving.last], moving)


def _saved(figure: Figure, title: str, file: Path) -> Path:
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.savefig(file, dpi=DPI)
    return file
