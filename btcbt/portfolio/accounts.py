"""Targets and candles to equity.

How an account works here
-------------------------
*Fill.* A target decided at an origin is filled at the open of the first candle that opens at or after it, so
same-candle fills cannot be expressed. An order is sent only where the target, clipped to the limits, differs
from the previous one; NaN sends none. Candles that fill a gap are left out: nothing trades in a gap.

*Gaps.* A target is a decision for the candle that it is filled in, and for the later ones that open within a stride of
its origin. The others have none: those after a gap, until there is a decision again. The position is kept or, with
`on_gap: flat`, closed at the open of the first such candle, as if zero had been decided.

*Size.* At the fill the account is valued at that open, before costs; the position becomes ``target x equity /
open`` units. Buying pays ``open x (1 + slippage)`` and selling gets ``open x (1 - slippage)``; the fee is a
share of the value traded at that price. Costs are paid from cash, so the weight after the fill is ``target x
equity before costs / equity after costs``, but never above 1: a purchase is cut to what cash can pay, fee
included, and a target of 1 leaves no cash. Between fills the weight drifts with the price.

*Carry.* Funding and borrowing are settled in the coin, hour by hour: at each candle's close and, for the
hours of a gap, at the open after it. A long position of `q` units becomes ``q (1 - funding)`` each hour, a
short one ``q (1 - funding) (1 + borrow)``; the equity moves by the rate times the value held. So a fully
invested long, which has no cash, can pay funding, and a borrowed coin accrues interest in kind, as spot
margin does. The difference from settlement in cash is of second order (rate x return). The rates of a funding
series are settled in the same way, each once, on what was held up to its time: a fill at the open of that very
moment comes after it. A time inside a candle or a gap is settled at the end of it.

*Ruin.* Where buying back a short, costs included, takes the whole equity (tested at the open before a fill and
at the high of each candle), the account is liquidated: its equity is 0 from that candle on, later targets are
void.

Carry through vectorbt
----------------------
vectorbt has no carry. Its simulation depends on prices and fractions of equity alone, so a position whose units
change by a known factor equals a constant position in an index ``price x factor``: value, fees, slippage and
cash agree. Each column is simulated on its own index; sizes and prices are converted back into coins for the
tables. Without carry the factor is exactly 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btcbt.config import PortfolioConfig
from btcbt.errors import CandleError, ConfigError
from btcbt.records import BPS, CLOSE, HIGH, HOUR_MS, LOW, OPEN, Candles, FloatArray, FundingRates, IntArray

if TYPE_CHECKING:
    import pandas as pd

MAX_CARRY = 1e6
"""Factor by which carry may shrink or grow one holding; beyond it units lose their precision."""

MIN_PRICE = 1e-11
"""vectorbt takes prices below 1e-12 for zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """K accounts over N' candles, each with its own cash.

    Attributes
    ----------
    names : tuple of str (K,)
        Names of the columns.
    open_time : int64 (N',)
        Open times of the rows, ms UTC: from the candle in which the first target is filled to the last candle
        of the last target's stride.
    interval_ms : int
        Length of a candle in ms.
    initial_cash : float
        Equity before the first row, in quote units.
    equity : float64 (N', K)
        Cash plus position at each candle's close, in quote units.
    weight : float64 (N', K)
        Realised weight: value of the position over equity at each candle's close.
    orders : DataFrame
        One row per fill: ``strategy``, ``time`` (open of the candle), ``side`` (buy, sell), ``size`` (base
        units), ``price`` (slippage included), ``fee`` and ``slippage`` (quote units), ``target`` (the weight
        ordered).
    trades : DataFrame
        One row per position, from leaving zero to returning to it or changing sign: ``strategy``, ``side``
        (long, short), ``entry_time``, ``exit_time`` (NaT while open), ``entry_price`` and ``exit_price`` (of
        the first and the last fill; the last close while open), ``value`` (quote units of all entries),
        ``fee``, ``pnl`` (quote units, net of all costs and carry), ``return`` (pnl / value), ``status``
        (closed, open, liquidated).
    turnover : float64 (K,)
        Value traded over equity at the fill, summed over orders.
    fees, slippage, funding, borrow : float64 (K,)
        Total quote units paid; funding is negative where it was earned.
    decided : bool (N', K)
        Whether the row has a decision.
    exposure : float64 (K,)
        Mean absolute weight over the rows.
    ruined : bool (K,)
        Whether the account was liquidated because it could not buy back a short.
    """

    names: tuple[str, ...]
    open_time: IntArray
    interval_ms: int
    initial_cash: float
    equity: FloatArray
    weight: FloatArray
    orders: pd.DataFrame
    trades: pd.DataFrame
    turnover: FloatArray
    fees: FloatArray
    slippage: FloatArray
    funding: FloatArray
    borrow: FloatArray
    decided: NDArray[np.bool_]
    exposure: FloatArray
    ruined: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fills:
    """How orders are filled, where it differs from the configuration.

    Attributes
    ----------
    fee_bps, slippage_bps : float
        Costs a side, basis points.
    delay : int
        Candles by which every fill is late: 0 for the open after the origin, 1 for the next one.
    """

    fee_bps: float
    slippage_bps: float
    delay: int = 0


def simulate(
    candles: Candles,
    origins: IntArray,
    targets: FloatArray,
    names: Sequence[str],
    config: PortfolioConfig,
    *,
    funding: FundingRates | None = None,
) -> Simulation:
    """Trade K columns of targets on one history.

    Parameters
    ----------
    candles : Candles
        N candles; those before the first fill and after the last stride are ignored.
    origins : int64 (M,)
        When targets were decided, ms UTC, increasing.
    targets : float64 (M, K)
        Fractions of equity in [-1, 1]; NaN where there is no decision.
    names : sequence of str (K,)
        Names of the columns.
    config : PortfolioConfig
        Costs, limits, initial cash.
    funding : FundingRates, optional
        The rates of `config.funding`, if it names some.

    Returns
    -------
    Simulation
        Rows start with the candle after the first origin and end one stride (the smallest distance of two
        origins) after the last, or with the candles. A last target without a candle after it stays unfilled.

    Raises
    ------
    ConfigError
        Carry would shrink or grow a holding by more than `MAX_CARRY`.
    CandleError
        A price is below `MIN_PRICE`.
    ValueError
        Shapes do not match, origins do not increase or share a candle, none has a candle after it, a target
        is outside [-1, 1], or only one of `config.funding` and `funding` is given.
    """
    market, orders, decided = ordered(candles, origins, targets, len(names), config)
    costs = Costs(config.fee_bps * BPS, config.slippage_bps * BPS)
    carry, account, ruin = trade(market, orders, costs, config, funding)
    return report(market, carry, account, ruin, decided, tuple(names), config)


def simulate_variants(
    candles: Candles,
    origins: IntArray,
    targets: FloatArray,
    variants: Sequence[Fills],
    config: PortfolioConfig,
    *,
    funding: FundingRates | None = None,
) -> FloatArray:
    """Trade K columns of targets in V ways, as V x K columns of one simulation.

    Parameters
    ----------
    candles, origins, targets, config, funding
        As `simulate`.
    variants : sequence of Fills (V,)
        Replace the costs of the configuration.

    Returns
    -------
    float64 (V, N', K)
        Equity at the close of the candles that `simulate` returns. An order that a delay moves beyond them stays
        unfilled.

    Raises
    ------
    ConfigError, ValueError
        As `simulate`.
    """
    columns = np.asarray(targets).shape[-1]
    market, orders, _ = ordered(candles, origins, targets, columns, config)
    late = np.hstack([later(orders, one.delay) for one in variants])
    fee, slippage = (
        np.repeat(bps, columns) * BPS for bps in np.array([(o.fee_bps, o.slippage_bps) for o in variants]).T
    )
    _, account, ruin = trade(market, late, Costs(fee, slippage), config, funding)
    equity, _ = account_equity(account, ruin)
    return np.moveaxis(equity.reshape(len(orders), len(variants), columns), 1, 0)


def live_portfolio(
    candles: Candles,
    origins: IntArray,
    targets: FloatArray,
    name: str,
    config: PortfolioConfig,
    *,
    funding: FundingRates | None = None,
) -> Any:
    """One account of `simulate` as vectorbt's own object.

    Parameters
    ----------
    candles, origins, config, funding
        As `simulate`.
    targets : float64 (M,)
        Those of the account, NaN where it has no decision.
    name : str
        Its name.

    Returns
    -------
    vectorbt.Portfolio
        Of one column. Its value is the account's equity; with carry, prices and units are those of the index.

    Raises
    ------
    ConfigError, CandleError, ValueError
        As `simulate`.
    """
    market, orders, _ = ordered(candles, origins, targets[:, None], 1, config)
    costs = Costs(config.fee_bps * BPS, config.slippage_bps * BPS)
    _, account, _ = trade(market, orders, costs, config, funding)
    portfolio = account.portfolio
    return portfolio.replace(wrapper=portfolio.wrapper.replace(columns=[name])).iloc[0]


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """Fractions a side, of all columns or of each, (K,)."""

    fee: float | FloatArray
    slippage: float | FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """The N' simulated candles of one symbol, (N', 1, 6) to broadcast over columns, or of each column, (N', C, 6).

    `groups` is the account of each column, (C,), where several columns share the cash of one; None if each is one.
    """

    open_time: IntArray
    interval_ms: int
    values: FloatArray
    source: str
    groups: IntArray | None = None

    @property
    def open(self) -> FloatArray:
        """Opens."""
        return self.values[:, :, OPEN]

    @property
    def high(self) -> FloatArray:
        """Highs."""
        return self.values[:, :, HIGH]

    @property
    def low(self) -> FloatArray:
        """Lows."""
        return self.values[:, :, LOW]

    @property
    def close(self) -> FloatArray:
        """Closes."""
        return self.values[:, :, CLOSE]

    def shared(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sums over the columns of each account, (N', A); the values themselves if each column is an account."""
        if self.groups is None:
            return values
        return np.add.reduceat(values, np.flatnonzero(np.diff(self.groups, prepend=-1)), axis=1)

    def of_columns(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of accounts, (..., A), for each of their columns."""
        return values if self.groups is None else np.asarray(values[..., self.groups])

    def at(self, prices: FloatArray, row: IntArray, column: IntArray) -> FloatArray:
        """Prices at rows and columns."""
        return np.asarray(prices[row, column if prices.shape[1] > 1 else np.zeros_like(column)])


@dataclass(frozen=True, slots=True, eq=False)
class _Carry:
    """Coins held per unit of the index, (N', K), and the log rates behind them, (2, N', K)."""

    at_open: FloatArray  # before the fill
    at_close: FloatArray
    log_funding: FloatArray  # [0]: over the gap before a row, [1]: over the row itself
    log_borrow: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _Account:
    """Result of vectorbt for the orders, in units of the index."""

    portfolio: Any
    orders: FloatArray  # (N', K) ordered weights, NaN where none
    mark: FloatArray  # (N', K) index at each close
    units: FloatArray  # (N', K) after the row's fill
    cash: FloatArray  # (N', A)


@dataclass(frozen=True, slots=True, eq=False)
class _Ruin:
    """Where accounts are liquidated, (A,); N' and NaN for those that are not."""

    row: IntArray
    first_void: IntArray  # the row from which orders are void
    mark: FloatArray  # the index at which the equity is 0, of each column
    price: FloatArray  # the same as a price


def ordered(
    candles: Candles,
    origins: IntArray,
    targets: FloatArray,
    columns: int,
    config: PortfolioConfig,
    stride: int | None = None,
) -> tuple[Market, FloatArray, NDArray[np.bool_]]:
    """The candles to simulate, the weights ordered at their opens (NaN: none), and which have a decision, (N', K).

    `stride` is the time that a decision is for, ms; the smallest distance of two origins if left out.
    """
    targets, candles = np.asarray(targets, dtype=np.float64), candles.observed
    stride = smallest_stride(candles, origins) if stride is None else stride
    rows, fill_rows = _schedule(candles, origins, targets, columns, stride)
    market = Market(candles.open_time[rows], candles.interval_ms, candles.values[rows][:, None], candles.source)
    orders = np.full((len(market.open_time), columns), np.nan)
    orders[fill_rows] = np.clip(targets, -config.max_short, config.max_long)[: len(fill_rows)]
    decided = _decided(market, origins[: len(fill_rows)], fill_rows, orders, stride)
    if config.on_gap == "flat":
        orders[np.diff(decided.astype(np.int8), axis=0, prepend=0) < 0] = 0.0
    return market, _changes(orders), decided


def trade(
    market: Market, orders: FloatArray, costs: Costs, config: PortfolioConfig, funding: FundingRates | None
) -> tuple[_Carry, _Account, _Ruin]:
    """Fill orders until the last candle, or until the ruin of an account."""
    carry = _carry(market, orders, config, funding)
    lowest = float(market.low.min() * min(carry.at_open.min(), carry.at_close.min()))
    if lowest < MIN_PRICE:
        raise CandleError(
            f"candles {market.source}: accounts need prices of at least {MIN_PRICE:g}, got {lowest:g} (carry "
            "included); state the prices in a smaller unit"
        )
    account = _fill(market, carry, orders, market.close * carry.at_close, costs, config)
    ruin = _find_ruin(market, carry, account, costs, config)
    if np.any(ruin.row < len(orders)):
        account = _fill(market, carry, *_after_ruin(market, account, ruin), costs, config)
    return carry, account, ruin


def _schedule(
    candles: Candles, origins: IntArray, targets: FloatArray, columns: int, stride: int
) -> tuple[slice, IntArray]:
    """Which candles to simulate, and at which of their rows each target is filled (the last one may not be)."""
    if not targets.size or targets.shape != (len(origins), columns):
        raise ValueError(f"targets {targets.shape} are not (M={len(origins)}, K={columns}), both above 0")
    if np.any(np.diff(origins) <= 0):
        raise ValueError("origins do not increase")
    if np.any(np.abs(targets) > 1):
        raise ValueError(f"target {targets[np.abs(targets) > 1][0]} is outside [-1, 1]")
    fill = np.searchsorted(candles.open_time, origins, side="left").astype(np.int64)
    fill = fill[fill < len(candles)]
    if not len(fill):
        raise ValueError(f"no candle of {candles.source} opens at or after the first origin")
    if np.any(np.diff(fill) <= 0):
        raise ValueError("two origins share the candle after them; an origin is the close of a known candle")
    stop = int(np.searchsorted(candles.open_time, origins[-1] + stride, side="left"))
    return slice(int(fill[0]), max(stop, int(fill[-1]) + 1)), fill - fill[0]


def closing_times(candles: Candles, origins: IntArray, own: IntArray) -> IntArray:
    """When `on_gap: flat` closes a position between decisions: at the open of the first candle without one.

    Parameters
    ----------
    candles : Candles
        The history.
    origins : int64 (M,)
        The origins of all accounts of the simulation, ms UTC.
    own : int64 (n,)
        Those at which this account decides.

    Returns
    -------
    int64 (n,)
        The time between the decision before each and that decision, ms UTC; 0 where every candle has a decision.
    """
    times = candles.observed.open_time
    fill = np.searchsorted(times, own)
    bare = np.maximum(np.searchsorted(times, own[:-1] + smallest_stride(candles, origins)), fill[:-1] + 1)
    closed = np.zeros(len(own), dtype=np.int64)
    closed[1:] = np.where(bare < fill[1:], times[np.minimum(bare, len(times) - 1)], 0)
    return closed


def smallest_stride(candles: Candles, origins: IntArray) -> int:
    """The smallest distance of two origins, ms."""
    return int(np.diff(origins).min()) if len(origins) > 1 else candles.interval_ms


def _decided(
    market: Market, origins: IntArray, fill_rows: IntArray, targets: FloatArray, stride: int
) -> NDArray[np.bool_]:
    """Which rows of each column have a decision, by the targets in the rows that they are filled in (N', K)."""
    until = np.zeros(len(market.open_time), dtype=np.int64)
    until[fill_rows] = origins + stride
    filled = ~np.isnan(targets)
    return np.asarray(filled | (market.open_time[:, None] < np.maximum.accumulate(until[:, None] * filled, axis=0)))


def _changes(targets: FloatArray) -> FloatArray:
    """Blank targets that equal the last known one; before the first, zero is held."""
    return np.where(targets == _previous(_last_known(targets)), np.nan, targets)


def _last_known(targets: FloatArray) -> FloatArray:
    """Carry the last number of each column forward; zero before the first."""
    row = np.where(np.isnan(targets), -1, np.arange(len(targets))[:, None])
    row = np.maximum.accumulate(row, axis=0)
    return np.where(row >= 0, np.take_along_axis(targets, np.maximum(row, 0), axis=0), 0.0)


def _previous(values: FloatArray, first: float = 0.0) -> FloatArray:
    """Shift rows down by one."""
    return np.vstack([np.full_like(values[:1], first), values[:-1]])


def later(orders: FloatArray, rows: int) -> FloatArray:
    """Shift orders down; those beyond the last row are dropped."""
    return np.vstack([np.full_like(orders[:rows], np.nan), orders[: len(orders) - rows]])


def _carry(market: Market, orders: FloatArray, config: PortfolioConfig, funding: FundingRates | None) -> _Carry:
    """Accumulate funding and borrowing; the sign of the holding is that of the last order."""
    after = np.sign(_last_known(orders))
    held = np.stack([_previous(after), after])
    closes = market.open_time + market.interval_ms
    gap = np.diff(market.open_time, prepend=market.open_time[0] - market.interval_ms) - market.interval_ms
    hours = np.stack([gap, closes - market.open_time])[:, :, None] / HOUR_MS
    log_funding = _log_funding(market, hours, config, funding) * (held != 0)
    log_borrow = np.log1p(config.borrow_bps_per_hour * BPS) * hours * (held < 0)

    step = log_funding + log_borrow
    at_close = np.cumsum(step.sum(axis=0), axis=0)
    at_open = at_close - step[1]
    # Restart from 1 wherever a column is flat, so that factors stay near 1 over a long history.
    flat = np.where(after == 0, np.arange(len(after))[:, None], -1)
    flat = np.maximum.accumulate(flat, axis=0)
    base = np.where(flat >= 0, np.take_along_axis(at_close, np.maximum(flat, 0), axis=0), 0.0)
    at_open, at_close = at_open - _previous(base), at_close - base
    extreme = max(np.abs(at_open).max(), np.abs(at_close).max())
    if extreme > np.log(MAX_CARRY):
        rates = (
            f"funding_bps_per_hour {config.funding_bps_per_hour:g}" if funding is None else f"funding {funding.source}"
        )
        raise ConfigError(
            f"portfolio: {rates} and borrow_bps_per_hour {config.borrow_bps_per_hour:g} change one holding by a factor "
            f"of e^{extreme:.0f}; expected at most {MAX_CARRY:g}; lower the rates (1 basis point per hour takes 58 % "
            "of a holding in a year)"
        )
    return _Carry(np.exp(at_open), np.exp(at_close), log_funding, log_borrow)


def _log_funding(
    market: Market, hours: FloatArray, config: PortfolioConfig, funding: FundingRates | None
) -> FloatArray:
    """Log rates over the gap before each row and over the row itself, (2, N', 1)."""
    if (funding is None) != (config.funding is None):
        given = "no rates are given" if funding is None else f"the rates of {funding.source} are given"
        raise ValueError(f"portfolio.funding is {config.funding}, but {given}")
    if funding is None:
        return np.asarray(np.log1p(-config.funding_bps_per_hour * BPS) * hours)
    paid = np.concatenate([[0.0], np.cumsum(np.log1p(-funding.rate))])
    opens, closes = market.open_time, market.open_time + market.interval_ms
    at_open, at_close = (paid[np.searchsorted(funding.time, times, side="right")] for times in (opens, closes))
    return np.stack([at_open - np.concatenate([at_open[:1], at_close[:-1]]), at_close - at_open])[:, :, None]


def _fill(
    market: Market, carry: _Carry, orders: FloatArray, mark: FloatArray, costs: Costs, config: PortfolioConfig
) -> _Account:
    """Let vectorbt fill the orders at the opens and mark at the closes."""
    # Imported here: it takes seconds, and reading a stored run does not need it.
    import pandas as pd
    import vectorbt

    price = market.open * carry.at_open
    portfolio = vectorbt.Portfolio.from_orders(
        pd.DataFrame(mark, index=_time(market.open_time)),
        size=orders,
        size_type="targetpercent",
        direction="both",
        price=price,
        val_price=price,
        fees=np.atleast_2d(costs.fee),
        fixed_fees=0.0,
        slippage=np.atleast_2d(costs.slippage),
        min_size=0.0,
        max_size=np.inf,
        size_granularity=np.nan,
        reject_prob=0.0,
        lock_cash=False,
        allow_partial=True,
        raise_reject=False,
        log=False,
        init_cash=config.initial_cash,
        group_by=market.groups,
        cash_sharing=market.groups is not None,
        call_seq="default" if market.groups is None else "auto",  # sales first, so that purchases have their cash
        ffill_val_price=True,
        update_value=False,
        init_temp_records=False,
        freq=pd.Timedelta(milliseconds=market.interval_ms),
        attach_call_seq=False,
        fillna_close=False,
        trades_type="exittrades",
        # The compiled engine, or an error: the other one is recompiled in each process, which takes half a minute.
        engine="rust",
    )
    cash = portfolio.cash().to_numpy().reshape(len(orders), -1)  # vectorbt gives one group as a series
    return _Account(portfolio, orders, mark, portfolio.assets().to_numpy(), cash)


def _find_ruin(market: Market, carry: _Carry, account: _Account, costs: Costs, config: PortfolioConfig) -> _Ruin:
    """Find where each account can no longer buy back its shorts with all that it owns."""
    cost = (1 + costs.slippage) * (1 + costs.fee)
    units, cash = account.units, account.cash
    opens = market.open * carry.at_open
    highs, lows = (
        price * pick(carry.at_open, carry.at_close)
        for price, pick in ((market.high, np.maximum), (market.low, np.minimum))
    )
    units_before, cash_before = _previous(units), _previous(cash, config.initial_cash)
    at_open = _lost(market, units_before, cash_before, opens, opens, cost)
    within = _lost(market, units, cash, highs, lows, cost)
    count, columns = units.shape
    ruin = _Ruin(*np.full((2, at_open.shape[1]), count), *np.full((2, columns), np.nan))
    for k in np.flatnonzero((at_open | within).any(axis=0)):
        row = int(np.argmax(at_open[:, k] | within[:, k]))
        void = row if at_open[row, k] else row + 1
        ruin.row[k], ruin.first_void[k] = row, void
        own = [k] if market.groups is None else np.flatnonzero(market.groups == k)
        # The price at which nothing is left; of several symbols, that is not of one: the last close.
        mark = -cash[void - 1, k] / units[void - 1, own] if len(own) == 1 else account.mark[row, own]
        ruin.mark[own], ruin.price[own] = mark, mark / carry.at_open[row, own]
    return ruin


def _lost(
    market: Market, units: FloatArray, cash: FloatArray, dear: FloatArray, cheap: FloatArray, cost: float | FloatArray
) -> NDArray[np.bool_]:
    """Where accounts with a short are worth nothing, (N', A): shorts bought back at one price, longs at another."""
    short = units < 0
    worth = cash + market.shared(np.where(short, units * dear * cost, units * cheap))
    return np.asarray((market.shared(short * 1.0) > 0) & (worth <= 0))


def _after_ruin(market: Market, account: _Account, ruin: _Ruin) -> tuple[FloatArray, FloatArray]:
    """Orders and marks of accounts that end at their ruin: no further order, and a constant index."""
    row = np.arange(len(account.orders))[:, None]
    orders = np.where(row < market.of_columns(ruin.first_void), account.orders, np.nan)
    return orders, np.where(row < market.of_columns(ruin.row), account.mark, ruin.mark)


def account_equity(account: _Account, ruin: _Ruin) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Equity at each close and whether the account is alive, (N', K) each."""
    alive = np.arange(len(account.orders))[:, None] < ruin.row
    return np.where(alive, account.portfolio.value().to_numpy().reshape(alive.shape), 0.0), alive


def report(
    market: Market,
    carry: _Carry,
    account: _Account,
    ruin: _Ruin,
    decided: NDArray[np.bool_],
    names: tuple[str, ...],
    config: PortfolioConfig,
    symbols: tuple[str, ...] = (),
) -> Simulation:
    """Convert the account back into coins and quote units, with its totals."""
    equity, alive = account_equity(account, ruin)
    held = np.where(market.of_columns(alive), account.units, 0.0)
    value = held * account.mark
    net, gross = (
        np.divide(one, equity, out=np.zeros_like(equity), where=alive)
        for one in (market.shared(value), market.shared(np.abs(value)))
    )
    funding, borrow = (market.shared(paid[None])[0] for paid in _carry_paid(market, carry, held))
    orders, owner, turnover = _orders_table(market, carry, account, names, config, symbols)

    def total(values: Any) -> FloatArray:
        return np.bincount(owner, weights=values, minlength=len(names)).astype(np.float64)

    return Simulation(
        names=names,
        open_time=market.open_time,
        interval_ms=market.interval_ms,
        initial_cash=config.initial_cash,
        equity=equity,
        weight=net,
        orders=orders,
        trades=_trades_table(market, carry, account, ruin, names, symbols),
        turnover=total(turnover),
        fees=total(orders["fee"]),
        slippage=total(orders["slippage"]),
        funding=funding,
        borrow=borrow,
        decided=decided,
        exposure=np.abs(gross).mean(axis=0),
        ruined=~alive[-1],
    )


def _owners(
    market: Market, column: IntArray, names: tuple[str, ...], symbols: tuple[str, ...]
) -> tuple[IntArray, dict[str, Any]]:
    """The account of each column, and the columns of a table that name it and, in a book, the symbol."""
    account = column if market.groups is None else market.groups[column]
    named = {"strategy": np.array(names, dtype=object)[account]}
    if symbols:
        named["symbol"] = np.array(symbols, dtype=object)[column % len(symbols)]
    return account, named


def _orders_table(
    market: Market,
    carry: _Carry,
    account: _Account,
    names: tuple[str, ...],
    config: PortfolioConfig,
    symbols: tuple[str, ...],
) -> tuple[pd.DataFrame, IntArray, FloatArray]:
    """Fills in coins; also the account of each, and the share of its equity traded."""
    import pandas as pd

    records = account.portfolio.orders.values
    row, column = records["idx"], records["col"]
    owner, named = _owners(market, column, names, symbols)
    index, opened = carry.at_open[row, column], market.at(market.open, row, column)
    size, price = records["size"] * index, records["price"] / index
    held = _previous(account.units) * market.open * carry.at_open
    equity = _previous(account.cash, config.initial_cash) + market.shared(held)
    table = pd.DataFrame(
        {
            **named,
            "time": _time(market.open_time[row]),
            "side": np.where(records["side"] == 0, "buy", "sell"),
            "size": size,
            "price": price,
            "fee": records["fees"],
            "slippage": size * np.abs(price - opened),
            "target": account.orders[row, column],
        }
    )
    return table, owner, size * price / equity[row, owner]


def _trades_table(
    market: Market,
    carry: _Carry,
    account: _Account,
    ruin: _Ruin,
    names: tuple[str, ...],
    symbols: tuple[str, ...],
) -> pd.DataFrame:
    """Positions as vectorbt records them, at the prices of their actual fills."""
    import pandas as pd

    orders, records = account.portfolio.orders.values, account.portfolio.positions.values
    price = np.full(account.mark.shape, np.nan)
    price[orders["idx"], orders["col"]] = orders["price"]
    price /= carry.at_open
    column, entered = records["col"], records["entry_idx"]
    owner, named = _owners(market, column, names, symbols)
    is_open = records["status"] == 0
    lost = is_open & (ruin.row[owner] < len(price))
    left = np.where(lost, ruin.row[owner], records["exit_idx"])
    last = market.at(market.close, np.full_like(column, len(price) - 1), column)
    value = records["size"] * records["entry_price"]
    return pd.DataFrame(
        {
            **named,
            "side": np.where(records["direction"] == 0, "long", "short"),
            "entry_time": _time(market.open_time[entered]),
            "exit_time": pd.Series(_time(market.open_time[left])).where(~is_open | lost),
            "entry_price": price[entered, column],
            "exit_price": np.where(is_open, np.where(lost, ruin.price[column], last), price[left, column]),
            "value": value,
            "fee": records["entry_fees"] + records["exit_fees"],
            "pnl": records["pnl"],
            "return": records["pnl"] / value,
            "status": np.where(lost, "liquidated", np.where(is_open, "open", "closed")),
        }
    )


def _carry_paid(market: Market, carry: _Carry, units: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Funding and borrowing paid (K,), in quote units: for a gap at its following open, for a candle at its close."""
    at_gap = _previous(units) * _previous(carry.at_close, 1.0), market.open
    at_candle = units * carry.at_open, market.close
    funding, borrow = np.zeros(units.shape[1]), np.zeros(units.shape[1])
    for part, (coins, price) in enumerate((at_gap, at_candle)):
        kept = coins * np.exp(carry.log_funding[part])
        funding += ((coins - kept) * price).sum(axis=0)
        borrow -= (kept * np.expm1(carry.log_borrow[part]) * price).sum(axis=0)
    return funding, borrow


def fill_times(orders: pd.DataFrame) -> IntArray:
    """Times of the fills in a table of orders, ms UTC."""
    return np.asarray(orders["time"].dt.tz_convert(None).to_numpy(), dtype="datetime64[ms]").astype(np.int64)


def _time(open_time: IntArray) -> pd.DatetimeIndex:
    import pandas as pd

    return pd.DatetimeIndex(open_time.astype("datetime64[ms]")).tz_localize("UTC")
