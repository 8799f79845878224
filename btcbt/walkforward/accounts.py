"""Scores of every account of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from btcbt.metrics import summarise_returns
from btcbt.metrics.returns import equity_returns
from btcbt.metrics.sharpe import sharpe_ratio
from btcbt.portfolio import Simulation
from btcbt.records import Candles, FloatArray
from btcbt.storage.ledger import Trial, stretch_digest, trial_id

if TYPE_CHECKING:
    import pandas as pd

from btcbt.config import BUY_AND_HOLD

"""Name of the account that the others are measured against."""


def account_numbers(simulation: Simulation, horizon: int, trials: Sequence[Trial]) -> dict[str, float]:
    """Scores of every account beside buy and hold; each is deflated by every trial on these candles.

    Parameters
    ----------
    simulation : Simulation
        K accounts, one of them named `BUY_AND_HOLD`.
    horizon : int
        Forecast horizon in candles; no bootstrap block is shorter.
    trials : sequence of Trial
        Every configuration ever tried, those of this run among them.

    Returns
    -------
    dict of str to float
        ``strategy.<account>.<score>``; see `btcbt.metrics.summarise_returns`.
    """
    sharpes = [trial.sharpe for trial in trials]
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
            trial_sharpes=sharpes,
        )
        for score in ("fees", "slippage", "funding", "borrow", "exposure", "ruined"):
            scores[score] = float(getattr(simulation, score)[k])
        numbers |= {f"strategy.{name}.{key}": value for key, value in scores.items()}
    return numbers


def account_trials(
    simulation: Simulation, candles: Candles, experiment: str, made_of: Mapping[str, Mapping[str, object]]
) -> list[Trial]:
    """What the ledger is to remember of each account.

    Parameters
    ----------
    simulation : Simulation
        K accounts.
    candles : Candles
        What they traded on.
    experiment : str
        Its name.
    made_of : mapping
        Accounts that were tried, and what each is made of besides the candles, as JSON values.
    """
    start, end = int(simulation.open_time[0]), int(simulation.open_time[-1]) + simulation.interval_ms
    stretch = stretch_digest(candles, start, end)
    trials = []
    for name, content in made_of.items():
        returns = equity_returns(simulation.equity[:, simulation.names.index(name)], simulation.initial_cash)
        sharpe = sharpe_ratio(returns)
        moves = np.isfinite(sharpe)
        trials.append(
            Trial(
                id=trial_id({**content, "stretch": stretch}),
                name=name,
                experiment=experiment,
                candles=candles.sha256,
                stretch=stretch,
                start=start,
                end=end,
                sharpe=sharpe,
                n=len(returns),
                skew=float(stats.skew(returns)) if moves else float("nan"),
                kurtosis=float(stats.kurtosis(returns, fisher=False)) if moves else float("nan"),
            )
        )
    return trials


def _by_candle(simulation: Simulation, orders: pd.DataFrame, amounts: pd.Series[float]) -> FloatArray:
    """Amounts of orders summed over the candle that each was filled in, (N',)."""
    times = orders["time"].dt.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    total = np.zeros(len(simulation.open_time))
    np.add.at(total, np.searchsorted(simulation.open_time, times), amounts.to_numpy(dtype=np.float64))
    return total
