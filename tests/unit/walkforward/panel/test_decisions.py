"""Decisions of strategies on panels."""

import numpy as np
import pytest

from btcbt.config import PanelPortfolioConfig
from btcbt.errors import StrategyError
from btcbt.records import HOUR_MS, Candles
from btcbt.strategies import PanelStrategy
from btcbt.walkforward.panel.decisions import PanelTrader, decide_panel, moments
from btcbt.windows import Windows

LIMITS = PanelPortfolioConfig()


def windows(origins, hours=60):
    """Windows of 10 candles at the given hours."""
    close = 100.0 + np.arange(hours)
    candles = Candles(HOUR_MS * np.arange(hours, dtype=np.int64), np.repeat(close[:, None], 6, axis=1), HOUR_MS)
    origins = HOUR_MS * np.asarray(origins, dtype=np.int64)
    last = origins // HOUR_MS - 1
    return Windows(candles, 10, 3, origins, last, np.ones(len(origins), dtype=bool), {})


TWO = {"BTC": windows(range(20, 40)), "ETH": windows(range(30, 50))}


def decide(answer, panel=TWO, closed=None, portfolio=LIMITS):
    """Decisions of a strategy that answers as told, and what it was asked."""
    asked = []

    class Told(PanelStrategy):
        def decide(self, forecasts, holdings):
            asked.append((set(forecasts), dict(holdings)))
            return answer(forecasts, holdings)

    trader = PanelTrader("told", Told(), "told", {}, None)
    return *decide_panel(trader, panel, None, closed or {}, portfolio), asked


def test_each_moment_has_the_symbols_that_are_eligible_then():
    seen = [(origin // HOUR_MS, sorted(forecasts)) for origin, forecasts in moments(TWO, None)]
    assert seen[0] == (20, ["BTC"])
    assert seen[10] == (30, ["BTC", "ETH"])
    assert seen[-1] == (49, ["ETH"])
    assert [hour for hour, _ in seen] == list(range(20, 50))


def test_symbols_left_out_have_weight_zero_and_others_none():
    times, weights, _ = decide(lambda forecasts, _: {"BTC": 0.5} if "BTC" in forecasts else {})
    assert times.tolist() == [HOUR_MS * hour for hour in range(20, 50)]
    np.testing.assert_array_equal(weights[:10], [[0.5, np.nan]] * 10)
    np.testing.assert_array_equal(weights[10:20], [[0.5, 0.0]] * 10)
    np.testing.assert_array_equal(weights[20:], [[np.nan, 0.0]] * 10)


def test_holdings_name_every_symbol_with_its_own_weight_and_age():
    _, _, asked = decide(lambda forecasts, _: dict.fromkeys(forecasts, 0.4))
    btc, eth = (asked[12][1][symbol] for symbol in ("BTC", "ETH"))
    assert (btc.weight, btc.candles_held) == (0.4, 12)
    assert (eth.weight, eth.candles_held) == (0.4, 2)
    assert asked[-1][1]["BTC"].weight == 0.4  # no longer eligible, but held


def test_a_position_closed_for_want_of_a_decision_is_not_held():
    closed = {"BTC": {25 * HOUR_MS: 24 * HOUR_MS}}
    _, _, asked = decide(lambda forecasts, _: dict.fromkeys(forecasts, 0.4), closed=closed)
    assert asked[4][1]["BTC"].weight == 0.4
    assert (asked[5][1]["BTC"].weight, asked[5][1]["BTC"].candles_held) == (0.0, 1)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda *_: 0.5, "expected a mapping of symbols to weights"),
        (lambda *_: {"ETH": 0.1}, "a weight for 'ETH', which is not eligible then; eligible are BTC"),
        (lambda *_: {"BTC": float("nan")}, "the weight of BTC is nan"),
        (lambda *_: {"BTC": True}, "the weight of BTC is True"),
        (lambda *_: {"BTC": 1.5}, r"the weight of BTC is 1.5 .float.; expected a finite number in \[-1, 1\]"),
        (lambda *_: 1 / 0, "failed at 1970-01-01T20:00Z: ZeroDivisionError"),
    ],
)
def test_an_invalid_answer_names_strategy_symbol_and_time(answer, text):
    with pytest.raises(StrategyError, match=text) as error:
        decide(answer)
    assert "strategy 'told'" in str(error.value)
    assert "1970-01-01T20:00Z" in str(error.value)


@pytest.mark.parametrize(
    ("weights", "limits", "text"),
    [
        ({"BTC": 0.8, "ETH": 0.3}, {}, "gross exposure of 1.1, the largest 0.8 of BTC; portfolio.max_gross is 1"),
        ({"BTC": 0.5, "ETH": 0.4}, {"max_net": 0.5}, "net exposure of 0.9"),
        ({"BTC": -0.5, "ETH": 0.6}, {"max_short": 1.0, "max_gross": 1.0}, "gross exposure of 1.1"),
    ],
)
def test_weights_beyond_the_limits_are_refused(weights, limits, text):
    both = {symbol: windows(range(30, 40)) for symbol in TWO}
    with pytest.raises(StrategyError, match=text):
        decide(lambda *_: weights, both, portfolio=PanelPortfolioConfig(**limits))


def test_a_short_that_is_not_allowed_does_not_count():
    both = {symbol: windows(range(30, 40)) for symbol in TWO}
    _, weights, _ = decide(lambda *_: {"BTC": -0.5, "ETH": 1.0}, both)
    np.testing.assert_array_equal(weights[0], [-0.5, 1.0])  # as decided; the portfolio clips it
