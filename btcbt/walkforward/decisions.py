"""Decisions: strategies map the forecast and their holding at each origin to a target."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

import numpy as np

from btcbt.config import PortfolioConfig, time_text
from btcbt.errors import StrategyError
from btcbt.messages import describe, user_code
from btcbt.portfolio import closing_times
from btcbt.records import Candles, FloatArray, Forecast, Holding, IntArray, Window
from btcbt.strategies import Strategy
from btcbt.windows import Windows


def decide_all(
    strategy: Strategy, forecasts: Iterable[Forecast], *, name: str | None = None, closed: IntArray | None = None
) -> FloatArray:
    """Run a strategy over origins in order, passing it its current holding.

    Parameters
    ----------
    strategy : Strategy
    forecasts : iterable of Forecast
        M forecasts, in order of time.
    name : str, optional
        Name of the strategy in messages; the class name if left out.
    closed : int64 (M,), optional
        When the position was closed before each origin, for want of a decision, ms UTC; 0 where it was not. See
        `btcbt.portfolio.closing_times`.

    Returns
    -------
    float64 (M,)
        Targets in [-1, 1], as decided: the portfolio clips them to its limits, `Holding` does not.

    Raises
    ------
    StrategyError
        A decision is not a finite number in [-1, 1], or `decide` raised; names strategy, origin and value.
    ValueError
        Origins do not increase.
    """
    targets: FloatArray = decide_together({name or type(strategy).__name__: strategy}, forecasts, closed)[0]
    return targets


def decide_together(
    strategies: Mapping[str, Strategy], forecasts: Iterable[Forecast], closed: IntArray | None = None
) -> FloatArray:
    """Run several strategies at once, so that forecasts are read once; otherwise as `decide_all`.

    Parameters
    ----------
    strategies : mapping of str to Strategy
        Strategies by their name in messages.
    forecasts : iterable of Forecast
        M forecasts, in order of time.
    closed : int64 (M,), optional
        As of `decide_all`.

    Returns
    -------
    float64 (K, M)
        Targets of each.
    """
    positions = [_Position(strategy, label) for label, strategy in strategies.items()]
    previous: int | None = None
    for row, forecast in enumerate(forecasts):
        if previous is not None and forecast.origin <= previous:
            raise ValueError(f"origins do not increase: {forecast.origin} after {previous}")
        previous = forecast.origin
        own = isolated(forecast)
        for position in positions:
            if closed is not None and closed[row]:
                position.close(int(closed[row]))
            position.decide(own if position.strategy.context is None else isolated(own, position.strategy.context))
    return np.array([position.targets for position in positions], dtype=np.float64)


def decide_from(
    strategy: Strategy, forecasts: Iterable[Forecast], holdings: Iterable[Holding], name: str
) -> FloatArray:
    """Run a strategy at each origin with a given holding instead of its own; otherwise as `decide_all`."""
    asked = zip(forecasts, holdings, strict=True)
    context = strategy.context
    return np.array([_ask(strategy, name, isolated(one, context), holding) for one, holding in asked], dtype=np.float64)


def isolated(forecast: Forecast, context: int | None = None) -> Forecast:
    """A copy of a forecast: through a view, a strategy could reach the candles after the origin.

    Its window has the newest `context` candles, or all.
    """
    paths = forecast.paths.copy()
    paths.setflags(write=False)
    return Forecast(isolated_window(forecast.window, context), paths)


def isolated_window(window: Window, context: int | None = None) -> Window:
    """A copy of the newest `context` candles of a window, or of all."""
    rows = slice(None) if context is None else slice(-context, None)
    times, values = window.open_time[rows].copy(), window.values[rows].copy()
    for one in (times, values):
        one.setflags(write=False)
    return Window(times, values, window.interval_ms)


class _Position:
    """A strategy, its holding and since when, and its decisions so far."""

    def __init__(self, strategy: Strategy, label: str) -> None:
        self.strategy, self.label = strategy, label
        self.targets = array("d")
        self.weight, self.since = 0.0, 0

    def close(self, time: int) -> None:
        if self.weight:
            self.weight, self.since = 0.0, time

    def decide(self, forecast: Forecast) -> None:
        origin = forecast.origin
        if not self.targets:
            self.since = origin
        held = (origin - self.since) // forecast.window.interval_ms
        target = _ask(self.strategy, self.label, forecast, Holding(weight=self.weight, candles_held=held))
        if np.sign(target) != np.sign(self.weight):
            self.since = origin
        self.targets.append(target)
        self.weight = target


def _ask(strategy: Strategy, label: str, forecast: Forecast, holding: Holding) -> float:
    cause: StrategyError | None = None
    when = f"at {time_text(forecast.origin)}"
    with user_code(lambda problem: StrategyError(f"strategy '{label}' failed {when}: {problem}")):
        try:
            decision: object = strategy.decide(forecast, holding)
        except StrategyError as error:
            reason, cause = str(error), error
        else:
            number = isinstance(decision, int | float | np.integer | np.floating) and not isinstance(decision, bool)
            # Not `abs(x) > 1`: a NaN must fail the comparison.
            if number and -1.0 <= decision <= 1.0:  # type: ignore[operator]
                return float(decision)  # type: ignore[arg-type]
            reason = f"decide returned {describe(decision)}; expected a finite number in [-1, 1]"
    raise StrategyError(f"strategy '{label}' {when}: {reason}") from cause


def closed_before(candles: Candles, origins: IntArray, own: IntArray, portfolio: PortfolioConfig) -> IntArray | None:
    """See `btcbt.portfolio.closing_times`; None if the portfolio holds positions without a decision."""
    return closing_times(candles, origins, own) if portfolio.on_gap == "flat" else None


def asked_at(strategy: Strategy, windows: Windows, decided: Windows) -> Windows:
    """The origins at which a strategy decides, of those with forecasts and of all; see `decide_targets`."""
    if strategy.uses_forecast:
        return windows
    return decided.needing(windows.context if strategy.context is None else strategy.context)
