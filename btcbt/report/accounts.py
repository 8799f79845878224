"""Scores of every account of a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from btcbt.metrics import summarise_returns
from btcbt.metrics.returns import equity_returns
from btcbt.metrics.sharpe import sharpe_ratio
from btcbt.portfolio import Simulation
from btcbt.records import FloatArray

if TYPE_CHECKING:
    import pandas as pd

BUY_AND_HOLD = "buy_and_hold"
"""Name of the account that the others are measured against."""


def account_numbers(simulation: Simulation, horizon: int) -> dict[str, float]:
    """Scores of every account beside buy and hold; each is deflated by all accounts of the run.

    Parameters
    ----------
    simulation : Simulation
        K accounts, one of them named `BUY_AND_HOLD`.
    horizon : int
        Forecast horizon in candles; no bootstrap block is shorter.

    Returns
    -------
    dict of str to float
        ``strategy.<account>.<score>``; see `btcbt.metrics.summarise_returns`.
    """
    returns = [equity_returns(column, simulation.initial_cash) for column in simulation.equity.T]
    trials = [ratio for ratio in map(sharpe_ratio, returns) if np.isfinite(ratio)]
    held = simulation.equity[:, simulation.names.index(BUY_AND_HOLD)]
    numbers: dict[str, float] = {}
    for k, name in enumerate(simulation.names):
        orders = simulation.orders[simulation.orders["strategy"] == name]
        trades = simulation.trades[simulation.trades["strategy"] == name]
        scores = summarise_returns(
            simulation.equity[:, k],
            held,
            open_time=simulation.open_time,
            interval_ms=simulation.interval_ms,
            horizon=horizon,
            initial=simulation.initial_cash,
            traded=_by_candle(simulation, orders, orders["size"] * orders["price"]),
            costs=_by_candle(simulation, orders, orders["fee"] + orders["slippage"]),
            trade_returns=trades.loc[trades["status"] != "open", "return"].to_numpy(dtype=np.float64),
            trial_sharpes=trials,
        )
        for score in ("fees", "slippage", "funding", "borrow", "exposure", "ruined"):
            scores[score] = float(getattr(simulation, score)[k])
        numbers |= {f"strategy.{name}.{key}": value for key, value in scores.items()}
    return numbers


def _by_candle(simulation: Simulation, orders: pd.DataFrame, amounts: pd.Series[float]) -> FloatArray:
    """Amounts of orders summed over the candle that each was filled in, (N',)."""
    times = orders["time"].dt.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    total = np.zeros(len(simulation.open_time))
    np.add.at(total, np.searchsorted(simulation.open_time, times), amounts.to_numpy(dtype=np.float64))
    return total
