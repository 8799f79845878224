"""Strategies map forecasts and current holdings to target weights: of one symbol, or of each symbol of a panel."""

from btcbt.strategies.base import Params, Strategy
from btcbt.strategies.panel.base import PanelStrategy

__all__ = ["PanelStrategy", "Params", "Strategy"]
