"""Decisions: strategies map the forecast and their holding at each origin to a target."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from btcbt.config import time_text
from btcbt.errors import StrategyError
from btcbt.messages import describe, user_code
from btcbt.progress import Advance, Progress
from btcbt.records import CHANNELS, FloatArray, Forecast, Holding, Window
from btcbt.strategies import Strategy
from btcbt.walkforward.members import Member
from btcbt.walkforward.stages import STRATEGY, running
from btcbt.walkforward.traders import Trader
from btcbt.windows import Windows


def decide_all(strategy: Strategy, forecasts: Iterable[Forecast], *, name: str | None = None) -> FloatArray:
    """Run a strategy over origins in order, passing it its current holding.

    Parameters
    ----------
    strategy : Strategy
    forecasts : iterable of Forecast
        M forecasts, in order of time.
    name : str, optional
        Name of the strategy in messages; the class name if left out.

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
    """Run several strategies at once, so that forecasts are read once; otherwise as `decide_all`.

    Parameters
    ----------
    strategies : mapping of str to Strategy
        Strategies by their name in messages.
    forecasts : iterable of Forecast
        M forecasts, in order of time.

    Returns
    -------
    float64 (K, M)
        Targets of each.
    """
    positions = [_Position(strategy, label) for label, strategy in strategies.items()]
    previous: int | None = None
    for forecast in forecasts:
        if previous is not None and forecast.origin <= previous:
            raise ValueError(f"origins do not increase: {forecast.origin} after {previous}")
        previous = forecast.origin
        own = isolated(forecast)
        for position in positions:
            position.decide(own)
    return np.array([position.targets for position in positions], dtype=np.float64)


def decide_from(
    strategy: Strategy, forecasts: Iterable[Forecast], holdings: Iterable[Holding], name: str
) -> FloatArray:
    """Run a strategy at each origin with a given holding instead of its own; otherwise as `decide_all`."""
    asked = zip(forecasts, holdings, strict=True)
    return np.array([_ask(strategy, name, isolated(one), holding) for one, holding in asked], dtype=np.float64)


def isolated(forecast: Forecast) -> Forecast:
    """A copy of a forecast: through a view, a strategy could reach the candles after the origin."""
    window = forecast.window
    times, values, paths = window.open_time.copy(), window.values.copy(), forecast.paths.copy()
    for one in (times, values, paths):
        one.setflags(write=False)
    return Forecast(Window(times, values, window.interval_ms), paths)


class _Position:
    """A strategy, its holding and since when, and its decisions so far."""

    def __init__(self, strategy: Strategy, label: str) -> None:
        self.strategy, self.label = strategy, label
        self.targets = array("d")
        self.weight, self.since = 0.0, 0

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


def decide_targets(
    traders: Sequence[Trader], members: Mapping[str, Member], windows: Windows, progress: Progress
) -> FloatArray:
    """Decisions of every trader at every origin.

    Parameters
    ----------
    traders : sequence of Trader
        K traders.
    members : mapping
        The forecasters that they trade on, with their forecasts stored.
    windows : Windows
        M origins.
    progress : Progress
        Receives the progress.

    Returns
    -------
    float64 (M, K)
        Targets.
    """
    targets = np.empty((len(windows), len(traders)), dtype=np.float64)
    with progress.stage("decide", targets.size, unit="decisions") as advance, running(STRATEGY):
        for column, trader in enumerate(traders):
            member = None if trader.forecaster is None else members[trader.forecaster]
            forecasts = _forecasts(member, windows, advance)
            targets[:, column] = decide_all(trader.strategy, forecasts, name=trader.name)
    return targets


def _forecasts(member: Member | None, windows: Windows, advance: Advance) -> Iterator[Forecast]:
    """The input of a strategy at each origin; without a forecaster there are no paths."""
    if member is None:
        none = np.empty((0, windows.horizon, len(CHANNELS)), dtype=np.float32)
        for window in windows:
            yield Forecast(window, none)
        advance(len(windows))
        return
    row = 0
    for batch in member.batches():
        for paths in batch.paths:
            yield Forecast(windows[row], paths)
            row += 1
        advance(len(batch))
