"""Accounts on several symbols, against a loop."""

import numpy as np
import pytest

from btcbt.config import PortfolioConfig
from btcbt.portfolio import Fills, simulate, simulate_book, simulate_book_variants
from btcbt.records import CLOSE, HOUR_MS, OPEN, Candles

HOURS = 2100


def history(rng, hours, gaps=()):
    """Candles of the given hours, without some of them."""
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, len(hours))))
    opened = np.concatenate([close[:1], close[:-1]]) * np.exp(rng.normal(0, 0.002, len(hours)))
    high, low = np.maximum(opened, close) * 1.003, np.minimum(opened, close) * 0.997
    values = np.column_stack([opened, high, low, close, np.ones(len(hours)), close])
    keep = ~np.isin(hours, gaps)
    return Candles(HOUR_MS * hours[keep].astype(np.int64), values[keep], HOUR_MS)


@pytest.fixture
def four(rng):
    """A whole history, one with gaps, a late listing, and a delisting."""
    hours = np.arange(HOURS)
    gaps = rng.choice(hours[100:-100], 60, replace=False)
    return {
        "A": history(rng, hours),
        "B": history(rng, hours, gaps),
        "C": history(rng, hours[700:]),
        "D": history(rng, hours[:1500]),
    }


def decisions(rng, candles, origins, scale):
    """Random weights of the symbols with a candle that closes at each origin; now and then the same again."""
    targets = np.full((len(origins), 1, len(candles)), np.nan)
    for m, origin in enumerate(origins):
        for k, one in enumerate(candles.values()):
            if origin - HOUR_MS in one.open_time:
                targets[m, 0, k] = scale(rng) if rng.random() < 0.5 or m == 0 else np.nan
    return targets


def loop(candles, origins, targets, config, fee, slip):
    """One account, hour by hour: the rules of the module in plain Python. Returns equity by open time."""
    clock = sorted({t for one in candles.values() for t in one.open_time.tolist()})
    rows = {s: dict(zip(one.open_time.tolist(), one.values, strict=True)) for s, one in candles.items()}
    ends = {s: max(own) for s, own in rows.items()}
    pending = {s: {} for s in candles}
    for m, origin in enumerate(origins.tolist()):
        for k, s in enumerate(candles):
            if np.isfinite(targets[m, k]):
                at = min((t for t in rows[s] if t >= origin), default=None)
                if at is not None:
                    pending[s][at] = min(max(targets[m, k], -config.max_short), config.max_long)
    start = min(t for own in pending.values() for t in own)
    cash, units = config.initial_cash, dict.fromkeys(candles, 0.0)
    ordered, last = dict.fromkeys(candles, 0.0), {}
    fund, borrow = config.funding_bps_per_hour / 1e4, config.borrow_bps_per_hour / 1e4
    equity, previous = {}, None

    def carry(hours):
        for s, held in units.items():
            rate = (1 - fund) ** hours * ((1 + borrow) ** hours if held < 0 else 1.0)
            units[s] = held * rate

    for t in clock:
        if t >= start:
            if previous is not None:
                carry((t - previous) / HOUR_MS - 1)
            price = {s: rows[s][t][OPEN] if t in rows[s] else last.get(s, np.nan) for s in candles}
            worth = cash + sum(units[s] * price[s] for s in candles if units[s])
            wanted = {}
            for s in candles:
                target = pending[s].get(t)
                if previous is not None and previous == ends[s] and t > ends[s]:
                    target = 0.0
                if target is not None and target != ordered[s]:
                    wanted[s] = target * worth / price[s] - units[s]
                    ordered[s] = target
            for s in sorted(wanted, key=lambda s: wanted[s] * price[s]):
                size = wanted[s]
                if size > 0:
                    paid = price[s] * (1 + slip) * (1 + fee)
                    size = min(size, max(cash, 0.0) / paid) if units[s] >= 0 else size
                    cash -= size * paid
                else:
                    cash -= size * price[s] * (1 - slip) * (1 - fee)
                units[s] += size
            carry(1)
            for s in candles:
                if t in rows[s]:
                    last[s] = rows[s][t][CLOSE]
            equity[t] = cash + sum(units[s] * last[s] for s in candles if units[s])
            previous = t
        else:
            for s in candles:
                if t in rows[s]:
                    last[s] = rows[s][t][CLOSE]
    return equity


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (PortfolioConfig(), lambda rng: float(rng.choice([0.0, 0.1, 0.2, 0.24]))),
        (
            PortfolioConfig(max_short=1, funding_bps_per_hour=0.1, borrow_bps_per_hour=0.2),
            lambda rng: float(rng.uniform(-0.2, 0.2)),
        ),
    ],
    ids=["long", "short and carry"],
)
def test_a_book_is_the_loop(rng, four, config, scale):
    origins = HOUR_MS * np.arange(20, 2020, dtype=np.int64)
    targets = decisions(rng, four, origins, scale)
    book = simulate_book(four, origins, targets, ["one"], config)
    expected = loop(four, origins, targets[:, 0], config, config.fee_bps / 1e4, config.slippage_bps / 1e4)
    slow = np.array([expected[t] for t in book.open_time.tolist()])
    np.testing.assert_allclose(book.equity[:, 0], slow, rtol=1e-9)
    assert len(book.orders) > 1000
    assert set(book.orders["symbol"]) == set(four)


def test_a_book_of_one_symbol_is_its_account(rng, four):
    origins = HOUR_MS * np.arange(50, 350, dtype=np.int64)
    targets = rng.uniform(-1, 1, (300, 2))
    config = PortfolioConfig(max_short=1, funding_bps_per_hour=0.1)
    single = simulate(four["A"], origins, targets, ["x", "y"], config)
    book = simulate_book({"A": four["A"]}, origins, targets[:, :, None], ["x", "y"], config)
    for field in ("equity", "weight", "exposure", "turnover", "fees", "slippage", "funding", "decided"):
        np.testing.assert_allclose(getattr(book, field), getattr(single, field), rtol=1e-12, err_msg=field)


def test_a_delisted_position_is_closed_at_its_last_close(four):
    origins = HOUR_MS * np.arange(1000, 1700, dtype=np.int64)
    targets = np.full((len(origins), 1, 4), np.nan)
    targets[0, 0, 3] = 0.5
    targets[:, 0, 0] = 0.0
    orders = simulate_book(four, origins, targets, ["one"], PortfolioConfig()).orders
    sold = orders[(orders["symbol"] == "D") & (orders["side"] == "sell")]
    assert len(sold) == 1
    assert sold["price"].iloc[0] == pytest.approx(four["D"].values[-1, CLOSE] * (1 - 2e-4))


def test_accounts_share_no_cash_with_each_other(rng, four):
    origins = HOUR_MS * np.arange(800, 1000, dtype=np.int64)
    first = decisions(rng, four, origins, lambda rng: float(rng.uniform(0, 0.25)))
    second = decisions(rng, four, origins, lambda rng: float(rng.uniform(0, 0.25)))
    both = simulate_book(four, origins, np.concatenate([first, second], axis=1), ["a", "b"], PortfolioConfig())
    for k, own in enumerate((first, second)):
        alone = simulate_book(four, origins, own, ["x"], PortfolioConfig())
        np.testing.assert_allclose(both.equity[:, k], alone.equity[:, 0], rtol=1e-12)


def test_a_short_that_cannot_be_bought_back_ends_the_account(four):
    values = four["A"].values.copy()
    values[200:, :4] *= 5.0
    jump = Candles(four["A"].open_time, values, HOUR_MS)
    origins = HOUR_MS * np.arange(100, 300, dtype=np.int64)
    targets = np.tile(np.array([-0.5, 0.1]), (len(origins), 1, 1))
    book = simulate_book({"A": jump, "D": four["D"]}, origins, targets, ["one"], PortfolioConfig(max_short=1))
    assert book.ruined.tolist() == [True]
    assert (book.equity[105:, 0] == 0.0).all()


def test_costs_and_delay_are_those_of_separate_simulations(rng, four):
    origins = HOUR_MS * np.arange(800, 1000, dtype=np.int64)
    targets = decisions(rng, four, origins, lambda rng: float(rng.uniform(0, 0.25)))
    base, late = simulate_book_variants(four, origins, targets, [Fills(5, 0), Fills(5, 0, 1)], PortfolioConfig())
    config = PortfolioConfig(fee_bps=5, slippage_bps=0)
    np.testing.assert_allclose(base, simulate_book(four, origins, targets, ["x"], config).equity, rtol=1e-12)
    assert np.abs(late - base).max() > 0


def test_targets_of_the_wrong_shape_are_refused(four):
    origins = HOUR_MS * np.arange(800, 810, dtype=np.int64)
    with pytest.raises(ValueError, match="K=4"):
        simulate_book(four, origins, np.zeros((10, 1, 3)), ["x"], PortfolioConfig())
