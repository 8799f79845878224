"""Worked example: several rules vote at several steps of one forecast; the position is the average vote.

Copy this file, change it, and name it in an experiment::

    strategies:
      ensemble: {use: "strategies/ensemble.py:Ensemble", params: {steps: [6, 12, 24], rules: [mean, probability]}}

A strategy sees the forecast of one forecaster, so the votes are those of several rules on that forecast. Named in an
experiment with several forecasters, it gets one account on each of them.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from btcbt.errors import StrategyError
from btcbt.records import FloatArray, Forecast, Holding
from btcbt.strategies.base import Params, Strategy


class EnsembleParams(Params):
    """Which rules vote, on the returns to which forecast steps."""

    rules: list[Literal["mean", "probability", "tails"]] = Field(
        default=["mean", "probability", "tails"], min_length=1, description="Rules that vote"
    )
    steps: list[int] = Field(
        default=[-1], min_length=1, description="Forecast steps to vote on: 1 is the next candle, -1 the last step"
    )
    cost_bps: float = Field(24.0, ge=0, description="Mean return below which the rule 'mean' abstains, basis points")
    margin: float = Field(0.1, ge=0, lt=0.5, description="Distance from 1/2 below which 'probability' abstains")
    tail: float = Field(0.1, gt=0, lt=0.5, description="Probability beyond each quantile that 'tails' compares")
    band: float = Field(0.2, ge=0, le=2, description="Smallest change of weight that sends an order")
    allow_short: bool = Field(False, description="Whether to go short when most votes are for a fall")

    @model_validator(mode="after")
    def _steps_exist(self) -> Self:
        wrong = [step for step in self.steps if step == 0 or step < -1]
        if wrong:
            raise ValueError(f"steps {wrong} do not exist; count from 1, or write -1 for the last step")
        return self


class Ensemble(Strategy):
    """Hold the average of the votes: +1 for a rise, -1 for a fall, 0 to abstain.

    Averaging signals is the simplest forecast combination and hard to beat (Timmermann, 2006, "Forecast
    combinations", Handbook of Economic Forecasting 1). An average vote also trades in parts: a position is built and
    left in steps instead of at once.
    """

    Params = EnsembleParams
    params: EnsembleParams

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return the average vote, in [0, 1] or, where shorts are allowed, in [-1, 1]."""
        horizon = forecast.paths.shape[1]
        if max(self.params.steps) > horizon:
            raise StrategyError(f"steps {self.params.steps} exceed the horizon of {horizon}; lower them or raise it")
        steps = [step - 1 if step > 0 else step for step in self.params.steps]
        votes = [self._vote(rule, forecast.returns(step)) for rule in self.params.rules for step in steps]
        weight = float(np.mean(votes))
        if not self.params.allow_short:
            weight = max(weight, 0.0)
        # An exit is never skipped.
        if weight != 0.0 and abs(weight - holding.weight) < self.params.band:
            return holding.weight
        return weight

    def _vote(self, rule: str, returns: FloatArray) -> float:
        if rule == "mean":
            expected = float(returns.mean()) * 1e4
            return float(np.sign(expected)) if abs(expected) > self.params.cost_bps else 0.0
        if rule == "probability":
            excess = float(np.sign(returns).mean()) / 2  # the share of rising paths, less 1/2
            return float(np.sign(excess)) if abs(excess) > self.params.margin else 0.0
        low, high = np.quantile(returns, [self.params.tail, 1 - self.params.tail])
        return float(np.sign(high + low))
