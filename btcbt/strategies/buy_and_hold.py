"""Buy once and hold: what every other strategy has to beat."""

from btcbt.records import Forecast, Holding
from btcbt.strategies.base import Strategy


class BuyAndHold(Strategy):
    """Put all equity into the coin at the first origin and leave it there.

    The target never changes, so one order is sent and its costs are paid once.
    """

    uses_forecast = False

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return 1."""
        return 1.0
