"""Weights by inverse forecast volatility, tilted towards the symbols with better forecasts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from btcbt.records import Forecast, Holding
from btcbt.strategies.base import Params
from btcbt.strategies.panel.base import PanelStrategy, shares


class RiskParityTiltParams(Params):
    """Parameters."""

    strength: float = Field(1.0, ge=0, le=100)
    """How much forecasts count; 0 gives inverse-volatility weights."""
    band: float = Field(0.05, ge=0, le=1)
    """A weight is changed only if it moves by more, so that costs do not eat the account."""


class RiskParityTilt(PanelStrategy):
    """Weights in proportion to ``exp(strength x mean / sd) / sd`` of the forecast returns over the horizon, long only.

    Inverse-volatility weights give each symbol the same risk if all correlations are the same (Maillard, Roncalli and
    Teiletche, 2010, Journal of Portfolio Management 36(4)).
    """

    Params = RiskParityTiltParams
    params: RiskParityTiltParams

    def decide(self, forecasts: Mapping[str, Forecast], holdings: Mapping[str, Holding]) -> Mapping[str, float]:
        """Inverse-volatility weights with a tilt; see `PanelStrategy.decide`."""
        moments = {symbol: (one.returns().mean(), one.returns().std()) for symbol, one in forecasts.items()}
        scores = {symbol: float(self.params.strength * mean / sd) for symbol, (mean, sd) in moments.items() if sd > 0}
        if not scores:
            return {}
        best = max(scores.values())
        wanted = shares({symbol: math.exp(one - best) / float(moments[symbol][1]) for symbol, one in scores.items()})
        now = {symbol: holdings[symbol].weight for symbol in forecasts}
        near = all(abs(wanted.get(symbol, 0.0) - weight) <= self.params.band for symbol, weight in now.items())
        # A symbol that was not eligible a moment ago comes back with its old weight, which the others had not left out.
        if near and sum(now.values()) <= 1.0:
            return now
        return wanted
