"""Hold the symbols with the best forecasts, and sell the worst short where that is allowed."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from btcbt.records import Forecast, Holding
from btcbt.strategies.base import Params
from btcbt.strategies.panel.base import PanelStrategy, shares


class TopKParams(Params):
    """Parameters."""

    k: int = Field(1, ge=1)
    """Symbols held long, and as many short."""
    step: int | None = Field(None, ge=1)
    """Candles ahead whose mean forecast return ranks the symbols; the whole horizon if left out."""
    short: bool = False
    """Whether to sell the k worst short; needs ``portfolio.max_short`` above 0."""


class TopK(PanelStrategy):
    """Equal weights in the k symbols with the highest mean forecast return, of gross exposure 1.

    With `short`, half of it in the k best and minus half in the k worst; with fewer than 2k eligible symbols, as many
    on each side as there are pairs.
    """

    Params = TopKParams
    params: TopKParams

    def decide(self, forecasts: Mapping[str, Forecast], holdings: Mapping[str, Holding]) -> Mapping[str, float]:
        """Long the best, short the worst; see `PanelStrategy.decide`."""
        del holdings
        step = -1 if self.params.step is None else self.params.step - 1
        means = {symbol: float(one.returns(step).mean()) for symbol, one in forecasts.items()}
        ranked = sorted(means, key=lambda symbol: (-means[symbol], symbol))
        if not self.params.short:
            return shares(dict.fromkeys(ranked[: self.params.k], 1.0))
        count = min(self.params.k, len(ranked) // 2)
        return shares(dict.fromkeys(ranked[:count], 1.0) | dict.fromkeys(ranked[len(ranked) - count :], -1.0))
