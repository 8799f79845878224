"""Accounts of a page: their equity, fills and bands, in as many points as a chart can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from btcbt.report.figures import milliseconds, notable
from btcbt.report.page.blobs import pack
from btcbt.report.page.series import equity_bands

MOST_ACCOUNTS, MOST_POINTS = 40, 400_000
"""Accounts in the charts, and points of their equity."""


class Accounts(NamedTuple):
    """The accounts of a page.

    Attributes
    ----------
    names : list of str
        Those in the charts, in the order of the run.
    meta : mapping
        Names, times of the curves, initial cash and bands.
    equity : str
        The curves (accounts, times), packed.
    limits : list of str
        Sentences on what is left out.
    """

    names: list[str]
    meta: Mapping[str, Any]
    equity: str
    limits: list[str]


def page_accounts(equity: pd.DataFrame, cash: float, main: str, horizon: int) -> Accounts:
    """The accounts of a run for its page; `main` is its main forecaster, whose accounts are shown first."""
    named = notable(equity, main)
    final = equity.iloc[-1].sort_values(ascending=False, kind="stable")
    chosen = set(list(dict.fromkeys([*named, *map(str, final.index)]))[:MOST_ACCOUNTS])
    names = [name for name in map(str, equity.columns) if name in chosen]
    every = math.ceil(len(names) * len(equity) / MOST_POINTS)
    # The last hour is always there.
    at = np.arange(len(equity) - 1, -1, -every)[::-1]
    meta = {
        "accounts": [{"name": name, "shown": name in named} for name in names],
        "equityTimes": milliseconds(equity.index)[at].tolist(),
        "cash": float(cash),
        "bands": equity_bands(equity, cash, named, horizon),
    }
    limits = [f"Curves show every {every} candles."] if every > 1 else []
    if len(names) < len(equity.columns):
        limits += [
            f"Charts hold {len(names)} of {len(equity.columns)} accounts, the best and those on the main forecaster."
        ]
    return Accounts(names, meta, pack(equity[names].to_numpy(dtype="<f4")[at].T), limits)


def page_fills(orders: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Fills of some accounts, as columns; an account is its place among the names."""
    fills = orders[orders["strategy"].isin(names)]
    return {
        "account": [names.index(name) for name in fills["strategy"]],
        "time": milliseconds(pd.DatetimeIndex(fills["time"])).tolist(),
        "side": fills["side"].tolist(),
        **{key: [_short(value) for value in fills[key]] for key in ("size", "price", "fee")},
    }


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
