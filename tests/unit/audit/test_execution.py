"""The ledger and the fills accept the execution and refuse wrong ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from btcbt.audit.execution import check_fills, check_ledger
from btcbt.config import PortfolioConfig, WindowsConfig
from btcbt.portfolio import simulate
from btcbt.windows import make_windows

CONFIG = PortfolioConfig(max_short=1.0)


def with_orders(change):
    """The execution, its table of fills changed."""

    def wrong(*arguments):
        done = simulate(*arguments)
        return replace(done, orders=change(done.orders.copy()))

    return wrong


def with_equity(done, row, factor):
    equity = done.equity.copy()
    equity[row] *= factor
    return replace(done, equity=equity)


@pytest.fixture
def windows(make_history):
    config = WindowsConfig(
        context=24, horizon=6, start=datetime(2019, 1, 3, tzinfo=UTC), end=datetime(2019, 1, 12, tzinfo=UTC)
    )
    return make_windows(make_history(300, missing=[100, 101]), config)


def test_the_execution_keeps_the_ledger_and_fills_at_the_next_open(windows):
    assert check_ledger(simulate) == (6, [])
    count, found = check_fills(simulate, windows.candles, windows, CONFIG, seed=1)
    assert count >= 100
    assert not found


def test_an_equity_off_by_a_millionth_is_found():
    count, found = check_ledger(lambda *arguments: with_equity(simulate(*arguments), 2, 1 + 1e-6))
    assert count == 6
    (finding,) = found
    assert finding.field == "equity"
    assert finding.difference == pytest.approx(1070.21665025e-6, rel=1e-6)
    assert "row 2" in finding.detail


@pytest.mark.parametrize("column", ["price", "size", "fee"])
def test_a_wrong_fill_breaks_the_ledger(column):
    _, found = check_ledger(with_orders(lambda orders: orders.assign(**{column: orders[column] * 1.0001})))
    assert [finding.field for finding in found] == [f"orders.{column}"]


def test_a_missing_order_breaks_the_ledger():
    _, found = check_ledger(with_orders(lambda orders: orders.iloc[:-1]))
    assert {finding.field for finding in found} == {"orders.time", "orders.price", "orders.size", "orders.fee"}
    assert all(np.isinf(finding.difference) for finding in found)


def test_a_fill_at_another_price_is_found_with_its_origin(windows):
    def wrong(orders):
        orders.loc[orders.index[7], "price"] += 0.5
        return orders

    _, found = check_fills(with_orders(wrong), windows.candles, windows, CONFIG, seed=1)
    (finding,) = found
    assert finding.field == "orders.price"
    assert finding.difference == pytest.approx(0.5)
    assert finding.origin in windows.origins


def test_a_fill_at_a_time_without_a_decision_is_found(windows):
    import pandas as pd

    def wrong(orders):
        return orders.assign(time=orders["time"] + pd.Timedelta(minutes=30))

    _, found = check_fills(with_orders(wrong), windows.candles, windows, CONFIG, seed=1)
    assert [finding.field for finding in found] == ["orders.time"]


def test_decisions_in_a_gap_are_filled_after_it(windows):
    """The origin whose next candle is missing is filled at the open that follows the gap."""
    count, found = check_fills(simulate, windows.candles, windows, CONFIG, seed=3)
    assert count
    assert not found


def test_a_position_may_be_closed_at_the_first_open_without_a_decision_if_the_portfolio_says_so(windows):
    flat = CONFIG.model_copy(update={"on_gap": "flat"})
    count, found = check_fills(simulate, windows.candles, windows, CONFIG, seed=3)
    more, also = check_fills(simulate, windows.candles, windows, flat, seed=3)
    assert not found
    assert not also
    assert more > count

    def closing(candles, origins, targets, names, config):
        return simulate(candles, origins, targets, names, flat)

    _, unasked = check_fills(closing, windows.candles, windows, CONFIG, seed=3)
    assert [finding.field for finding in unasked] == ["orders.time"]
