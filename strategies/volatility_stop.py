"""Worked example: a long position sized by volatility, left at a trailing stop.

Copy this file, change it, and name it in an experiment::

    strategies:
      stop: {use: "strategies/volatility_stop.py:VolatilityStop", params: {target: 0.3, stop_ranges: 4.0}}

The stop is checked at the close of each candle and filled at the next open, like every decision: an order that waits
in the market and is filled inside a candle cannot be expressed.
"""

import numpy as np
from pydantic import Field

from btcbt.records import CLOSE, HIGH, LOW, FloatArray, Forecast, Holding
from btcbt.strategies.base import Params, Strategy

YEAR_MS = 365.25 * 24 * 3_600_000


class VolatilityStopParams(Params):
    """How large the position is, and when it is left."""

    target: float = Field(0.3, gt=0, description="Target volatility, per year (0.3 is 30 %)")
    entry_bps: float = Field(30.0, ge=0, description="Expected return from which to enter, basis points")
    stop_ranges: float = Field(4.0, gt=0, description="Distance of the stop from the peak, in average true ranges")
    range_candles: int = Field(24, ge=1, description="Candles over which the true range is averaged")
    wait: int = Field(6, ge=0, description="Candles to stay out after leaving")
    band: float = Field(0.1, ge=0, le=1, description="Smallest change of weight that sends an order")


class VolatilityStop(Strategy):
    """Enter on a large expected return with ``target / volatility``; leave at a stop or when a fall is expected.

    The volatility is that of the sampled paths. The stop trails the highest close since the entry by a multiple of
    the average true range (Wilder, 1978, "New Concepts in Technical Trading Systems"), a distance known as the
    chandelier exit. The strategy needs no memory: `holding.candles_held` says since when there is a position, and the
    window holds the closes since then. A position older than the window is trailed by the window alone.
    """

    Params = VolatilityStopParams
    params: VolatilityStopParams

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return a weight in [0, 1]."""
        expected = float(forecast.returns().mean()) * 1e4
        if holding.weight > 0:
            if expected < 0 or self._stopped(forecast.window.values, holding.candles_held):
                return 0.0
            weight = self._size(forecast)
            return holding.weight if abs(weight - holding.weight) < self.params.band else weight
        # At the first decision of all, `candles_held` is 0 and nothing was left yet.
        if 0 < holding.candles_held < self.params.wait or expected < self.params.entry_bps:
            return 0.0
        return self._size(forecast)

    def _size(self, forecast: Forecast) -> float:
        close = forecast.close_paths.astype(np.float64)
        steps = np.diff(close, axis=1, prepend=forecast.last_close) / forecast.last_close
        volatility = float(np.sqrt(np.mean(steps**2) * YEAR_MS / forecast.window.interval_ms))
        # Compared before dividing: the volatility of constant paths is zero.
        return 1.0 if volatility <= self.params.target else self.params.target / volatility

    def _stopped(self, values: FloatArray, held: int) -> bool:
        recent = values[-min(self.params.range_candles, len(values) - 1) :]
        before = values[-len(recent) - 1 : -1, CLOSE]
        true_range = np.maximum(recent[:, HIGH], before) - np.minimum(recent[:, LOW], before)
        peak = float(values[-held - 1 :, CLOSE].max())
        return float(values[-1, CLOSE]) < peak - self.params.stop_ranges * float(true_range.mean())
