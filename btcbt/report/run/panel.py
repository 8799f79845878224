"""A finished run on several symbols as people use it, in a notebook or a script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from btcbt.errors import StoreError
from btcbt.report.run import Run
from btcbt.storage import panel_runs as stored
from btcbt.storage.runs import require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from btcbt.report.run.plots import Page


class PanelRun(stored.PanelRun):
    """A finished run on several symbols: a short text in a terminal, a summary in a notebook.

    Attributes
    ----------
    directory : Path
        Where it lies.
    config : PanelConfig
        The experiment, defaults filled in.
    manifest : mapping
        Where the numbers came from.
    metrics : mapping of str to float
        Headline numbers over all symbols under dotted keys; those of single symbols are in their runs.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        from btcbt.report.run.card import panel_card

        return panel_card(self)

    def symbol(self, symbol: str) -> Run:
        """The run of one symbol, with its forecasts and the accounts that trade it alone.

        Raises
        ------
        StoreError
            If there is no such symbol, or its run is not beside this one.
        """
        return Run.of(stored.PanelRun.symbol(self, symbol))

    def pooled(self) -> pd.DataFrame:
        """Every forecaster beside the opponent over all symbols.

        Returns
        -------
        DataFrame
            By ``forecaster`` and ``step`` (0: the energy score of the whole path): ``difference_pct`` (negative is
            better), ``low_pct``, ``high_pct``, ``detectable_pct``, ``p_value``, ``adjusted_p``, ``joint_p``,
            ``effective_symbols`` and others; see `btcbt.metrics.pooled_versus`.
        """
        from btcbt.report.panel_tables import pooled_frame

        return pooled_frame(self)

    def by_symbol(self) -> pd.DataFrame:
        """The same on each symbol, by ``forecaster``, ``step`` and ``symbol``."""
        from btcbt.report.panel_tables import symbol_frame

        return symbol_frame(self)

    def cross_section(self) -> pd.DataFrame:
        """How every forecaster ranks the symbols.

        Returns
        -------
        DataFrame
            By ``forecaster``, ``step`` and ``measure`` (``ic``, ``rank_ic``, ``spread_bps``, ``hit_rate``): ``mean``,
            ``low``, ``high``, ``p_value``, ``adjusted_p``, ``chance``, ``placebo_p`` and others; see
            `btcbt.metrics.cross_section`.
        """
        from btcbt.report.panel_tables import cross_section_frame

        return cross_section_frame(self)

    @property
    def plot(self) -> PanelPlots:
        """Pictures: ``run.plot.forest()``, ``.rank_ic()`` and ``.browse()``."""
        return PanelPlots(self)


@dataclass(frozen=True, slots=True)
class PanelPlots:
    """The pictures of a run on several symbols; a new figure is made where `ax` is left out."""

    run: PanelRun

    def forest(self, forecaster: str | None = None, step: int | None = None, *, ax: Axes | None = None) -> Axes:
        """Difference to the opponent on each symbol with its 95 % interval, and over all as a diamond.

        Parameters
        ----------
        forecaster : str, optional
            The main one if left out.
        step : int, optional
            Candles ahead; the last if left out.
        ax : Axes, optional
            Where to draw.

        Raises
        ------
        StoreError
            If there is no such comparison.
        """
        from btcbt.report.panel_figures import draw_forest, forest_title
        from btcbt.report.panel_tables import main_forecaster
        from btcbt.report.run.plots import head_axes, new_axes

        known = [name for name in self.run.manifest["forecasters"] if name != self.run.manifest["opponent"]]
        name = require(forecaster or main_forecaster(self.run), known, "forecaster beside the opponent")
        at, axes = self._step(step), new_axes(ax)
        draw_forest(axes, self.run, name, at)
        head_axes(axes, forest_title(self.run, name, at))
        return axes

    def rank_ic(self, forecaster: str | None = None, step: int | None = None, *, ax: Axes | None = None) -> Axes:
        """Mean RankIC over a moving window, a line a forecaster, with the 95 % interval of one of them.

        Parameters
        ----------
        forecaster : str, optional
            Whose interval is drawn; the main one's if left out.
        step, ax
            As `forest`.

        Raises
        ------
        StoreError
            If there is no such forecaster or step.
        """
        from btcbt.report.panel_figures import draw_rank_ic, rank_ic_title
        from btcbt.report.panel_tables import main_forecaster
        from btcbt.report.run.plots import head_axes, new_axes

        name = require(forecaster or main_forecaster(self.run), self.run.manifest["forecasters"], "forecaster")
        at, axes = self._step(step), new_axes(ax)
        draw_rank_ic(axes, self.run, at, name)
        head_axes(axes, rank_ic_title(self.run, at))
        return axes

    def browse(self, height: int = 900) -> Page:
        """The page of the run inside of the notebook; see `btcbt.report.run.plots.Plots.browse`.

        Raises
        ------
        StoreError
            If the run has no page.
        """
        from btcbt.report.run.plots import stored_page

        return stored_page(self.run.directory, height)

    def _step(self, step: int | None) -> int:
        """One of the steps that are compared."""
        from btcbt.metrics.score import comparison_steps

        if not self.run.metrics.get("origins.scored"):
            raise StoreError(f"{self.run.directory}: no origin has a known outcome, so no forecast is scored")
        steps = comparison_steps(self.run.config.windows.horizon)
        return steps[-1] if step is None else int(require(str(step), map(str, steps), "compared step"))


def panel_run(run: stored.PanelRun) -> PanelRun:
    """The same run with everything that `PanelRun` adds."""
    return PanelRun(run.directory, run.config, run.manifest, run.metrics)
