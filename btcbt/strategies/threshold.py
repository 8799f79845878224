"""Trade when the expected return exceeds the cost of trading."""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from btcbt.records import IN_BPS, FloatArray, Forecast, Forecasts, Holding
from btcbt.strategies.base import Params, Strategy
from btcbt.strategies.thresholds import column, hold_between


class ThresholdParams(Params):
    """Returns are simple returns from the last close to the close of the last forecast step."""

    entry_bps: float = Field(30.0, ge=0, description="Expected return from which to enter, basis points")
    exit_bps: float = Field(0.0, description="Expected return at or below which to exit, basis points")
    size: float = Field(1.0, gt=0, le=1, description="Weight of a position, fraction of equity")
    allow_short: bool = Field(False, description="Whether to mirror the rule for falls")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.exit_bps >= self.entry_bps:
            raise ValueError(f"exit_bps {self.exit_bps:g} is not below entry_bps {self.entry_bps:g}; lower it")
        return self


class Threshold(Strategy):
    """Enter on a large expected return, exit when it has fallen.

    With proportional costs the optimal policy has a no-trade region: a position is opened
    only for a return above the cost of the round trip, and then kept for less than that (Constantinides,
    1986, "Capital market equilibrium with transaction costs", Journal of Political Economy 94; Davis and
    Norman, 1990, "Portfolio selection with transaction costs", Mathematics of Operations Research 15). Here
    the region lies between two thresholds on the mean return over the paths. The default entry exceeds the
    24 basis points that a round trip costs at a fee of 10 and a slippage of 2.
    """

    Params = ThresholdParams
    params: ThresholdParams

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return `size`, 0 or, where allowed, minus `size`."""
        expected = float(forecast.returns().mean()) * IN_BPS
        if self._long(expected, holding.weight > 0):
            return self.params.size
        if self.params.allow_short and self._long(-expected, holding.weight < 0):
            return -self.params.size
        return 0.0

    @classmethod
    def decide_many(cls, forecasts: Forecasts, weights: FloatArray, params: Sequence[Any]) -> FloatArray:
        """As `decide`, for many parameters."""
        expected = forecasts.returns().mean(axis=1)[:, None] * IN_BPS
        enter, leave = column(params, "entry_bps"), column(params, "exit_bps")
        return hold_between(
            weights, params, (expected >= enter, expected > leave), (-expected >= enter, -expected > leave)
        )

    def _long(self, expected: float, held: bool) -> bool:
        return expected >= self.params.entry_bps or (held and expected > self.params.exit_bps)
