"""An account of a stored run, simulated again from what is stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from btcbt.candles import make_candles, read_funding
from btcbt.config import BUY_AND_HOLD
from btcbt.errors import StoreError
from btcbt.portfolio import live_portfolio
from btcbt.records import CHANNELS, Candles, FundingRates
from btcbt.report.figures import milliseconds
from btcbt.storage.runs import Run, require

TOLERANCE = 1e-9
"""Largest relative difference between the equity that is stored and the one simulated again."""


def live_account(run: Run, account: str) -> Any:
    """The account as a ``vectorbt.Portfolio``; see `btcbt.report.run.Run.portfolio`."""
    equity = run.equity()
    require(account, equity.columns, "account", run.directory)
    targets = run.targets()
    # Buy and hold is an account of every run, whether it is among the strategies or not.
    decided = np.ones(len(targets)) if account == BUY_AND_HOLD and account not in targets else targets[account]
    portfolio = live_portfolio(
        stored_candles(run),
        milliseconds(targets.index),
        np.asarray(decided, dtype=np.float64),
        account,
        run.config.portfolio,
        funding=_funding(run),
    )
    known, again = equity[account].to_numpy(), portfolio.value().to_numpy()
    if known.shape != again.shape or not np.allclose(again, known, rtol=TOLERANCE, atol=TOLERANCE * known[0]):
        raise StoreError(
            f"{run.directory}: the stored decisions of {account} do not lead to its stored equity; the run is of "
            "another version, or its stages were replaced; run it again"
        )
    return portfolio


def stored_candles(run: Run) -> Candles:
    """The candles of a run as its stages had them."""
    table, candles = run.candles(), run.manifest["candles"]
    filled = table["filled"].to_numpy(dtype=np.bool_)
    made = make_candles(
        milliseconds(table.index),
        table[list(CHANNELS)].to_numpy(dtype=np.float64),
        interval=candles["interval"],
        source=candles["path"],
        sha256=candles["sha256"],
    )
    return replace(made, filled=filled) if filled.any() else made


def _funding(run: Run) -> FundingRates | None:
    """The funding series that the accounts paid; a run stores its digest, not its rates."""
    noted = run.manifest.get("funding")
    if noted is None:
        return None
    funding = read_funding(noted["path"])
    if funding.sha256 != noted["sha256"]:
        raise StoreError(
            f"{run.directory}: {noted['path']} is no longer the funding series that the accounts paid; restore it, or "
            "run again"
        )
    return funding
