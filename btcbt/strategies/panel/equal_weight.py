"""The same weight in every eligible symbol: the yardstick of strategies on panels."""

from __future__ import annotations

from collections.abc import Mapping

from btcbt.records import Forecast, Holding
from btcbt.strategies.panel.base import PanelStrategy, shares


class EqualWeight(PanelStrategy):
    """Hold 1/n of equity in each of the n eligible symbols, rebalanced at every origin where n changes.

    Targets that do not change send no order, so weights drift with prices in between.
    """

    uses_forecast = False

    def decide(self, forecasts: Mapping[str, Forecast], holdings: Mapping[str, Holding]) -> Mapping[str, float]:
        """1/n each; see `PanelStrategy.decide`."""
        del holdings
        return shares(dict.fromkeys(forecasts, 1.0))
