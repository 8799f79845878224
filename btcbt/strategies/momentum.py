"""Follow the trend of past candles: a benchmark that needs no forecast."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from btcbt.records import CLOSE, IN_BPS, FloatArray, Forecast, Forecasts, Holding
from btcbt.strategies.base import Params, Strategy
from btcbt.strategies.thresholds import column, hold_between


class MomentumParams(Params):
    """The trend is the simple return over the last candles."""

    lookback: int = Field(24, ge=1, description="Candles over which the trend is measured")
    threshold_bps: float = Field(0.0, ge=0, description="Smallest trend to follow, basis points")
    size: float = Field(1.0, gt=0, le=1, description="Weight of a position, fraction of equity")
    allow_short: bool = Field(False, description="Whether to go short after falls")


class Momentum(Strategy):
    """Be long after a rise; with `allow_short`, short after a fall.

    Past returns of an asset predict its next ones with the same sign (Moskowitz, Ooi and Pedersen, 2012,
    "Time series momentum", Journal of Financial Economics 104), for cryptocurrencies over weeks too (Liu
    and Tsyvinski, 2021, "Risks and returns of cryptocurrency", Review of Financial Studies 34). A
    forecaster that does not beat this rule adds nothing to past prices.
    """

    uses_forecast = False

    Params = MomentumParams
    params: MomentumParams

    def __init__(self, params: BaseModel | None = None) -> None:
        super().__init__(params)
        self.context = self.params.lookback + 1

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return `size`, 0 or, where allowed, minus `size`."""
        close = forecast.window.values[:, CLOSE]
        trend = (close[-1] / close[-1 - self.params.lookback] - 1) * IN_BPS
        if trend > self.params.threshold_bps:
            return self.params.size
        if self.params.allow_short and trend < -self.params.threshold_bps:
            return -self.params.size
        return 0.0

    @classmethod
    def decide_many(cls, forecasts: Forecasts, weights: FloatArray, params: Sequence[Any]) -> FloatArray | None:
        """As `decide`, for many parameters; None where a lookback is too long, which `decide` reports."""
        lookbacks = column(params, "lookback").astype(int)
        if any(len(window.values) <= lookbacks.max() for window in forecasts.windows):
            return None
        trend = np.empty((len(forecasts), len(params)))
        for lookback in np.unique(lookbacks):
            before = np.array([window.values[-1 - lookback, CLOSE] for window in forecasts.windows])
            trend[:, lookbacks == lookback] = ((forecasts.last_close / before - 1) * IN_BPS)[:, None]
        least, never = column(params, "threshold_bps"), np.zeros(trend.shape, dtype=bool)
        return hold_between(weights, params, (trend > least, never), (trend < -least, never))
