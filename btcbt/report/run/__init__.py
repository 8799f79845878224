"""A finished run as people use it, in a notebook or a script: tables, pictures, live accounts and exports.

`btcbt.storage.runs.Run` reads what is stored; this class adds what is made of it. It is what `btcbt.run` and
`btcbt.load_run` return.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from btcbt.report.run.forecasts import Forecasts
from btcbt.storage import runs as stored
from btcbt.storage.panel_runs import load_any_run

if TYPE_CHECKING:
    import pandas as pd

    from btcbt.report.run.exports import FevTask
    from btcbt.report.run.panel import PanelRun
    from btcbt.report.run.plots import Plots

__all__ = ["Forecasts", "Run", "load_run"]


class Run(stored.Run):
    """A finished run: a short text in a terminal, a summary in a notebook.

    Attributes
    ----------
    directory : Path
        Where it lies.
    config : RunConfig
        The experiment, defaults filled in.
    manifest : mapping
        Where the numbers came from.
    metrics : mapping of str to float
        Headline numbers under dotted keys; NaN where a number is not defined.
    """

    __slots__ = ()

    @classmethod
    def of(cls, run: stored.Run) -> Self:
        """The same run with everything that this class adds."""
        return cls(run.directory, run.config, run.manifest, run.metrics)

    def _repr_html_(self) -> str:
        # Drawing libraries are imported when something is drawn: reading a table does not wait for them.
        from btcbt.report.run.card import card

        return card(self)

    @property
    def plot(self) -> Plots:
        """Pictures: ``run.plot.equity()``, ``.fan(origin)``, ``.skill()`` and ``.browse()``."""
        from btcbt.report.run.plots import Plots

        return Plots(self)

    def forecasts(self, name: str) -> Forecasts:
        """The stored forecasts of a forecaster, verified.

        Raises
        ------
        StoreError
            If the run has no such forecaster, or a file of it is missing or damaged.
        """
        return Forecasts.of(stored.Run.forecasts(self, name), self.config.candles.interval)

    def returns(self) -> pd.DataFrame:
        """Simple returns per candle, net of all costs, indexed by open time (UTC), a column per account.

        The first is that from the initial cash; a ruined account has returns of 0 after its -1.
        """
        from btcbt.metrics.returns import equity_returns

        equity, cash = self.equity(), self.config.portfolio.initial_cash
        return equity.apply(lambda account: equity_returns(account.to_numpy(), cash))

    def portfolio(self, account: str) -> Any:
        """The account as a live ``vectorbt.Portfolio``, simulated again from the stored decisions.

        Parameters
        ----------
        account : str
            A column of `equity`: ``threshold@kronos``, or ``buy_and_hold``.

        Returns
        -------
        vectorbt.Portfolio
            Its ``value()`` is the stored equity. With funding or borrowing its prices and units are those of an index
            (see `btcbt.portfolio`): values and costs are in quote units all the same.

        Raises
        ------
        StoreError
            If there is no such account, or the stored decisions do not lead to the stored equity.
        """
        from btcbt.report.run.account import live_account

        return live_account(self, account)

    @overload
    def to_quantstats(self) -> pd.DataFrame: ...
    @overload
    def to_quantstats(self, account: str) -> pd.Series[float]: ...
    def to_quantstats(self, account: str | None = None) -> pd.DataFrame | pd.Series[float]:
        """Returns per UTC day, net of all costs, as quantstats, pyfolio and empyrical take them.

        These candles trade on every day: say so, since those libraries assume 252 days a year, as in
        ``quantstats.stats.sharpe(returns, periods=365)``.

        Parameters
        ----------
        account : str, optional
            A column of `equity`; all of them if left out.

        Returns
        -------
        Series or DataFrame
            Indexed by day without a time zone, as they expect. The first and the last day may be incomplete; a day
            without a candle has a return of 0.
        """
        from btcbt.report.run.exports import daily_returns

        days = daily_returns(self)
        return days if account is None else days[stored.require(account, days.columns, "account", self.directory)]

    def to_nixtla(self, levels: tuple[int, ...] = (50, 80, 95), channel: str = "close") -> pd.DataFrame:
        """Forecasts beside outcomes as Nixtla's ``cross_validation`` returns them, for utilsforecast and others.

        Parameters
        ----------
        levels : tuple of int
            Central intervals, percent.
        channel : str
            One of `btcbt.records.CHANNELS`.

        Returns
        -------
        DataFrame
            A row for each origin with a known outcome and each step: ``unique_id`` (the symbol), ``ds`` (open time of
            the forecast candle, UTC without a zone), ``cutoff`` (open time of the last known one), ``y`` (the outcome)
            and, for each forecaster, its median under its name and ``NAME-lo-95``, ``NAME-hi-95`` ... of each level.
        """
        from btcbt.report.run.exports import nixtla_frame

        return nixtla_frame(self, levels, channel)

    def to_fev(self, folder: str | Path, levels: tuple[float, ...] = (0.1, 0.5, 0.9)) -> FevTask:
        """Write the outcomes as a dataset of fev, and return its task with the predictions of every forecaster.

        Every origin with a known outcome is an item of one window: the candles of its context and then the outcome, so
        that gaps are no matter::

            task, predictions = result.to_fev("fev")
            fev.Task(**task).evaluation_summary(predictions["kronos"], model_name="kronos")

        Parameters
        ----------
        folder : path
            Receives ``NAME.parquet``.
        levels : tuple of float
            Quantiles to predict.

        Returns
        -------
        FevTask
            ``task``, the keywords of ``fev.Task``, and ``predictions`` by forecaster; points are medians.
        """
        from btcbt.report.run.exports import fev_task

        return fev_task(self, Path(folder), levels)


def load_run(directory: str | Path) -> Run | PanelRun:
    """Open a finished run, on one symbol or on several.

    Parameters
    ----------
    directory : path
        ``runs/<name>/<digest>`` or ``runs/<name>``, which stands for its newest run.

    Raises
    ------
    StoreError
        If there is no whole run.
    """
    found = load_any_run(directory)
    if isinstance(found, stored.Run):
        return Run.of(found)
    from btcbt.report.run.panel import panel_run

    return panel_run(found)
