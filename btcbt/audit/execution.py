"""Checks of the simulated execution: a ledger worked out by hand, and fills against the true opens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btcbt.audit.findings import Finding
from btcbt.config import PortfolioConfig, time_text
from btcbt.portfolio import closing_times, fill_times
from btcbt.records import BPS, HOUR_MS, OPEN, Candles, IntArray
from btcbt.walkforward.stages import Simulate
from btcbt.windows import Windows

TOLERANCE = 1e-9
"""Relative: the ledger was computed in decimal, the simulation in binary floating point."""
_FILLS = 200

LEDGER_CONFIG = PortfolioConfig(initial_cash=1000.0, fee_bps=100.0, slippage_bps=100.0, max_short=1.0)
# open, high, low, close of five hours. No open equals a close, so each fill price identifies its candle.
_PRICES = ((100, 130, 90, 120), (200, 220, 190, 210), (220, 240, 210, 230), (100, 110, 85, 90), (95, 96, 78, 80))
# Half long, out, half short, unchanged: decided at the closes of hours 0 to 3, filled at the opens of 1 to 4.
_TARGETS = (0.5, 0.0, -0.5, -0.5)
# Hour 1: 0.5 x 1000 / 200 = 2.5 coins at 200 x 1.01 = 202, a fee of 5.05; cash 489.95, equity at 210: 1014.95.
# Hour 2: 2.5 coins sold at 220 x 0.99 = 217.8, a fee of 5.445; cash 1029.005.
# Hour 3: 0.5 x 1029.005 / 100 = 5.145025 coins sold short at 99, a fee of 5.09357475; cash 1533.26890025,
#         equity at 90: 1533.26890025 - 463.05225 = 1070.21665025.
# Hour 4: no order; equity at 80: 1533.26890025 - 411.602 = 1121.66690025.
_EQUITY = (1014.95, 1029.005, 1070.21665025, 1121.66690025)
_ORDERS = {
    "price": (202.0, 217.8, 99.0),
    "size": (2.5, 2.5, 5.145025),
    "fee": (5.05, 5.445, 5.09357475),
}


def check_ledger(simulate: Simulate) -> tuple[int, list[Finding]]:
    """Simulate the known ledger; returns the number of comparisons and the differences found."""
    start = 1_559_347_200_000  # 2019-06-01
    times = start + HOUR_MS * np.arange(len(_PRICES), dtype=np.int64)
    values = np.column_stack([np.array(_PRICES, dtype=np.float64), np.ones((len(_PRICES), 2))])
    candles = Candles(times, values, HOUR_MS, "the audit's ledger")
    origins = times[:-1] + HOUR_MS
    done = simulate(candles, origins, np.array(_TARGETS)[:, None], ["ledger"], LEDGER_CONFIG)
    fills = fill_times(done.orders)
    expected: dict[str, NDArray[Any]] = {"open_time": times[1:], "equity": np.array(_EQUITY), "orders.time": times[1:4]}
    got = {"open_time": done.open_time, "equity": done.equity[:, 0], "orders.time": fills}
    for field, numbers in _ORDERS.items():
        expected[f"orders.{field}"] = np.array(numbers)
        got[f"orders.{field}"] = done.orders[field].to_numpy(dtype=np.float64)
    found = [
        finding for field, numbers in expected.items() for finding in _differing(field, numbers, got[field], origins)
    ]
    return len(expected), found


def _differing(field: str, expected: NDArray[Any], got: NDArray[Any], origins: IntArray) -> Iterator[Finding]:
    if len(got) != len(expected):
        detail = f"known ledger: {len(expected)} expected, {len(got)} found"
        first = int(origins[0])
        yield Finding("portfolio", "ledger", field, first, first, "none", "fresh", float("inf"), detail)
        return
    off = np.abs(got - expected)
    bad = np.flatnonzero(~(off <= TOLERANCE * np.abs(expected)))
    if len(bad):
        row = int(bad[0])
        origin = int(origins[min(row, len(origins) - 1)])
        detail = f"known ledger, row {row}: expected {expected[row]:.9g}, found {got[row]:.9g}"
        yield Finding("portfolio", "ledger", field, origin, origin, "none", "fresh", float(off[row]), detail)


def check_fills(
    simulate: Simulate, candles: Candles, windows: Windows, config: PortfolioConfig, seed: int
) -> tuple[int, list[Finding]]:
    """Simulate random targets on the true candles: fills must be at the open of the first candle after the origin.

    With `on_gap: flat` also at the open of the first candle without a decision.

    Returns
    -------
    int, list of Finding
        Fills compared, and the first one in a wrong candle or at a wrong price.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    candles = candles.observed
    end = int(np.searchsorted(windows.origins, candles.open_time[-1], side="right"))
    begin = int(rng.integers(max(end - _FILLS, 0) + 1)) if end else 0
    origins = windows.origins[begin : min(begin + _FILLS, end)]
    if not len(origins):
        return 0, []
    targets = rng.uniform(-1, 1, (len(origins), 1))
    orders = simulate(candles, origins, targets, ["probe"], config).orders
    times = fill_times(orders)
    fill_rows = np.searchsorted(candles.open_time, origins, side="left")
    if config.on_gap == "flat":
        closed = closing_times(candles, origins, origins)
        fill_rows = np.union1d(fill_rows, np.searchsorted(candles.open_time, closed[closed > 0]))
    may_fill = candles.open_time[fill_rows]
    side = np.where(orders["side"] == "buy", 1.0, -1.0)
    for time, price, sign in zip(times, orders["price"], side, strict=True):
        at = int(np.searchsorted(may_fill, time))
        if at == len(may_fill) or may_fill[at] != time:
            decided = int(origins[np.searchsorted(origins, time, side="right") - 1])
            detail = f"a fill at {time_text(int(time))} is not at the open of the first candle after a decision"
            return len(times), [_misfill("orders.time", decided, int(time), float("inf"), detail)]
        expected = float(candles.values[fill_rows[at], OPEN]) * (1 + sign * config.slippage_bps * BPS)
        off = abs(price - expected)
        if not off <= TOLERANCE * expected:
            detail = f"expected {expected:.9g} (the next open with slippage), found {price:.9g}"
            decided = int(origins[np.searchsorted(origins, time, side="right") - 1])
            return len(times), [_misfill("orders.price", decided, int(time), off, detail)]
    return len(times), []


def _misfill(field: str, origin: int, time: int, size: float, detail: str) -> Finding:
    return Finding("portfolio", "fills", field, origin, time, "none", "fresh", size, detail)
