"""The portfolio against ledgers computed by hand, and against a plain loop over coins and cash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest

from btcbt.candles import fill_gaps
from btcbt.config import PortfolioConfig
from btcbt.errors import CandleError, ConfigError
from btcbt.portfolio import Fills, closing_times, simulate, simulate_variants
from btcbt.records import Candles, FundingRates

HOUR = 3_600_000
START = 1_560_000_000_000 // HOUR * HOUR
FREE = PortfolioConfig(initial_cash=1000.0, fee_bps=0.0, slippage_bps=0.0, max_short=1.0)


def make_candles(prices, missing=(), interval_ms=HOUR, high=None):
    """Candles from (open, close) pairs; `missing` rows are left out."""
    prices = np.array(prices, dtype=np.float64)
    keep = np.setdiff1d(np.arange(len(prices)), missing)
    values = np.column_stack(
        [
            prices[:, 0],
            prices.max(axis=1) if high is None else high,
            prices.min(axis=1),
            prices[:, 1],
            np.ones((len(prices), 2)),
        ]
    )
    open_time = START + interval_ms * np.arange(len(prices), dtype=np.int64)
    return Candles(open_time[keep], values[keep], interval_ms)


def closes(candles, rows):
    """Origins: the closes of some candles, by row."""
    return candles.open_time[list(rows)] + candles.interval_ms


def trade(candles, targets, config=FREE, rows=None):
    """Simulate one column whose first target is decided at the close of row 0."""
    rows = range(len(targets)) if rows is None else rows
    return simulate(candles, closes(candles, rows), np.array(targets, dtype=float)[:, None], ["only"], config)


def random_candles(rng, count, *, gaps=0, volatility=0.01):
    steps = rng.normal(0, volatility, (count, 2))
    log_price = np.log(9000) + np.cumsum(steps).reshape(count, 2)
    prices = np.exp(log_price)
    high = prices.max(axis=1) * (1 + rng.random(count) * volatility)
    missing = rng.choice(np.arange(5, count - 5), gaps, replace=False)
    return make_candles(prices, missing, high=high)


def series(rates):
    """Funding rates by hour after `START`."""
    time = START + HOUR * np.array(sorted(rates), dtype=np.int64)
    return FundingRates(time, np.array([rates[hour] for hour in sorted(rates)], dtype=np.float64), "rates", "")


FUNDED = FREE.model_copy(update={"funding": "rates"})


def plain_loop(candles, origins, targets, config, settle="coin", rates=None, delay=0):
    """Follow coins and cash one candle at a time; return the equity (N',) and the totals."""
    due = None if rates is None else dict(zip(rates.time.tolist(), rates.rate.tolist(), strict=True))
    fee, slip = config.fee_bps / 1e4, config.slippage_bps / 1e4
    funding, borrow = config.funding_bps_per_hour / 1e4, config.borrow_bps_per_hour / 1e4
    cash, coins, last, equity, ruined = config.initial_cash, 0.0, 0.0, [], False
    paid = {"fees": 0.0, "slippage": 0.0, "funding": 0.0, "borrow": 0.0, "turnover": 0.0}

    def carry(since, until, price):
        nonlocal coins, cash
        before = coins
        for time in range(since + HOUR, until + HOUR, HOUR):
            after_funding = coins * (1 - (funding if due is None else due.get(time, 0.0)))
            after = after_funding * (1 + borrow) if coins < 0 else after_funding
            paid["funding"] += (coins - after_funding) * price
            paid["borrow"] += (after_funding - after) * price
            coins = after
        if settle == "cash":
            cash += (coins - before) * price
            coins = before

    decided = dict(zip(origins.tolist(), targets.tolist(), strict=True))
    decisions, close_time = [], None
    stride, until, had, paid["undecided"], paid["closings"] = min(np.diff(origins)), 0, False, 0, []
    for open_time, (open_, high, _, close, *_) in zip(candles.open_time.tolist(), candles.values, strict=True):
        if decisions:
            if not np.isnan(decisions[-1]):
                until = close_time + stride
            has = not np.isnan(decisions[-1]) or open_time < until
            paid["undecided"] += not has
            if had and not has:
                paid["closings"].append(open_time)
                if config.on_gap == "flat":
                    decisions[-1] = 0.0
            had = has
        if decisions and not ruined:
            pending = decisions[-1 - delay] if delay < len(decisions) else np.nan
            if equity:
                carry(close_time, open_time, open_)
            worth = cash + coins * open_ * ((1 + slip) * (1 + fee) if coins < 0 else 1)
            ruined = worth <= 0
            target = float(np.clip(pending, -config.max_short, config.max_long))
            if not ruined and not np.isnan(target) and target != last:
                last = target
                value = cash + coins * open_
                change = target * value / open_ - coins
                price = open_ * (1 + slip * np.sign(change))
                if change > 0:
                    change = min(change, cash / (price * (1 + fee)))
                cash -= change * price + abs(change) * price * fee
                coins += change
                paid["fees"] += abs(change) * price * fee
                paid["slippage"] += abs(change) * abs(price - open_)
                paid["turnover"] += abs(change) * price / value
            held = coins
            carry(open_time, open_time + candles.interval_ms, close)
            worst = min(coins, held) * high * (1 + slip) * (1 + fee)
            ruined = ruined or (coins < 0 and cash + worst <= 0)
        if decisions:
            equity.append(0.0 if ruined else cash + coins * close)
        close_time = open_time + candles.interval_ms
        if decisions or close_time in decided:
            decisions.append(decided.get(close_time, np.nan))
    return np.array(equity), paid


# Ledgers by hand


def test_a_purchase_is_filled_at_the_next_open_and_marked_at_the_close():
    candles = make_candles([(90, 95), (100, 110), (110, 121)])
    result = trade(candles, [0.5, np.nan])
    # 500 buy 5 coins at 100; the rows are the candles after the first origin.
    assert result.open_time.tolist() == candles.open_time[1:].tolist()
    assert result.equity[:, 0] == pytest.approx([500 + 5 * 110, 500 + 5 * 121], rel=1e-12)
    assert result.weight[:, 0] == pytest.approx([550 / 1050, 605 / 1105], rel=1e-12)
    order = result.orders.iloc[0]
    assert (order["side"], order["size"], order["price"], order["target"]) == ("buy", 5.0, 100.0, 0.5)
    assert order["time"] == pd.Timestamp(candles.open_time[1], unit="ms", tz="UTC")


def test_fee_and_slippage_are_charged_on_the_slipped_price():
    config = PortfolioConfig(initial_cash=1000.0, fee_bps=100.0, slippage_bps=200.0)
    candles = make_candles([(100, 100), (100, 100), (100, 100), (100, 100)])
    result = trade(candles, [0.5, 0.0, np.nan], config)
    # Buy 5 at 102: 510 + fee 5.10. Sell 5 at 98: 490 - fee 4.90.
    assert result.equity[:, 0] == pytest.approx([1000 - 515.1 + 500, 970.0, 970.0])
    assert result.orders["price"].tolist() == pytest.approx([102.0, 98.0])
    assert result.orders["fee"].tolist() == pytest.approx([5.1, 4.9])
    assert result.orders["slippage"].tolist() == pytest.approx([10.0, 10.0])
    assert result.fees == pytest.approx([10.0])
    assert result.slippage == pytest.approx([20.0])
    assert result.turnover == pytest.approx([510 / 1000 + 490 / 984.9])
    only = result.trades.iloc[0]
    assert (only["side"], only["status"]) == ("long", "closed")
    assert only["pnl"] == pytest.approx(-30.0)
    assert only["return"] == pytest.approx(-30.0 / 510)
    assert only["fee"] == pytest.approx(10.0)


def test_a_full_purchase_pays_its_fee_out_of_the_position_and_leaves_no_cash():
    config = PortfolioConfig(initial_cash=1000.0, fee_bps=100.0, slippage_bps=0.0)
    result = trade(make_candles([(100, 100), (100, 100)]), [1.0], config)
    assert result.orders["size"].tolist() == pytest.approx([10 / 1.01])
    assert result.weight[0, 0] == pytest.approx(1.0, rel=1e-12)
    assert result.equity[0, 0] == pytest.approx(1000 / 1.01)


def test_a_flip_from_long_to_short_is_one_order_and_two_trades():
    config = PortfolioConfig(initial_cash=1000.0, fee_bps=100.0, slippage_bps=0.0, max_short=1.0)
    candles = make_candles([(100, 100), (100, 100), (110, 110), (99, 99)])
    result = trade(candles, [0.5, -0.5, 0.0], config)
    # 5 coins cost 500 + 5. At 110 the account is worth 495 + 550 = 1045: hold -4.75 coins, so sell 9.75.
    cash = 495 + 9.75 * 110 * 0.99
    assert result.equity[:, 0] == pytest.approx([995.0, cash - 4.75 * 110, cash - 4.75 * 99 * 1.01])
    assert result.orders["side"].tolist() == ["buy", "sell", "buy"]
    assert result.orders["size"].tolist() == pytest.approx([5.0, 9.75, 4.75])
    assert result.trades["side"].tolist() == ["long", "short"]
    assert result.trades["pnl"].sum() == pytest.approx(result.equity[-1, 0] - 1000)


def test_positive_funding_is_paid_by_longs_and_earned_by_shorts():
    config = FREE.model_copy(update={"funding_bps_per_hour": 100.0})
    candles = make_candles([(100, 100), (100, 120), (120, 120)])
    long, short = (trade(candles, [weight, np.nan], config) for weight in (0.5, -0.5))
    # 5 coins; 1 % of them goes at each close.
    assert long.equity[:, 0] == pytest.approx([500 + 4.95 * 120, 500 + 4.9005 * 120])
    assert short.equity[:, 0] == pytest.approx([1500 - 4.95 * 120, 1500 - 4.9005 * 120])
    assert long.funding == pytest.approx([(0.05 + 0.0495) * 120])
    assert short.funding == pytest.approx([-(0.05 + 0.0495) * 120])
    assert long.borrow == pytest.approx([0.0])


def test_borrowing_is_paid_by_shorts_alone():
    config = FREE.model_copy(update={"borrow_bps_per_hour": 100.0})
    candles = make_candles([(100, 100), (100, 120), (120, 120)])
    long, short = (trade(candles, [weight, np.nan], config) for weight in (0.5, -0.5))
    assert long.equity[:, 0] == pytest.approx([500 + 5 * 120] * 2)
    assert short.equity[:, 0] == pytest.approx([1500 - 5.05 * 120, 1500 - 5.1005 * 120])
    assert short.borrow == pytest.approx([(0.05 + 0.0505) * 120])


def test_carry_is_counted_in_hours_whatever_the_candle():
    config = FREE.model_copy(update={"funding_bps_per_hour": 10.0})
    result = trade(make_candles([(100, 100), (100, 100)], interval_ms=4 * HOUR), [1.0], config)
    assert result.equity[0, 0] == pytest.approx(1000 * 0.999**4, rel=1e-12)


def test_a_target_before_a_gap_is_filled_at_the_first_open_after_it():
    candles = make_candles([(90, 90), (1, 1), (1, 1), (100, 110), (110, 110)], missing=[1, 2])
    result = trade(candles, [0.5, np.nan])
    assert result.open_time.tolist() == candles.open_time[1:].tolist()
    assert result.orders["price"].tolist() == [100.0]
    assert result.equity[0, 0] == pytest.approx(1050.0)


def test_a_position_held_over_a_gap_pays_for_its_hours():
    config = FREE.model_copy(update={"funding_bps_per_hour": 100.0})
    candles = make_candles([(90, 90), (100, 100), (1, 1), (1, 1), (200, 200)], missing=[2, 3])
    result = trade(candles, [0.5, np.nan], config)
    # One hour at 100, two hours of gap valued at the open of 200, one hour at 200.
    assert result.equity[-1, 0] == pytest.approx(500 + 5 * 0.99**4 * 200)
    paid = 0.05 * 100 + 5 * (0.99 - 0.99**4) * 200
    assert result.funding == pytest.approx([paid])


def test_nan_and_an_unchanged_target_send_no_order():
    candles = make_candles([(100, 100), (100, 120), (120, 90), (90, 90), (90, 90), (90, 90)])
    result = trade(candles, [0.5, 0.5, np.nan, 0.5, 0.4])
    assert len(result.orders) == 2
    assert result.orders["time"].tolist() == list(pd.to_datetime(candles.open_time[[1, 5]], unit="ms", utc=True))
    assert result.equity[1, 0] == pytest.approx(500 + 5 * 90)


def test_limits_clip_targets_and_a_clipped_target_that_stays_equal_sends_no_order():
    config = PortfolioConfig(initial_cash=1000.0, fee_bps=0.0, slippage_bps=0.0, max_long=0.3, max_short=0.0)
    candles = make_candles([(100, 100), (100, 130), (130, 100), (100, 100), (100, 100)])
    result = trade(candles, [1.0, 0.8, -1.0, -0.5], config)
    assert result.orders["target"].tolist() == [0.3, 0.0]
    assert result.orders["size"].tolist() == pytest.approx([3.0, 3.0])
    assert np.all(result.weight >= 0)


def test_the_last_target_is_held_for_one_stride():
    candles = make_candles([(100, 100)] * 20)
    every_third = trade(candles, [0.5, 0.2, 0.1], rows=[0, 3, 6])
    assert every_third.open_time.tolist() == candles.open_time[1:10].tolist()
    once = trade(candles, [0.5])
    assert len(once.open_time) == 1


def test_a_last_target_without_a_candle_after_it_stays_unfilled():
    candles = make_candles([(100, 100), (100, 110), (110, 121)])
    result = trade(candles, [0.5, np.nan, 0.0])
    assert result.open_time.tolist() == candles.open_time[1:].tolist()
    assert result.trades["status"].tolist() == ["open"]
    assert pd.isna(result.trades["exit_time"].iloc[0])
    assert result.trades["exit_price"].iloc[0] == 121.0


def test_columns_do_not_share_cash():
    candles = make_candles([(100, 100), (100, 110), (110, 121)])
    targets = np.array([[1.0, 0.0, -1.0], [np.nan, 1.0, 0.0]])
    origins = closes(candles, [0, 1])
    together = simulate(candles, origins, targets, ["a", "b", "c"], FREE)
    for column, name in enumerate("abc"):
        alone = simulate(candles, origins, targets[:, [column]], [name], FREE)
        assert together.equity[:, column].tolist() == alone.equity[:, 0].tolist()
        assert together.orders.query("strategy == @name")["size"].tolist() == alone.orders["size"].tolist()


def test_no_order_at_all_keeps_the_cash():
    result = trade(make_candles([(100, 100), (100, 200), (200, 50)]), [0.0, np.nan])
    assert result.equity[:, 0].tolist() == [1000.0, 1000.0]
    assert len(result.orders) == len(result.trades) == 0
    assert result.turnover.tolist() == result.exposure.tolist() == [0.0]


# Ruin


def test_a_short_that_cannot_be_bought_back_ends_the_account():
    candles = make_candles([(100, 100), (100, 150), (150, 210), (210, 50), (50, 50)])
    result = trade(candles, [-1.0, np.nan, 0.5, 1.0])
    assert result.equity[:, 0].tolist() == [500.0, 0.0, 0.0, 0.0]
    assert result.weight[1:, 0].tolist() == [0.0, 0.0, 0.0]
    assert result.ruined.tolist() == [True]
    assert len(result.orders) == 1
    lost = result.trades.iloc[0]
    assert (lost["status"], lost["pnl"], lost["exit_price"]) == ("liquidated", -1000.0, 200.0)
    assert lost["exit_time"] == pd.Timestamp(candles.open_time[2], unit="ms", tz="UTC")


def test_an_open_beyond_ruin_voids_the_order_of_that_open():
    candles = make_candles([(100, 100), (100, 150), (300, 100), (100, 100)])
    result = trade(candles, [-1.0, 0.0, 1.0])
    assert result.equity[:, 0].tolist() == [500.0, 0.0, 0.0]
    assert len(result.orders) == 1


def test_a_spike_within_a_candle_ruins_a_short_although_the_close_does_not():
    candles = make_candles([(100, 100), (100, 100), (100, 100)], high=[100, 201, 100])
    assert trade(candles, [-1.0, np.nan]).equity[:, 0].tolist() == [0.0, 0.0]
    assert trade(candles, [-0.9, np.nan]).equity[:, 0].tolist() == [1000.0, 1000.0]


# Against the plain loop


@pytest.mark.parametrize(
    ("funding", "borrow"),
    [(0.0, 0.0), (0.3, 0.0), (-0.5, 0.2)],
    ids=["free", "funding", "funding-and-borrow"],
)
def test_two_thousand_random_decisions_equal_the_plain_loop(rng, funding, borrow):
    config = PortfolioConfig(
        initial_cash=25_000.0,
        fee_bps=10.0,
        slippage_bps=2.0,
        funding_bps_per_hour=funding,
        borrow_bps_per_hour=borrow,
        max_long=1.0,
        max_short=0.8,
    )
    candles = random_candles(rng, 2040, gaps=39)
    targets = rng.uniform(-1, 1, (2000, 4))
    targets[rng.random(targets.shape) < 0.3] = np.nan
    again = rng.random(targets.shape) < 0.2
    targets[1:][again[1:]] = targets[:-1][again[1:]]
    extreme = rng.random(targets.shape) < 0.1
    targets[extreme] = rng.choice([-1.0, 0.0, 1.0], extreme.sum())
    origins = closes(candles, range(2000))
    result = simulate(candles, origins, targets, list("abcd"), config)
    assert not result.ruined.any()
    for column in range(4):
        equity, paid = plain_loop(candles, origins, targets[:, column], config)
        np.testing.assert_allclose(result.equity[:, column], equity[: len(result.equity)], rtol=1e-9)
        for total in ("fees", "slippage", "funding", "borrow", "turnover"):
            assert getattr(result, total)[column] == pytest.approx(paid[total], rel=1e-8, abs=1e-8), total
        assert np.count_nonzero(~result.decided[:, column]) == paid["undecided"]
    profit = result.equity[-1] - config.initial_cash
    per_strategy = result.trades.groupby("strategy")["pnl"].sum().loc[list("abcd")]
    np.testing.assert_allclose(per_strategy, profit, rtol=1e-7, atol=1e-6)


def test_wild_markets_ruin_the_same_accounts_at_the_same_candle_as_the_plain_loop(rng):
    config = PortfolioConfig(initial_cash=1000.0, fee_bps=50.0, slippage_bps=20.0, max_short=1.0)
    columns, ruined = 60, 0
    candles = random_candles(rng, 80, gaps=10, volatility=0.25)
    targets = np.where(rng.random((60, columns)) < 0.2, rng.choice([-1.0, 0.5, 1.0], (60, columns)), np.nan)
    origins = closes(candles, range(60))
    result = simulate(candles, origins, targets, [str(k) for k in range(columns)], config)
    for column in range(columns):
        equity, _ = plain_loop(candles, origins, targets[:, column], config)
        np.testing.assert_allclose(result.equity[:, column], equity[: len(result.equity)], rtol=1e-9)
        ruined += result.ruined[column]
    assert 5 < ruined < columns


# Gaps


def with_gaps(rng, columns=3):
    """Candles with gaps, every second close of them an origin, and targets with stretches without a decision."""
    candles = random_candles(rng, 640, gaps=60)
    origins = candles.open_time[:500] + HOUR
    origins = origins[origins // HOUR % 2 == 0]
    targets = rng.uniform(-1, 1, (len(origins), columns))
    for column in range(columns):
        for start in rng.choice(np.arange(1, len(origins) - 20), 8, replace=False):
            targets[start : start + 1 + 6 * column, column] = np.nan
    return candles, origins, targets


def test_a_position_without_a_decision_is_held_or_closed_at_the_first_open_without_one():
    candles = make_candles([(90, 90), (100, 100), (1, 1), (1, 1), (110, 120), (130, 140), (150, 160)], missing=[2, 3])
    # Decided at the closes of hours 0, 1 and 5. The second is filled after the gap; the hour after it has no decision.
    origins = START + HOUR * np.array([1, 2, 6])
    held, flat = (
        simulate(candles, origins, np.array([[0.5], [0.5], [0.5]]), ["only"], FREE.model_copy(update={"on_gap": what}))
        for what in ("hold", "flat")
    )
    assert held.decided[:, 0].tolist() == flat.decided[:, 0].tolist() == [True, True, False, True]
    assert held.equity[:, 0] == pytest.approx([1000, 500 + 5 * 120, 500 + 5 * 140, 500 + 5 * 160])
    # 5 coins are sold at 130; half of 1150 is bought back at 150.
    assert flat.orders["price"].tolist() == [100.0, 130.0, 150.0]
    assert flat.orders["side"].tolist() == ["buy", "sell", "buy"]
    assert flat.equity[:, 0] == pytest.approx([1000, 1100, 1150, 575 + 575 / 150 * 160])


def test_missing_candles_alone_close_nothing_where_the_next_one_has_a_decision():
    candles = make_candles([(90, 90), (100, 100), (1, 1), (110, 110), (120, 120)], missing=[2])
    config = FREE.model_copy(update={"on_gap": "flat"})
    result = simulate(candles, START + HOUR * np.array([1, 2, 4]), np.ones((3, 1)), ["only"], config)
    assert result.decided.all()
    assert len(result.orders) == 1


@pytest.mark.parametrize("on_gap", ["hold", "flat"])
def test_accounts_with_gaps_equal_the_plain_loop(rng, on_gap):
    config = PortfolioConfig(funding_bps_per_hour=0.7, borrow_bps_per_hour=0.4, max_short=0.8, on_gap=on_gap)
    candles, origins, targets = with_gaps(rng)
    result = simulate(candles, origins, targets, ["a", "b", "c"], config)
    for column in range(3):
        equity, paid = plain_loop(candles, origins, targets[:, column], config)
        np.testing.assert_allclose(result.equity[:, column], equity[: len(result.equity)], rtol=1e-9)
        bare = ~result.decided[:, column]
        assert bare.sum() > 20
        assert bare.sum() == paid["undecided"] - (len(equity) - len(result.equity))
        assert (result.weight[bare, column] == 0).all() == (on_gap == "flat")


def test_a_strategy_is_told_of_its_closed_position_when_the_portfolio_closes_it(rng):
    candles, origins, targets = with_gaps(rng)
    config = PortfolioConfig(max_short=1.0, on_gap="flat")
    for column in range(3):
        _, paid = plain_loop(candles, origins, targets[:, column], config)
        own = origins[~np.isnan(targets[:, column])]
        closed = closing_times(candles, origins, own)
        assert closed[closed > 0].tolist() == [time for time in paid["closings"] if time < own[-1]]
        assert (closed[1:][closed[1:] > 0] >= own[:-1][closed[1:] > 0]).all()


def test_nothing_trades_at_the_price_of_a_filled_candle(rng):
    config = PortfolioConfig(funding_bps_per_hour=0.7, max_short=1.0)
    candles, origins, targets = with_gaps(rng)
    filled = fill_gaps(candles, 3)
    assert filled.filled.sum() > 20
    bare, full = (simulate(one, origins, targets, ["a", "b", "c"], config) for one in (candles, filled))
    assert full.equity.tobytes() == bare.equity.tobytes()
    assert full.open_time.tolist() == bare.open_time.tolist()
    assert closing_times(filled, origins, origins).tolist() == closing_times(candles, origins, origins).tolist()


def test_cash_changes_by_fills_and_fees_alone(rng):
    config = PortfolioConfig(funding_bps_per_hour=0.7, borrow_bps_per_hour=0.4, max_short=1.0)
    candles = random_candles(rng, 400, gaps=30)
    targets = np.where(rng.random((360, 1)) < 0.5, rng.uniform(-1, 1, (360, 1)), np.nan)
    result = simulate(candles, closes(candles, range(360)), targets, ["only"], config)
    cash = result.equity[-1, 0] * (1 - result.weight[-1, 0])
    flows = np.where(result.orders["side"] == "buy", -1, 1) * result.orders["size"] * result.orders["price"]
    assert len(flows) > 100
    assert cash == pytest.approx(config.initial_cash + flows.sum() - result.fees[0], rel=1e-9)


def test_settling_carry_in_coin_or_in_cash_differs_little(rng):
    config = PortfolioConfig(funding_bps_per_hour=0.1, borrow_bps_per_hour=0.1, max_long=0.9, max_short=0.9)
    candles = random_candles(rng, 2040, gaps=39)
    targets = np.repeat(rng.uniform(-1, 1, 500), 4)
    origins = closes(candles, range(2000))
    coin, paid = plain_loop(candles, origins, targets, config)
    cash, paid_in_cash = plain_loop(candles, origins, targets, config, settle="cash")
    assert np.abs(cash / coin - 1).max() < 1e-3
    assert paid["borrow"] > 1.0
    assert paid_in_cash["borrow"] == pytest.approx(paid["borrow"], rel=1e-2)


# A funding series


def test_a_rate_is_paid_on_what_was_held_up_to_its_time_and_not_on_what_is_filled_then():
    candles = make_candles([(90, 90), (100, 110), (120, 130), (140, 140), (140, 140)])
    # Bought at the open of hour 1, sold at that of hour 3.
    ask = partial(simulate, candles, closes(candles, range(3)), np.array([[0.5], [np.nan], [0.0]]), ["only"], FUNDED)
    late, own, sale = (ask(funding=series({hour: 0.01})) for hour in (1, 2, 3))
    assert late.funding.tolist() == [0.0]
    assert own.funding == pytest.approx([0.05 * 110])
    assert own.equity[:, 0] == pytest.approx([500 + 4.95 * 110, 500 + 4.95 * 130, 500 + 4.95 * 140])
    assert sale.funding == pytest.approx([0.05 * 130])
    assert ask(funding=series({4: 0.01})).funding.tolist() == [0.0]
    short = simulate(candles, closes(candles, [0]), np.array([[-0.5]]), ["only"], FUNDED, funding=series({2: 0.01}))
    assert short.funding == pytest.approx([-0.05 * 110])


def test_a_rate_within_a_gap_is_settled_at_the_open_after_it_and_one_within_a_candle_at_its_close():
    gap = make_candles([(90, 90), (100, 100), (1, 1), (1, 1), (200, 200)], missing=[2, 3])
    held = simulate(gap, closes(gap, [0, 1]), np.array([[0.5], [np.nan]]), ["only"], FUNDED, funding=series({3: 0.01}))
    assert held.funding == pytest.approx([0.05 * 200])
    wide = make_candles([(90, 90), (100, 120)], interval_ms=4 * HOUR)
    held = simulate(wide, closes(wide, [0]), np.array([[0.5]]), ["only"], FUNDED, funding=series({5: 0.01}))
    assert held.funding == pytest.approx([0.05 * 120])


def test_a_series_of_equal_hourly_rates_is_the_constant_rate(rng):
    constant = PortfolioConfig(funding_bps_per_hour=0.7, borrow_bps_per_hour=0.2, max_short=1.0)
    funded = constant.model_copy(update={"funding_bps_per_hour": 0.0, "funding": "rates"})
    candles = random_candles(rng, 400, gaps=30)
    targets = rng.uniform(-1, 1, (360, 3))
    ask = partial(simulate, candles, closes(candles, range(360)), targets, list("abc"))
    one, other = ask(constant), ask(funded, funding=series(dict.fromkeys(range(400), 0.7e-4)))
    np.testing.assert_allclose(other.equity, one.equity, rtol=1e-12)
    np.testing.assert_allclose(other.funding, one.funding, rtol=1e-9)


def test_rates_are_given_if_and_only_if_the_configuration_names_them():
    candles = make_candles([(100, 100)] * 3)
    ask = partial(simulate, candles, closes(candles, [0]), np.array([[0.5]]), ["only"])
    with pytest.raises(ValueError, match="funding is rates, but no rates are given"):
        ask(FUNDED)
    with pytest.raises(ValueError, match="funding is None, but the rates of rates are given"):
        ask(FREE, funding=series({1: 0.01}))
    with pytest.raises(ValueError, match="exclude each other; keep one"):
        PortfolioConfig(funding="rates", funding_bps_per_hour=0.1)


# Other costs and late fills, as columns of one simulation

WAYS = (Fills(0.0, 0.0), Fills(20.0, 0.0), Fills(30.0, 10.0), Fills(10.0, 2.0, delay=1), Fills(10.0, 2.0, delay=3))


def wild(rng):
    """Accounts of which some are ruined, with gaps, funding and interest."""
    config = PortfolioConfig(initial_cash=1000.0, borrow_bps_per_hour=2.0, max_short=1.0, funding="rates")
    candles = random_candles(rng, 80, gaps=10, volatility=0.25)
    targets = np.where(rng.random((60, 12)) < 0.2, rng.choice([-1.0, 0.5, 1.0], (60, 12)), np.nan)
    rates = series({hour: rng.normal(0, 1e-3) for hour in range(0, 80, 4)})
    return candles, closes(candles, range(60)), targets, config, rates


def test_columns_of_one_simulation_equal_the_plain_loop_whatever_their_costs_and_delay(rng):
    candles, origins, targets, config, rates = wild(rng)
    equity = simulate_variants(candles, origins, targets, WAYS, config, funding=rates)
    assert equity.shape == (
        len(WAYS),
        len(simulate(candles, origins, targets, range(12), config, funding=rates).equity),
        12,
    )
    for way, curves in zip(WAYS, equity, strict=True):
        own = config.model_copy(update={"fee_bps": way.fee_bps, "slippage_bps": way.slippage_bps})
        for column, curve in enumerate(curves.T):
            expected, _ = plain_loop(candles, origins, targets[:, column], own, rates=rates, delay=way.delay)
            np.testing.assert_allclose(curve, expected[: len(curve)], rtol=1e-9)
    ruined = (equity[:, -1] == 0).sum(axis=1)
    assert (ruined > 0).all()
    assert (ruined < 12).all()


def test_columns_of_one_simulation_equal_separate_simulations(rng):
    candles, origins, targets, config, rates = wild(rng)
    equity = simulate_variants(candles, origins, targets, WAYS, config, funding=rates)
    for way, curves in zip(WAYS, equity, strict=True):
        own = config.model_copy(update={"fee_bps": way.fee_bps, "slippage_bps": way.slippage_bps})
        rows = np.searchsorted(candles.open_time, origins) + way.delay
        late = candles.open_time[rows] if way.delay else origins
        alone = simulate(candles, late, targets, range(12), own, funding=rates).equity
        shared = min(len(curves) - way.delay, len(alone))
        np.testing.assert_allclose(curves[way.delay : way.delay + shared], alone[:shared], rtol=1e-12)
        assert (curves[: way.delay] == config.initial_cash).all()


def test_the_costs_of_the_configuration_give_the_accounts_of_the_run_bit_for_bit(rng):
    candles, origins, targets, config, rates = wild(rng)
    usual = Fills(config.fee_bps, config.slippage_bps)
    equity = simulate_variants(candles, origins, targets, [Fills(0.0, 0.0), usual], config, funding=rates)[1]
    assert equity.tobytes() == simulate(candles, origins, targets, range(12), config, funding=rates).equity.tobytes()


def test_a_late_order_is_filled_at_the_open_of_the_second_candle_after_the_decision():
    candles = make_candles([(90, 95), (100, 110), (120, 130), (140, 150)])
    late = simulate_variants(
        candles, closes(candles, range(3)), np.array([[0.5], [np.nan], [0.0]]), [Fills(0, 0, 1)], FREE
    )
    # Not at 100 but at 120; the sale would come after the last candle.
    assert late[0, :, 0] == pytest.approx([1000.0, 500 + 500 / 120 * 130, 500 + 500 / 120 * 150])


# What is refused


def test_carry_that_would_consume_a_holding_is_refused():
    candles = make_candles([(100, 100)] * 3000)
    config = FREE.model_copy(update={"funding_bps_per_hour": 100.0})
    with pytest.raises(ConfigError, match=r"funding_bps_per_hour 100 .* expected at most 1e\+06; lower"):
        trade(candles, [1.0] + [np.nan] * 2000, config)


@pytest.mark.parametrize("cash", [0.01, 1.0, 1e15])
def test_returns_do_not_depend_on_the_initial_cash(rng, cash):
    candles, targets = random_candles(rng, 200), rng.uniform(-1, 1, 190)
    usual = PortfolioConfig(max_short=1.0)
    small = usual.model_copy(update={"initial_cash": cash})
    one, other = (trade(candles, targets, config) for config in (usual, small))
    np.testing.assert_allclose(other.equity / cash, one.equity / usual.initial_cash, rtol=1e-9)
    np.testing.assert_allclose(other.weight, one.weight, rtol=1e-7, atol=1e-9)


def test_an_initial_cash_that_is_too_small_to_count_is_refused():
    with pytest.raises(ValueError, match=r"greater than or equal to 0\.01"):
        PortfolioConfig(initial_cash=1e-6)


@pytest.mark.parametrize(
    ("rows", "targets", "message"),
    [
        ([0, 1], [[0.5]], "targets"),
        ([1, 0], [[0.5], [0.5]], "increase"),
        ([0, 1], [[0.5], [1.5]], "outside"),
        ([0, 1], [[0.5], [np.inf]], "outside"),
        ([4], [[0.5]], "no candle"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(rows, targets, message):
    candles = make_candles([(100, 100)] * 5)
    with pytest.raises(ValueError, match=message):
        simulate(candles, closes(candles, rows), np.array(targets), ["only"], FREE)


def test_two_origins_before_one_candle_are_refused():
    candles = make_candles([(100, 100)] * 5, missing=[2])
    origins = candles.open_time[1] + HOUR * np.array([1, 2])
    with pytest.raises(ValueError, match="share the candle"):
        simulate(candles, origins, np.array([[0.5], [0.2]]), ["only"], FREE)


def test_importing_the_module_does_not_import_vectorbt_or_pandas():
    code = "import sys, btcbt.portfolio; print(sorted({'vectorbt', 'pandas', 'numba'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_global_settings_of_vectorbt_do_not_matter():
    import vectorbt

    candles = make_candles([(90, 95), (100, 110), (110, 121), (121, 130)])
    config = FREE.model_copy(update={"fee_bps": 50.0, "slippage_bps": 20.0})
    before = trade(candles, [0.5, -1.0, 0.1], config).equity
    changed = {"fees": 0.1, "slippage": 0.1, "size_type": "amount", "order_direction": "longonly"}
    changed |= {"init_cash": 7.0, "freq": "1d", "val_price": -np.inf, "max_size": 1e-3, "min_size": 6.0}
    changed |= {"lock_cash": True, "allow_partial": False, "fixed_fees": 3.0, "size_granularity": 1.0}
    changed |= {"reject_prob": 1.0, "raise_reject": True, "cash_sharing": True, "call_seq": "random"}
    assert changed.keys() <= vectorbt.settings.portfolio.keys()
    kept = {key: vectorbt.settings.portfolio[key] for key in changed}
    try:
        vectorbt.settings.portfolio.update(changed)
        assert trade(candles, [0.5, -1.0, 0.1], config).equity.tolist() == before.tolist()
    finally:
        vectorbt.settings.portfolio.update(kept)


@pytest.mark.parametrize("factor", [1e-16, 1e-300])
def test_prices_that_vectorbt_takes_for_zero_are_refused(make_history: Callable[..., Candles], factor: float) -> None:
    history = make_history(40, price=4000.0 * factor)
    origins = history.open_time[5:30] + history.interval_ms
    with pytest.raises(CandleError, match=r"simulated: accounts need prices of at least 1e-11, got"):
        simulate(history, origins, np.ones((25, 1)), ["a"], PortfolioConfig())
