"""Hold nothing: a benchmark without costs and risk."""

from btcbt.records import Forecast, Holding
from btcbt.strategies.base import Strategy


class Flat(Strategy):
    """Stay in cash, whatever the forecast."""

    uses_forecast = False
    context = 1

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return 0."""
        return 0.0
