"""Trade on the probability of a rise."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from btcbt.records import FloatArray, Forecast, Forecasts, Holding
from btcbt.strategies.base import Params, Strategy
from btcbt.strategies.thresholds import column, hold_between


class ProbabilityParams(Params):
    """Probabilities are shares of paths that end above the last close."""

    entry: float = Field(0.6, gt=0.5, le=1, description="Probability from which to enter, in (0.5, 1]")
    exit: float = Field(0.5, ge=0, lt=1, description="Probability at or below which to exit, in [0, 1)")
    size: float = Field(1.0, gt=0, le=1, description="Weight of a position, fraction of equity")
    allow_short: bool = Field(False, description="Whether to mirror the rule for falls")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.exit >= self.entry:
            raise ValueError(f"exit {self.exit:g} is not below entry {self.entry:g}; lower it")
        return self


class Probability(Strategy):
    """Be long while a rise over the horizon is likely.

    Profits from forecasts depend on directional accuracy rather than on squared error (Leitch and Tanner,
    1991, "Economic forecast evaluation: profits versus the conventional error measures", American Economic
    Review 81). The probability is the share of paths that end higher; unchanged paths count
    half. With S paths its standard error is about ``0.5 / sqrt(S)``: 0.09 for 30 paths.
    """

    Params = ProbabilityParams
    params: ProbabilityParams

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return `size`, 0 or, where allowed, minus `size`."""
        rise = float((1 + np.sign(forecast.returns()).mean()) / 2)
        if self._long(rise, holding.weight > 0):
            return self.params.size
        if self.params.allow_short and self._long(1 - rise, holding.weight < 0):
            return -self.params.size
        return 0.0

    @classmethod
    def decide_many(cls, forecasts: Forecasts, weights: FloatArray, params: Sequence[Any]) -> FloatArray:
        """As `decide`, for many parameters."""
        rise = (1 + np.sign(forecasts.returns()).mean(axis=1)[:, None]) / 2
        enter, leave = column(params, "entry"), column(params, "exit")
        return hold_between(weights, params, (rise >= enter, rise > leave), (1 - rise >= enter, 1 - rise > leave))

    def _long(self, probability: float, held: bool) -> bool:
        return probability >= self.params.entry or (held and probability > self.params.exit)
