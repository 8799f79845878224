"""Strategies: forecasts in, target weights out."""

from btcbt.strategies.base import Params, Strategy

__all__ = ["Params", "Strategy"]
