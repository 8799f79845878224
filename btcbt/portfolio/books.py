"""Accounts that trade several symbols with one cash: books.

The rules are those of `btcbt.portfolio.accounts`, for each symbol on its own candles: fills at the open of its first
candle at or after an origin, gaps, carry. What the symbols share:

*Size.* The account is valued at the opens of one moment, before costs, symbols without a candle at their last close.
Sales are filled before purchases, and purchases in increasing order of value, so that the largest is cut to what
cash can pay if the weights leave none for costs.

*Ruin.* Where an account has a short, and its cash with all longs at the low of a candle does not pay for buying back
all shorts at the high, costs included, it is liquidated.

*Delisting.* Where the candles of a symbol end before those of the others, its position is closed one candle later at
its last close, at the usual costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from btcbt.config import PortfolioConfig
from btcbt.portfolio.accounts import (
    Costs,
    Fills,
    Market,
    Simulation,
    account_equity,
    later,
    ordered,
    report,
    smallest_stride,
    trade,
)
from btcbt.records import BPS, CLOSE, HIGH, LOW, OPEN, Candles, FloatArray, IntArray


def simulate_book(
    candles: Mapping[str, Candles],
    origins: IntArray,
    targets: FloatArray,
    names: Sequence[str],
    config: PortfolioConfig,
) -> Simulation:
    """Trade A accounts on K symbols, each account with one cash.

    Parameters
    ----------
    candles : mapping of str to Candles (K,)
        Histories by symbol, of one interval; they may begin and end at different times and have different gaps.
    origins : int64 (M,)
        When targets were decided, ms UTC, increasing.
    targets : float64 (M, A, K)
        Fractions of equity in [-1, 1]; NaN where there is no decision on a symbol, which is wherever it has no candle
        that closes at the origin.
    names : sequence of str (A,)
        Names of the accounts.
    config : PortfolioConfig
        Costs, limits of each symbol, initial cash.

    Returns
    -------
    Simulation
        Of the A accounts on every candle of any symbol from the first origin to a stride after the last; orders and
        trades have the column ``symbol``, ``weight`` is net and ``exposure`` gross.

    Raises
    ------
    ConfigError
        Carry would shrink or grow a holding too much.
    CandleError
        A price is below `MIN_PRICE`.
    ValueError
        As `btcbt.portfolio.simulate`.
    """
    market, orders, decided = _book(candles, origins, targets, config)
    costs = Costs(config.fee_bps * BPS, config.slippage_bps * BPS)
    carry, account, ruin = trade(market, orders, costs, config, None)
    return report(market, carry, account, ruin, decided, tuple(names), config, tuple(candles))


def simulate_book_variants(
    candles: Mapping[str, Candles],
    origins: IntArray,
    targets: FloatArray,
    variants: Sequence[Fills],
    config: PortfolioConfig,
) -> FloatArray:
    """Trade the same books in V ways; equity (V, N', A) as of `btcbt.portfolio.simulate_variants`."""
    found = []
    for one in variants:
        market, orders, _ = _book(candles, origins, targets, config, one.delay)
        _, account, ruin = trade(market, orders, Costs(one.fee_bps * BPS, one.slippage_bps * BPS), config, None)
        found.append(account_equity(account, ruin)[0])
    return np.stack(found)


def _book(
    candles: Mapping[str, Candles], origins: IntArray, targets: FloatArray, config: PortfolioConfig, delay: int = 0
) -> tuple[Market, FloatArray, NDArray[np.bool_]]:
    """One clock for all symbols, the weights ordered on it, (N', A x K), and which rows have a decision, (N', A)."""
    targets = np.asarray(targets, dtype=np.float64)
    if targets.ndim != 3 or targets.shape[::2] != (len(origins), len(candles)) or not targets.size:
        raise ValueError(f"targets {targets.shape} are not (M={len(origins)}, A, K={len(candles)}), all above 0")
    histories = [one.observed for one in candles.values()]
    accounts, stride = targets.shape[1], smallest_stride(histories[0], origins)
    parts = []
    for k, history in enumerate(histories):
        own = np.isfinite(targets[:, :, k]).any(axis=1) & (origins <= history.open_time[-1])
        if own.any():
            parts.append((k, *ordered(history, origins[own], targets[own, :, k], accounts, config, stride)))
    if not parts:
        raise ValueError("no target of any symbol has a candle after it")
    end = max(int(origins[-1]) + stride - 1, *(int(market.open_time[-1]) for _, market, *_ in parts))
    clock = np.unique(np.concatenate([one.open_time for one in histories]))
    clock = clock[(clock >= origins[0]) & (clock <= end)]
    orders = np.full((len(clock), accounts, len(histories)), np.nan)
    decided = np.zeros((len(clock), accounts), dtype=np.bool_)
    for k, market, own_orders, own_decided in parts:
        rows = np.searchsorted(clock, market.open_time)
        orders[rows, :, k] = later(own_orders, delay)
        decided[rows] |= own_decided
    for k, history in enumerate(histories):
        gone = int(np.searchsorted(clock, history.open_time[-1], side="right"))
        if gone < len(clock):
            orders[gone, :, k] = 0.0
    values = np.stack([_on_clock(one, clock) for one in histories], axis=1)
    market = Market(
        open_time=clock,
        interval_ms=histories[0].interval_ms,
        values=np.tile(values, (1, accounts, 1)),
        source=", ".join(one.source for one in histories),
        groups=np.repeat(np.arange(accounts), len(histories)),
    )
    return market, orders.reshape(len(clock), -1), decided


def _on_clock(candles: Candles, clock: IntArray) -> FloatArray:
    """Candles at the times of a clock, (N', 6); flat ones at the last close where there are none.

    Before the first candle, where nothing is held, its open stands.
    """
    at = np.searchsorted(candles.open_time, clock, side="right") - 1
    values = candles.values[np.maximum(at, 0)].copy()
    absent = candles.open_time[np.maximum(at, 0)] != clock
    known = np.where(at[absent] >= 0, values[absent, CLOSE], candles.values[0, OPEN])
    values[absent] = 0.0
    values[np.ix_(absent, [OPEN, HIGH, LOW, CLOSE])] = known[:, None]
    return values
