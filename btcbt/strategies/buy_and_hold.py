"""Buy once and hold: the benchmark of all other strategies."""

from btcbt.records import Forecast, Holding
from btcbt.strategies.base import Strategy


class BuyAndHold(Strategy):
    """Put all equity into the coin at the first origin and hold it.

    The target never changes, so one order is sent and its costs are paid once.
    """

    uses_forecast = False
    context = 1

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return 1."""
        return 1.0
