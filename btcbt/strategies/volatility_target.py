"""Scale the position to a target volatility."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from btcbt.records import CLOSE, YEAR_MS, FloatArray, Forecast, Forecasts, Holding
from btcbt.strategies.base import Params, Strategy
from btcbt.strategies.thresholds import column


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

    @classmethod
    def decide_many(cls, forecasts: Forecasts, weights: FloatArray, params: Sequence[Any]) -> FloatArray:
        """As `decide`, for several parameters at consecutive origins."""
        returns = forecasts.returns()
        mean, deviation = returns.mean(axis=1), returns.std(axis=1)
        sign = np.sign(mean)
        strength = np.clip(np.divide(mean, deviation, out=sign.copy(), where=deviation > 0), -1, 1)
        expected = np.array([one.signal == "expected" for one in params])
        signal = np.where(expected, strength[:, None], sign[:, None])
        signal = np.where((signal < 0) & ~np.array([one.allow_short for one in params]), 0.0, signal)
        target, most, band = (column(params, name) for name in ("target", "max_weight", "band"))
        volatility = annual_volatilities(forecasts)[:, None]
        with np.errstate(divide="ignore"):
            scale = np.where(volatility * most <= target, most, target / volatility)
        wanted, held = signal * scale, weights
        targets = np.empty_like(wanted)
        for row, weight in enumerate(wanted):
            small = (np.abs(weight - held) < band) & (np.sign(weight) == np.sign(held))
            targets[row] = held = np.where(small, held, weight)
        return targets


def annual_volatility(forecast: Forecast) -> float:
    """Root mean square of the paths' steps, relative to the last known close, scaled to a year."""
    return float(annual_volatilities(Forecasts([forecast.window], forecast.paths[None]))[0])


def annual_volatilities(forecasts: Forecasts) -> FloatArray:
    """The same at B origins, (B,)."""
    close, last = forecasts.paths[..., CLOSE].astype(np.float64), forecasts.last_close[:, None, None]
    steps = np.diff(close, axis=2, prepend=np.broadcast_to(last, (*close.shape[:2], 1))) / last
    # One row for each origin, so that the sums do not depend on how many origins there are.
    mean = np.mean(np.reshape(steps**2, (len(steps), -1)), axis=1)
    return np.asarray(np.sqrt(mean * YEAR_MS / forecasts.windows[0].interval_ms))
