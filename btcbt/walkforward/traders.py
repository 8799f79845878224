"""Traders: pairs of a strategy and the forecaster that it trades on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from btcbt.config import BUY_AND_HOLD, RunConfig
from btcbt.errors import ConfigError, StrategyError, at_key
from btcbt.messages import describe
from btcbt.strategies import Strategy
from btcbt.strategies.loading import load_strategy
from btcbt.strategies.panel.loading import PANEL_BUILT_IN


@dataclass(frozen=True, slots=True, eq=False)
class Trader:
    """A strategy on the forecasts of one forecaster, or on none; one column of targets.

    Attributes
    ----------
    name : str
        ``strategy@forecaster``, or ``strategy`` if it uses no forecast.
    strategy : Strategy
        Not shared with other traders.
    use : str
        The class as named in the experiment.
    params : mapping
        Its parameters in the experiment.
    forecaster : str or None
        The forecaster that it trades on.
    """

    name: str
    strategy: Strategy
    use: str
    params: Mapping[str, Any]
    forecaster: str | None


def make_traders(config: RunConfig) -> list[Trader]:
    """Build every strategy, once for each forecaster that it trades on.

    Raises
    ------
    StrategyError
        If one cannot be imported or built, or needs a context that is no number of candles up to ``windows.context``.
    ConfigError
        If a strategy needs a forecaster and has none, or names forecasters that it does not use.
    """
    traders = []
    for name, chosen in config.strategies.items():
        if name == BUY_AND_HOLD and chosen.use != BUY_AND_HOLD:
            raise ConfigError(
                f"strategies.{name}: this name is reserved for the benchmark, the strategy {BUY_AND_HOLD}, got "
                f"{chosen.use}; choose another name"
            )
        if chosen.use in PANEL_BUILT_IN:
            raise ConfigError(f"strategies.{name}: {chosen.use} trades several symbols; it needs candles.symbols")
        with at_key("strategies", name):
            strategy = load_strategy(chosen.use, chosen.params)
        _check_context(name, strategy, config.windows.context)
        if not strategy.uses_forecast:
            if chosen.forecasters is not None:
                raise ConfigError(f"strategies.{name}.forecasters: {chosen.use} uses no forecast; remove the key")
            traders.append(Trader(name, strategy, chosen.use, chosen.params, None))
            continue
        on = tuple(config.forecasters) if chosen.forecasters is None else chosen.forecasters
        if not on:
            raise ConfigError(f"strategies.{name}: {chosen.use} needs a forecaster; add one under 'forecasters'")
        for forecaster in on:
            # A new object for each, so that accounts share no state.
            own = load_strategy(chosen.use, chosen.params)
            traders.append(Trader(f"{name}@{forecaster}", own, chosen.use, chosen.params, forecaster))
    return traders


def _check_context(name: str, strategy: Strategy, most: int) -> None:
    needed: object = strategy.context
    if needed is None:
        return
    if not isinstance(needed, int) or isinstance(needed, bool) or needed < 1:
        raise StrategyError(
            f"strategy '{name}': its context is {describe(needed)}; expected a number of candles, at least 1, or None "
            "for those of the experiment"
        )
    if needed > most:
        raise StrategyError(
            f"strategy '{name}' needs a context of {needed:,} candles, got {most:,}; raise windows.context or choose "
            "parameters that need less"
        )
