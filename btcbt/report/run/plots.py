"""Pictures of a run in a notebook: every function draws one chart and returns its axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from btcbt.config import time_text
from btcbt.errors import StoreError
from btcbt.files import read_file
from btcbt.messages import short
from btcbt.records import CHANNELS, CLOSE
from btcbt.report.figures import (
    CLOSE_LABEL,
    around,
    costs_of,
    date_axis,
    draw_forecast,
    draw_growth,
    draw_skill,
    heading_of,
    milliseconds,
    notable,
    primary,
    run_colours,
    style_axes,
    titles_of,
)
from btcbt.report.page import NAME
from btcbt.report.versus import opponent_of
from btcbt.storage.runs import require

if TYPE_CHECKING:
    import pandas as pd

    from btcbt.report.run import Run

SIZE = (9.5, 4.2)
"""Inches of a new figure."""
MAX_PAGE_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class Plots:
    """The pictures of a run. Each takes `ax`, the axes to draw on; a new figure is made if it is left out."""

    run: Run

    def equity(self, accounts: Sequence[str] | None = None, *, ax: Axes | None = None) -> Axes:
        """Net return since the start, with its end beside each line.

        Parameters
        ----------
        accounts : sequence of str, optional
            Columns of `Run.equity`. If left out: buy and hold, the best, the worst, and those on the main forecaster,
            with all others as the range that they span.
        ax : Axes, optional
            Where to draw.

        Raises
        ------
        StoreError
            If there is no such account, or no strategy trades.
        """
        equity = self.run.equity()
        named = notable(equity, primary(self.run)) if accounts is None else list(accounts)
        for name in named:
            require(name, equity.columns, "account", self.run.directory)
        axes = new_axes(ax)
        shown = equity if accounts is None else equity[named]
        colours = run_colours(self.run)
        draw_growth(axes, shown, self.run.config.portfolio.initial_cash, named, colours)
        date_axis(axes)
        head_axes(axes, heading_of(self.run) + f"Net return {costs_of(self.run)}")
        return axes

    def fan(
        self,
        origin: str | datetime | int,
        forecaster: str | None = None,
        *,
        channel: str = "close",
        ax: Axes | None = None,
    ) -> Axes:
        """One forecast: the candles before, the central 50, 80 and 95 % of the sampled paths, and what happened.

        Parameters
        ----------
        origin : str, datetime or int
            When it was made: a time (UTC unless it says otherwise), or a row of `Run.origins`, where -1 is the last.
        forecaster : str, optional
            Its name; the main one of the run if left out.
        channel : str
            One of `btcbt.records.CHANNELS`.
        ax : Axes, optional
            Where to draw.

        Raises
        ------
        StoreError
            If there is no forecast of that time, forecaster or channel.
        """
        name = primary(self.run) if forecaster is None else forecaster
        column = CHANNELS.index(require(channel, CHANNELS, "channel"))
        forecasts = self.run.forecasts(name)
        row = self._row(origin)
        window, outcome = around(self.run, int(forecasts.origins[row]))
        axes = new_axes(ax)
        colour = run_colours(self.run)[name]
        draw_forecast(axes, window, forecasts.paths(row, row + 1)[0], outcome, colour, column)
        style_axes(axes, CLOSE_LABEL if column == CLOSE else channel.capitalize())
        date_axis(axes)
        axes.legend(fontsize=8, frameon=False)
        head_axes(axes, f"{titles_of(self.run)[name]}: forecast made at {time_text(window.origin)}")
        return axes

    def skill(self, *, ax: Axes | None = None) -> Axes:
        """CRPS of the close by forecast step in percent of the opponent's, with 95 % intervals; below zero is better.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw.

        Raises
        ------
        StoreError
            If no origin has a known outcome.
        """
        if not self.run.manifest["origins"]["scored"]:
            raise StoreError(f"{self.run.directory}: no origin has a known outcome, so no forecast is scored")
        axes = new_axes(ax)
        draw_skill(axes, self.run.scores(), titles_of(self.run), opponent_of(self.run), run_colours(self.run))
        head_axes(axes, heading_of(self.run) + "Forecast error by horizon: below zero is better")
        return axes

    def browse(self, height: int = 900) -> Page:
        """The page of the run inside of the notebook: its forecast browser, quality, trading and provenance.

        Parameters
        ----------
        height : int
            Pixels.

        Returns
        -------
        Page
            Shown by a notebook at the end of a cell. The notebook then holds the whole page, some MB for a long run;
            otherwise open ``report.html`` of the run in a browser.

        Raises
        ------
        StoreError
            If the run has no page.
        """
        return stored_page(self.run.directory, height)

    def _row(self, origin: str | datetime | int) -> int:
        """The row of an origin."""
        index = self.run.origins().index
        count = len(index)
        if isinstance(origin, int):
            if not -count <= origin < count:
                raise StoreError(f"origin {origin}: the run has {count:,} origins, 0 to {count - 1} or -{count} to -1")
            return origin % count
        time = _time(origin)
        found = int(np.abs(milliseconds(index) - int(time.timestamp() * 1000)).argmin())
        if index[found] != time:
            near = time_text(int(milliseconds(index)[found]))
            raise StoreError(f"origin {short(str(origin))}: no forecast was made then; the nearest is of {near}")
        return found


@dataclass(frozen=True, slots=True, repr=False)
class Page:
    """A page in a frame of its own, which reaches neither the notebook nor a network."""

    html: str
    height: int

    def __repr__(self) -> str:
        return f"<Page of {len(self.html) / 1e6:.1f} MB: shown by a notebook>"

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="Report of the run" sandbox="allow-scripts" srcdoc="{escape(self.html)}" '
            f'style="width:100%;height:{self.height:d}px;border:1px solid #BBBBBB"></iframe>'
        )


def stored_page(directory: Path, height: int) -> Page:
    """The page in the folder of a run.

    Raises
    ------
    StoreError
        If it has none.
    """
    file = directory / NAME
    try:
        return Page(read_file(file, MAX_PAGE_BYTES).decode("utf-8"), height)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{file}: cannot be read ({error}); write it: btcbt report {directory}") from None


def _time(origin: str | datetime) -> pd.Timestamp:
    import pandas as pd

    try:
        time = pd.Timestamp(origin)
        return time.tz_localize("UTC") if time.tzinfo is None else time.tz_convert("UTC")
    except (ValueError, TypeError) as error:
        problem = " ".join(str(error).split())[:100]
        raise StoreError(f"origin {short(origin)}: not a time ({problem}); write 2019-06-01T13:00") from None


def new_axes(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure, which a notebook shows by itself."""
    return plt.subplots(figsize=SIZE, layout="constrained")[1] if ax is None else ax


def head_axes(axes: Axes, text: str) -> None:
    """Title of axes that a notebook shows."""
    axes.set_title(text, loc="left", fontsize=10)
