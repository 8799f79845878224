"""Trade on the ratio of the upper to the lower tail of the forecast."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from btcbt.records import IN_BPS, FloatArray, Forecast, Forecasts, Holding
from btcbt.strategies.base import Params, Strategy
from btcbt.strategies.thresholds import column, hold_between


class QuantileParams(Params):
    """The tails are quantiles of the return over the horizon; a ratio is reward over risk."""

    tail: float = Field(0.1, gt=0, lt=0.5, description="Probability beyond each quantile, in (0, 0.5)")
    entry_ratio: float = Field(1.5, ge=1, description="Reward over risk from which to enter")
    exit_ratio: float = Field(1.0, gt=0, description="Reward over risk at or below which to exit")
    min_reward_bps: float = Field(24.0, ge=0, description="Smallest reward for a new position, basis points")
    size: float = Field(1.0, gt=0, le=1, description="Weight of a position, fraction of equity")
    allow_short: bool = Field(False, description="Whether to mirror the rule for falls")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.exit_ratio >= self.entry_ratio:
            raise ValueError(f"exit_ratio {self.exit_ratio:g} is not below entry_ratio {self.entry_ratio:g}; lower it")
        return self


class Quantile(Strategy):
    """Be long while the plausible gain is a multiple of the plausible loss.

    Reward is the upper quantile of the paths' return over the horizon, risk is the lower one with its sign
    reversed: a ratio of tails in the manner of Biglova, Ortobelli, Rachev and Stoyanov (2004, "Different
    approaches to risk estimation in portfolio theory", Journal of Portfolio Management 31), with quantiles
    in place of tail means. A new position also needs a reward that covers the costs of a round trip.
    """

    Params = QuantileParams
    params: QuantileParams

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return `size`, 0 or, where allowed, minus `size`."""
        low, high = np.quantile(forecast.returns(), [self.params.tail, 1 - self.params.tail])
        if self._long(float(high), float(-low), holding.weight > 0):
            return self.params.size
        if self.params.allow_short and self._long(float(-low), float(high), holding.weight < 0):
            return -self.params.size
        return 0.0

    @classmethod
    def decide_many(cls, forecasts: Forecasts, weights: FloatArray, params: Sequence[Any]) -> FloatArray:
        """As `decide`, for many parameters."""
        returns, tails = forecasts.returns(), column(params, "tail")
        low, high = np.empty((2, len(returns), len(params)))
        for tail in np.unique(tails):
            same = tails == tail
            low[:, same], high[:, same] = np.quantile(returns, [tail, 1 - tail], axis=1)[:, :, None]
        enter, leave = column(params, "entry_ratio"), column(params, "exit_ratio")
        least = column(params, "min_reward_bps")

        def conditions(reward: FloatArray, risk: FloatArray) -> tuple[Any, Any]:
            return (reward * IN_BPS > least) & (reward >= enter * risk), reward > leave * risk

        return hold_between(weights, params, conditions(high, -low), conditions(-low, high))

    def _long(self, reward: float, risk: float, held: bool) -> bool:
        # Products instead of a quotient, so that a risk of zero or less needs no special case.
        if held and reward > self.params.exit_ratio * risk:
            return True
        return reward * IN_BPS > self.params.min_reward_bps and reward >= self.params.entry_ratio * risk
