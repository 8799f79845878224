"""The accounts of strategies that trade several symbols at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from btcbt.config import BUY_AND_HOLD, PanelConfig, StrategyConfig
from btcbt.errors import ConfigError
from btcbt.strategies import PanelStrategy
from btcbt.strategies.panel.loading import is_panel_strategy, load_panel_strategy


@dataclass(frozen=True, slots=True, eq=False)
class PanelTrader:
    """A strategy on the forecasts of one forecaster for all symbols, or on none.

    Attributes
    ----------
    name : str
        ``strategy@forecaster``, or ``strategy`` if it uses no forecast.
    strategy : PanelStrategy
    use : str
        The class as named in the experiment.
    params : mapping
        Its parameters in the experiment.
    forecaster : str or None
    """

    name: str
    strategy: PanelStrategy
    use: str
    params: Mapping[str, Any]
    forecaster: str | None


def on_one_symbol(config: PanelConfig) -> dict[str, StrategyConfig]:
    """The strategies of an experiment on several symbols that trade each symbol on its own."""
    return {name: one for name, one in config.strategies.items() if not is_panel_strategy(one.use)}


def make_panel_traders(config: PanelConfig) -> list[PanelTrader]:
    """Build every strategy on panels, once for each forecaster that it trades on.

    Raises
    ------
    StrategyError
        If one cannot be imported or built.
    ConfigError
        If one needs a forecaster and has none, or names forecasters that it does not use.
    """
    traders = []
    for name, chosen in config.strategies.items():
        if not is_panel_strategy(chosen.use):
            continue
        if name == BUY_AND_HOLD:
            raise ConfigError(f"strategies.{name}: this name is reserved for the benchmark; choose another name")
        strategy = load_panel_strategy(chosen.use, chosen.params)
        if not strategy.uses_forecast:
            if chosen.forecasters is not None:
                raise ConfigError(f"strategies.{name}.forecasters: {chosen.use} uses no forecast; remove the key")
            traders.append(PanelTrader(name, strategy, chosen.use, chosen.params, None))
            continue
        on = tuple(config.forecasters) if chosen.forecasters is None else chosen.forecasters
        if not on:
            raise ConfigError(f"strategies.{name}: {chosen.use} needs a forecaster; add one under 'forecasters'")
        for forecaster in on:
            own = load_panel_strategy(chosen.use, chosen.params)
            traders.append(PanelTrader(f"{name}@{forecaster}", own, chosen.use, chosen.params, forecaster))
    return traders
