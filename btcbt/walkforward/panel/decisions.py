"""Decisions of strategies on panels: at each moment, on the stored forecasts of all eligible symbols."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from itertools import groupby

import numpy as np

from btcbt.config import PanelPortfolioConfig, time_text
from btcbt.errors import StrategyError
from btcbt.messages import describe, short, user_code
from btcbt.records import CHANNELS, FloatArray, Forecast, Holding, IntArray
from btcbt.storage.runs import StoredForecasts
from btcbt.walkforward.decisions import isolated
from btcbt.walkforward.panel.traders import PanelTrader
from btcbt.windows import Windows

READ_TOGETHER = 336
"""Origins of all symbols together whose forecasts are in memory at once."""
ROUNDING = 1e-9
"""How far sums of weights may exceed a limit."""


def moments(
    windows: Mapping[str, Windows], forecasts: Mapping[str, StoredForecasts] | None
) -> Iterator[tuple[int, dict[str, Forecast]]]:
    """Every moment at which some symbol is eligible, in order, with the forecasts of those that are.

    Memory does not grow with the number of symbols, since fewer origins of each are read at once.

    Parameters
    ----------
    windows : mapping
        The origins of each symbol.
    forecasts : mapping, or None
        Their stored forecasts; paths are empty (S = 0) if None.
    """
    size = max(1, READ_TOGETHER // len(windows))

    def of(symbol: str) -> Iterator[tuple[int, str, Forecast]]:
        own = windows[symbol]
        if forecasts is None:
            none = np.empty((0, own.horizon, len(CHANNELS)), dtype=np.float32)
            yield from ((window.origin, symbol, Forecast(window, none)) for window in own)
            return
        rows = iter(range(len(own)))
        for batch in forecasts[symbol].batches(size):
            for row, paths in zip(rows, batch.paths, strict=False):
                yield own[row].origin, symbol, Forecast(own[row], paths)

    together = heapq.merge(*(of(symbol) for symbol in windows), key=lambda one: one[0])
    for origin, group in groupby(together, key=lambda one: one[0]):
        yield origin, {symbol: forecast for _, symbol, forecast in group}


def decide_panel(
    trader: PanelTrader,
    windows: Mapping[str, Windows],
    forecasts: Mapping[str, StoredForecasts] | None,
    closed: Mapping[str, Mapping[int, int]],
    portfolio: PanelPortfolioConfig,
) -> tuple[IntArray, FloatArray]:
    """Run a strategy over all moments in order, passing it its holdings.

    Parameters
    ----------
    trader : PanelTrader
    windows, forecasts
        As of `moments`.
    closed : mapping
        For each symbol, when its position was closed for want of a decision before an origin, by that origin; ms UTC.
    portfolio : PanelPortfolioConfig
        Its limits.

    Returns
    -------
    int64 (M,)
        Moments, ms UTC.
    float64 (M, K)
        Weights as decided; NaN for symbols that are not eligible.

    Raises
    ------
    StrategyError
        `decide` raised, or returned anything but weights of eligible symbols within the limits.
    """
    symbols = list(windows)
    held = {symbol: _Held() for symbol in symbols}
    times: list[int] = []
    rows: list[list[float]] = []
    for origin, seen in moments(windows, forecasts):
        interval = next(iter(seen.values())).window.interval_ms
        for symbol in seen:
            held[symbol].close(closed.get(symbol, {}).get(origin))
        holdings = {symbol: one.at(origin, interval) for symbol, one in held.items()}
        weights = _ask(trader, origin, seen, holdings, portfolio)
        for symbol in seen:
            held[symbol].take(weights.get(symbol, 0.0), origin)
        times.append(origin)
        rows.append([weights.get(symbol, 0.0) if symbol in seen else np.nan for symbol in symbols])
    return np.array(times, dtype=np.int64), np.array(rows, dtype=np.float64).reshape(len(rows), len(symbols))


class _Held:
    """The position in one symbol, and since when; see `btcbt.records.Holding`."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.since: int | None = None

    def close(self, time: int | None) -> None:
        if time and self.weight:
            self.weight, self.since = 0.0, time

    def at(self, origin: int, interval: int) -> Holding:
        since = origin if self.since is None else self.since
        return Holding(weight=self.weight, candles_held=(origin - since) // interval)

    def take(self, weight: float, origin: int) -> None:
        if self.since is None or np.sign(weight) != np.sign(self.weight):
            self.since = origin
        self.weight = weight


def _ask(
    trader: PanelTrader,
    origin: int,
    seen: Mapping[str, Forecast],
    holdings: Mapping[str, Holding],
    portfolio: PanelPortfolioConfig,
) -> dict[str, float]:
    when = f"strategy '{trader.name}' at {time_text(origin)}"
    cause: StrategyError | None = None
    with user_code(lambda problem: StrategyError(f"strategy '{trader.name}' failed at {time_text(origin)}: {problem}")):
        try:
            answer: object = trader.strategy.decide({name: isolated(one) for name, one in seen.items()}, holdings)
        except StrategyError as error:
            reason, cause = str(error), error
        else:
            reason = _objection(answer, seen, portfolio)
            if not reason:
                return {str(symbol): float(weight) for symbol, weight in answer.items()}  # type: ignore[attr-defined]
    raise StrategyError(f"{when}: {reason}") from cause


def _objection(answer: object, eligible: Mapping[str, Forecast], portfolio: PanelPortfolioConfig) -> str:
    """What is wrong with an answer of `decide`; empty if nothing is."""
    if not isinstance(answer, Mapping):
        return f"decide returned {describe(answer)}; expected a mapping of symbols to weights"
    for symbol, weight in answer.items():
        if symbol not in eligible:
            return (
                f"decide returned a weight for {short(symbol)}, which is not eligible then; eligible are "
                f"{', '.join(eligible)}"
            )
        number = isinstance(weight, int | float | np.integer | np.floating) and not isinstance(weight, bool)
        if not (number and -1.0 <= weight <= 1.0):
            return f"the weight of {symbol} is {describe(weight)}; expected a finite number in [-1, 1]"
    # Limits hold for what is traded: each weight is clipped to those of its symbol first.
    traded = [min(max(float(one), -portfolio.max_short), portfolio.max_long) for one in answer.values()]
    gross, net = sum(map(abs, traded)), abs(sum(traded))
    for what, value, most in (("gross", gross, portfolio.max_gross), ("net", net, portfolio.max_net)):
        if value > most + ROUNDING:
            largest = max(answer, key=lambda symbol: abs(answer[symbol]))
            return (
                f"the weights have a {what} exposure of {value:.4g}, the largest {answer[largest]:.4g} of {largest}; "
                f"portfolio.max_{what} is {most:g}; return smaller weights or raise it"
            )
    return ""
