"""Accounts of finished runs side by side, over the candles that all of them trade."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from btcbt.config import interval_ms
from btcbt.metrics.returns import drawdown, equity_returns, share_of_equity
from btcbt.metrics.sharpe import compound, sharpe_difference_interval, sharpe_ratio
from btcbt.records import YEAR_MS, FloatArray, IntArray
from btcbt.report.figures import milliseconds
from btcbt.storage.panel_runs import PanelRun
from btcbt.storage.runs import Run

_NAN = float("nan")


def compared_accounts(
    runs: Mapping[str, Run] | Mapping[str, PanelRun],
) -> tuple[IntArray, pd.DataFrame, dict[tuple[str, str], FloatArray]]:
    """Common hours, the table of `RunComparison.accounts`, and returns in these hours by run and account."""
    trading = {letter: run for letter, run in runs.items() if run.manifest["strategies"]}
    columns = [
        "run",
        "account",
        "total_return",
        "sharpe",
        "max_drawdown",
        "turnover",
        "sharpe_difference",
        "low",
        "high",
    ]
    equities = {letter: run.equity() for letter, run in trading.items()}
    hours = (
        common_times([milliseconds(frame.index) for frame in equities.values()])
        if len(trading) > 1
        else np.empty(0, np.int64)
    )
    if len(hours) < 2:
        return hours[:0], pd.DataFrame(columns=columns), {}
    rows: list[dict[str, Any]] = []
    returns: dict[tuple[str, str], FloatArray] = {}
    for letter, run in trading.items():
        at = np.isin(milliseconds(equities[letter].index), hours)
        cash = float(run.config.portfolio.initial_cash)
        for name in map(str, equities[letter].columns):
            equity = equities[letter][name].to_numpy(dtype=np.float64)
            returns[letter, name] = equity_returns(equity, cash)[at]
            traded = share_of_equity(_traded(run, name, milliseconds(equities[letter].index)), equity, cash)[at]
            rows.append({"run": letter, "account": name} | _performance(returns[letter, name], traded, run))
    base = next(iter(trading))
    for row in rows:
        row |= _beside(row, returns, base, trading)
    return hours, pd.DataFrame(rows, columns=columns), returns


def _traded(run: Run | PanelRun, account: str, times: IntArray) -> FloatArray:
    """Value traded by candle, quote units."""
    orders = run.orders()
    orders = orders[orders["strategy"] == account]
    total = np.zeros(len(times))
    at = np.searchsorted(times, milliseconds(pd.DatetimeIndex(orders["time"])))
    np.add.at(total, at, (orders["size"] * orders["price"]).to_numpy(dtype=np.float64))
    return total


def _performance(returns: FloatArray, traded: FloatArray, run: Run | PanelRun) -> dict[str, float]:
    a_year = YEAR_MS / interval_ms(run.config.candles.interval)
    return {
        "total_return": compound(returns),
        "sharpe": sharpe_ratio(returns) * math.sqrt(a_year),
        "max_drawdown": float(drawdown(returns).max(initial=0.0)),
        "turnover": float(traded.mean() * a_year),
    }


def _beside(
    row: Mapping[str, Any],
    returns: Mapping[tuple[str, str], FloatArray],
    base: str,
    runs: Mapping[str, Run | PanelRun],
) -> dict[str, float]:
    """Difference of an account's Sharpe ratio to that of its namesake in the first run, with its interval."""
    ours, theirs = returns[row["run"], row["account"]], returns.get((base, row["account"]))
    if row["run"] == base or theirs is None:
        return {"sharpe_difference": _NAN, "low": _NAN, "high": _NAN}
    annual = math.sqrt(YEAR_MS / interval_ms(runs[base].config.candles.interval))
    block = max(run.config.windows.horizon for run in runs.values())
    low, high = sharpe_difference_interval(ours, theirs, block)
    difference = sharpe_ratio(ours) - sharpe_ratio(theirs)
    return {"sharpe_difference": annual * difference, "low": annual * low, "high": annual * high}


def common_times(times: Sequence[IntArray]) -> IntArray:
    """Times that all have, ms UTC."""
    return reduce(lambda a, b: np.intersect1d(a, b, assume_unique=True), times)
