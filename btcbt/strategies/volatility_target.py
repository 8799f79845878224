"""Scale the position to a target volatility."""

from typing import Literal

import numpy as np
from pydantic import Field

from btcbt.records import YEAR_MS, Forecast, Holding
from btcbt.strategies.base import Params, Strategy


class VolatilityTargetParams(Params):
    """Volatilities are per year; a crypto year has all hours of all days."""

    target: float = Field(0.3, gt=0, description="Target volatility, per year (0.3 is 30 %)")
    signal: Literal["sign", "expected"] = Field(
        "sign", description="Direction alone, or direction and strength of the expected return"
    )
    max_weight: float = Field(1.0, gt=0, le=1, description="Largest weight, fraction of equity")
    band: float = Field(0.1, ge=0, le=2, description="Smallest change of weight that sends an order")
    allow_short: bool = Field(False, description="Whether to go short on an expected fall")


class VolatilityTarget(Strategy):
    """Hold ``signal x target / volatility``, with the volatility of the paths.

    Positions of equal risk rather than equal size are those of Moskowitz, Ooi and Pedersen (2012, "Time
    series momentum", Journal of Financial Economics 104, equation 5); the benefit of holding less when
    volatility is high is shown by Moreira and Muir (2017, "Volatility-managed portfolios", Journal of
    Finance 72). The volatility is that of one step, over all paths, assuming equal steps. The signal
    is the sign of the mean return over the horizon or, with `expected`, that mean over its own standard
    deviation, clipped to [-1, 1]. Changes of weight below `band` are skipped.
    """

    Params = VolatilityTargetParams
    params: VolatilityTargetParams

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return a weight in [-max_weight, max_weight], or the one held."""
        returns = forecast.returns()
        signal = float(np.sign(returns.mean()))
        if self.params.signal == "expected":
            deviation = float(returns.std())
            signal = float(np.clip(returns.mean() / deviation, -1, 1)) if deviation > 0 else signal
        if signal < 0 and not self.params.allow_short:
            signal = 0.0
        # Compared before dividing, since the volatility of constant paths is zero.
        volatility, most = annual_volatility(forecast), self.params.max_weight
        scale = most if volatility * most <= self.params.target else self.params.target / volatility
        weight = signal * scale
        small = abs(weight - holding.weight) < self.params.band
        return holding.weight if small and np.sign(weight) == np.sign(holding.weight) else weight


def annual_volatility(forecast: Forecast) -> float:
    """Root mean square of the paths' steps, relative to the last known close, scaled to a year."""
    close = forecast.close_paths.astype(np.float64)
    steps = np.diff(close, axis=1, prepend=forecast.last_close) / forecast.last_close
    return float(np.sqrt(np.mean(steps**2) * YEAR_MS / forecast.window.interval_ms))
