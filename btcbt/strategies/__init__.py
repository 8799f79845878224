"""Strategies map a forecast and the current holding to a target weight."""

from btcbt.strategies.base import Params, Strategy

__all__ = ["Params", "Strategy"]
