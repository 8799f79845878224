"""Strategies on panels map the forecasts of all symbols at one moment to a weight of each."""

from btcbt.strategies.panel.base import PanelStrategy

__all__ = ["PanelStrategy"]
