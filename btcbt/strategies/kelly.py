"""Hold the growth-optimal (Kelly) weight, or a fraction of it."""

import numpy as np
from pydantic import Field

from btcbt.records import FloatArray, Forecast, Holding
from btcbt.strategies.base import Params, Strategy

HALVINGS = 40
"""Bisection steps: the weight is exact to about 1e-12."""
LEAST_CHANGE = 1e-4
"""Smaller changes of weight are rounding, and send no order."""


class KellyParams(Params):
    """Weights are fractions of equity."""

    fraction: float = Field(0.5, ge=0.01, le=1, description="Share of the growth-optimal weight to hold")
    cost_bps: float = Field(12.0, ge=0, description="Cost of one trade, basis points of the value traded")
    max_weight: float = Field(1.0, gt=0, le=1, description="Largest weight, fraction of equity")
    allow_short: bool = Field(False, description="Whether to go short")


class Kelly(Strategy):
    """Maximise the expected log growth over the paths, net of costs, and hold a fraction of that weight.

    The criterion is Kelly's (1956, "A new interpretation of information rate", Bell System Technical
    Journal 35). A forecast that errs in the mean makes full Kelly overbet, so a fraction is held (MacLean,
    Ziemba and Blazenko, 1992, "Growth versus security in dynamic investment analysis", Management Science
    38). Additions to a position pay the cost of a round trip; what is kept costs nothing. This gives a region
    in which the holding is left unchanged.
    """

    Params = KellyParams
    params: KellyParams

    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return a weight in [-max_weight, max_weight], or the one held."""
        limit = self.params.max_weight / self.params.fraction
        held = holding.weight / self.params.fraction
        weight = growth_optimal_weight(
            forecast.returns(),
            lowest=-limit if self.params.allow_short else 0.0,
            highest=limit,
            held=held,
            cost=2e-4 * self.params.cost_bps,
        )
        target = float(np.clip(self.params.fraction * weight, -self.params.max_weight, self.params.max_weight))
        return holding.weight if 0 < abs(target - holding.weight) < LEAST_CHANGE else target


def growth_optimal_weight(
    returns: FloatArray, *, lowest: float, highest: float, held: float = 0.0, cost: float = 0.0
) -> float:
    """Maximise ``mean(log(1 + w r - cost added(w)))`` over w in [lowest, highest].

    ``added(w)`` is the part of `w` that goes beyond the weight held, away from zero. The function is
    concave, with kinks at 0 and at the weight held, so the best weight is a kink, a bound, or the zero of
    the slope between two of them, found by bisection. A weight at which some path loses everything has a
    growth of minus infinity.

    Parameters
    ----------
    returns : float64 (S,)
        Simple returns of the paths.
    lowest, highest : float
        Bounds, ``lowest <= 0 <= highest``.
    held : float
        Current weight.
    cost : float
        Cost of adding one unit of weight, fraction of equity.
    """
    held = min(max(held, lowest), highest)
    long, short = max(held, 0.0), min(held, 0.0)

    def slope(weight: float, side: int) -> float:
        """Derivative of growth just above (side 1) or just below (side -1) a weight."""
        wealth = 1 + weight * returns - cost * (max(weight - long, 0.0) + max(short - weight, 0.0))
        if wealth.min() <= 0:
            return -weight
        adds = (weight, side) >= (long, 1)
        cuts = (weight, side) <= (short, -1)
        return float(((returns - cost * (adds - cuts)) / wealth).mean())

    # The current weight comes first, so that ties send no order.
    for kink in (held, 0.0, lowest, highest):
        falls_above = kink == highest or slope(kink, 1) <= 0
        if falls_above and (kink == lowest or slope(kink, -1) >= 0):
            return kink
    kinks = sorted({lowest, short, long, highest})
    low = max(kink for kink in kinks[:-1] if slope(kink, 1) > 0)
    high = min(kink for kink in kinks if kink > low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle, 1) > 0 else (low, middle)
    return low
