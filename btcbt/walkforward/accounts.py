"""Scores of every account of a simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from btcbt.config import BUY_AND_HOLD
from btcbt.metrics import summarise_returns
from btcbt.metrics.returns import SIMULATED, equity_returns, monthly_returns, share_of_equity
from btcbt.metrics.score import ACCOUNT, ALL, POOLED, Row
from btcbt.metrics.sharpe import moments, sharpe_ratio
from btcbt.metrics.table import dotted_key
from btcbt.portfolio import Simulation, fill_times
from btcbt.records import Candles, FloatArray
from btcbt.storage.ledger import Trial, stretch_digest, trial_id
from btcbt.storage.runs import score_table
from btcbt.walkforward.scoring import Scores

if TYPE_CHECKING:
    import pandas as pd


def score_accounts(simulation: Simulation, horizon: int, trials: Sequence[Trial], symbol: str) -> Scores:
    """Scores of every account against buy and hold; Sharpe ratios are deflated by all trials on these candles.

    Parameters
    ----------
    simulation : Simulation
        K accounts, one of them named `BUY_AND_HOLD`.
    horizon : int
        Forecast horizon in candles; no bootstrap block is shorter.
    trials : sequence of Trial
        Every configuration ever tried, including those of this run.
    symbol : str
        Name of the candles.

    Returns
    -------
    Scores
        Headline numbers ``strategy.<account>.<score>`` (see `btcbt.metrics.summarise_returns`); the tables also have
        the total return of each month.
    """
    sharpes = [comparable_sharpe(trial, len(simulation.open_time)) for trial in trials]
    held = simulation.equity[:, simulation.names.index(BUY_AND_HOLD)]
    orders_of, trades_of = _by_account(simulation.orders), _by_account(simulation.trades)
    headline: dict[str, float] = {}
    tables = []
    for k, name in enumerate(simulation.names):
        orders = orders_of.get(name, simulation.orders[:0])
        trades = trades_of.get(name, simulation.trades[:0])
        scores = summarise_returns(
            simulation.equity[:, k],
            held,
            interval_ms=simulation.interval_ms,
            horizon=horizon,
            initial=simulation.initial_cash,
            traded=_by_candle(simulation, orders, orders["size"] * orders["price"]),
            costs=_by_candle(simulation, orders, orders["fee"] + orders["slippage"]),
            trade_returns=trades.loc[trades["status"] != "open", "return"].to_numpy(dtype=np.float64),
            trial_sharpes=sharpes,
            decided=simulation.decided[:, k],
        )
        scores |= {score.name: float(getattr(simulation, score.name)[k]) for score in SIMULATED}
        rows = [Row(ACCOUNT, POOLED, ALL, metric, value) for metric, value in scores.items()]
        headline |= {dotted_key(name, row): row.value for row in rows}
        months = monthly_returns(simulation.equity[:, k], simulation.open_time, simulation.initial_cash)
        rows += [Row(ACCOUNT, POOLED, f"month={month}", "total_return", value) for month, value in months.items()]
        tables.append(score_table(name, symbol, rows))
    return Scores(headline, tuple(tables))


def account_trials(
    simulation: Simulation, candles: Candles, experiment: str, contents: Mapping[str, Mapping[str, object]]
) -> list[Trial]:
    """Trials to record in the ledger, one for each account.

    Parameters
    ----------
    simulation : Simulation
        K accounts.
    candles : Candles
        The candles traded.
    experiment : str
        Its name in the ledger.
    contents : mapping
        For each account to record, everything besides the candles that identifies its configuration, as JSON values.
    """
    start, end = int(simulation.open_time[0]), int(simulation.open_time[-1]) + simulation.interval_ms
    stretch = stretch_digest(candles, start, end)
    columns = {name: k for k, name in enumerate(simulation.names)}
    orders_of = _by_account(simulation.orders)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    trials = []
    for name, content in contents.items():
        equity = simulation.equity[:, columns[name]]
        orders = orders_of.get(name, simulation.orders[:0])
        costs = _by_candle(simulation, orders, orders["fee"] + orders["slippage"])
        returns = equity_returns(equity, simulation.initial_cash)
        sharpe = sharpe_ratio(returns)
        shape = moments(returns) if np.isfinite(sharpe) else (float("nan"), float("nan"))
        trials.append(
            Trial(
                id=trial_id({**content, "stretch": stretch}),
                configuration=trial_id({key: value for key, value in content.items() if key != "decisions"}),
                gross_sharpe=sharpe_ratio(returns + share_of_equity(costs, equity, simulation.initial_cash)),
                name=name,
                experiment=experiment,
                candles=candles.sha256,
                stretch=stretch,
                start=start,
                end=end,
                sharpe=sharpe,
                n=len(returns),
                skew=shape[0],
                kurtosis=shape[1],
                recorded=now,
            )
        )
    return trials


def comparable_sharpe(trial: Trial, n: int) -> float:
    """Sharpe ratio of a trial before costs, as its luck would be in a record of `n` candles.

    The deflated Sharpe ratio takes the spread of trials as that of luck. What costs explain is not luck: a strategy
    that trades every hour loses for certain. So the spread is taken before costs, where the ledger knows it. A shorter
    record's ratio is noisier, by the root of the lengths.
    """
    sharpe = trial.gross_sharpe if np.isfinite(trial.gross_sharpe) else trial.sharpe
    return sharpe * min(1.0, math.sqrt(trial.n / n))


def _by_account(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each account that has any."""
    return {str(name): rows for name, rows in table.groupby("strategy")}


def _by_candle(simulation: Simulation, orders: pd.DataFrame, amounts: pd.Series[float]) -> FloatArray:
    """Amounts of orders summed over the candle that each was filled in, (N',)."""
    total = np.zeros(len(simulation.open_time))
    np.add.at(total, np.searchsorted(simulation.open_time, fill_times(orders)), amounts.to_numpy(dtype=np.float64))
    return total
