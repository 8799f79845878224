"""The PanelStrategy protocol: strategies that see the forecasts of all symbols at one moment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from btcbt.loading import Params
from btcbt.records import DataRange, Forecast, Holding


class PanelStrategy(ABC):
    """Decides, at each moment, which fraction of equity to hold of each symbol.

    Like a `btcbt.strategies.Strategy`, it is a class in any importable file, with its parameters in `Params`::

        from btcbt.strategies import PanelStrategy

        class Best(PanelStrategy):
            def decide(self, forecasts, holdings):
                best = max(forecasts, key=lambda symbol: forecasts[symbol].returns().mean())
                return {best: 1.0}

    `decide` is called at every moment at which some symbol is eligible, in order of time, and must depend only on its
    arguments.
    """

    Params: type[Params] = Params

    params: Any
    """An instance of `Params`."""

    uses_forecast: ClassVar[bool] = True
    """False if `decide` uses only the windows: it then runs once, and gets no paths (S = 0)."""

    def __init__(self, params: BaseModel | None = None) -> None:
        self.params = self.Params() if params is None else params

    @abstractmethod
    def decide(self, forecasts: Mapping[str, Forecast], holdings: Mapping[str, Holding]) -> Mapping[str, float]:
        """Return the target weights.

        Parameters
        ----------
        forecasts : mapping of str to Forecast
            Known candles and sampled paths of each eligible symbol.
        holdings : mapping of str to Holding
            The current position in each symbol of the panel, eligible or not.

        Returns
        -------
        mapping of str to float
            Fraction of equity to hold of each symbol from its next candle's open, in [-1, 1]; 0 for eligible symbols
            that are left out. Positions in symbols that are not eligible stay as they are.
        """

    def data_ranges(self) -> Sequence[DataRange] | None:
        """As of `btcbt.strategies.Strategy`."""
        return None


def shares(values: Mapping[str, float], gross: float = 1.0) -> dict[str, float]:
    """Weights in proportion to the values, whose absolute sum is `gross`; none where all values are 0."""
    total = sum(map(abs, values.values()))
    return {symbol: gross * value / total for symbol, value in values.items()} if total > 0 else {}
