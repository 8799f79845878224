"""Worked example: a strategy that remembers, an exponential average of its own signals.

Copy this file, change it, and name it in an experiment::

    strategies:
      smoothed: {use: "strategies/stateful.py:Smoothed", params: {half_life: 12.0}}

A strategy may keep state if that state depends only on the origins of the current walk-forward. One object can run
several times (in audits and placebo runs), so it must reset its state at the start: at the first decision, and only
there, ``holding.candles_held`` is 0. Without the reset the average would keep values of an earlier run, and ``btcbt
audit`` would report it at the stage `strategy`.
"""

from pydantic import BaseModel, Field

from btcbt.records import Forecast, Holding
from btcbt.strategies.base import Params, Strategy


class SmoothedParams(Params):
    """The signal is the expected return over the horizon, averaged over past origins."""

    half_life: float = Field(12.0, gt=0, description="Candles after which a signal counts half")
    entry_bps: float = Field(30.0, ge=0, description="Average from which to enter, basis points")
    exit_bps: float = Field(0.0, description="Average at or below which to leave, basis points")


class Smoothed(Strategy):
    """Be long while the exponential average of the expected return is high.

    Forecasts of neighbouring hours share most of their horizon, and sampling adds noise to each; an average over
    hours trades less often on that noise. It decays with time, so a gap in the origins counts for its length.
    """

    Params = SmoothedParams
    params: SmoothedParams

    def __init__(self, params: BaseModel | None = None) -> None:
        super().__init__(params)
        self._average = 0.0
        self._origin = 0

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return 0 or 1."""
        signal = float(forecast.returns().mean()) * 1e4
        if holding.candles_held == 0:  # the first decision
            self._average = signal
        else:
            elapsed = (forecast.origin - self._origin) / forecast.window.interval_ms
            kept = 0.5 ** (elapsed / self.params.half_life)
            self._average = kept * self._average + (1 - kept) * signal
        self._origin = forecast.origin
        if holding.weight > 0:
            return 1.0 if self._average > self.params.exit_bps else 0.0
        return 1.0 if self._average >= self.params.entry_bps else 0.0
