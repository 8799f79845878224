"""Strategies asked at each origin, told what they hold: forecasts to targets."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

import numpy as np

from btcbt.config import time_text
from btcbt.errors import StrategyError
from btcbt.messages import describe, explain
from btcbt.records import FloatArray, Forecast, Holding
from btcbt.strategies import Strategy


def decide_all(strategy: Strategy, forecasts: Iterable[Forecast], *, name: str | None = None) -> FloatArray:
    """Ask a strategy at each origin, telling it what it holds.

    Parameters
    ----------
    strategy : Strategy
        Whom to ask.
    forecasts : iterable of Forecast
        M forecasts, in order of time.
    name : str, optional
        What to call the strategy in messages; the class's name if left out.

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
    targets: FloatArray = decide_together({name or type(strategy).__name__: strategy}, forecasts)[0]
    return targets


def decide_together(strategies: Mapping[str, Strategy], forecasts: Iterable[Forecast]) -> FloatArray:
    """Ask several strategies at each origin, so that forecasts are read once; else as `decide_all`.

    Parameters
    ----------
    strategies : mapping of str to Strategy
        Whom to ask, by what to call them in messages.
    forecasts : iterable of Forecast
        M forecasts, in order of time.

    Returns
    -------
    float64 (K, M)
        Targets of each.
    """
    accounts = [_Account(strategy, label) for label, strategy in strategies.items()]
    previous: int | None = None
    for forecast in forecasts:
        if previous is not None and forecast.origin <= previous:
            raise ValueError(f"origins do not increase: {forecast.origin} after {previous}")
        previous = forecast.origin
        for account in accounts:
            account.decide(forecast)
    return np.array([account.targets for account in accounts], dtype=np.float64)


class _Account:
    """A strategy, what it holds and since when, and all that it has decided."""

    def __init__(self, strategy: Strategy, label: str) -> None:
        self.strategy, self.label = strategy, label
        self.targets = array("d")
        self.weight, self.since = 0.0, 0

    def decide(self, forecast: Forecast) -> None:
        origin = forecast.origin
        if not self.targets:
            self.since = origin
        held = (origin - self.since) // forecast.window.interval_ms
        try:
            decision = self.strategy.decide(forecast, Holding(weight=self.weight, candles_held=held))
        except StrategyError as error:
            raise StrategyError(f"strategy '{self.label}' at {time_text(origin)}: {error}") from error
        except Exception as error:
            raise StrategyError(f"strategy '{self.label}' failed at {time_text(origin)}: {explain(error)}") from error
        target = _check(decision, self.label, origin)
        if np.sign(target) != np.sign(self.weight):
            self.since = origin
        self.targets.append(target)
        self.weight = target


def _check(decision: object, label: str, origin: int) -> float:
    number = isinstance(decision, int | float | np.integer | np.floating) and not isinstance(decision, bool)
    # Not `abs(x) > 1`: a NaN must fail the comparison.
    if not number or not -1.0 <= decision <= 1.0:  # type: ignore[operator]
        raise StrategyError(
            f"strategy '{label}' at {time_text(origin)}: decide returned {describe(decision)}; "
            "expected a finite number in [-1, 1]"
        )
    return float(decision)  # type: ignore[arg-type]
