"""Tests over all configurations ever tried on the same candles: SPA, StepM and the probability of overfitting."""

from __future__ import annotations

import numpy as np

from btcbt.config import BUY_AND_HOLD
from btcbt.metrics.comparison import backtest_overfitting, held_where_missing, superior_predictive_ability
from btcbt.portfolio import Simulation
from btcbt.records import FloatArray
from btcbt.walkforward.trial_returns import account_returns

_COVERED = 0.5
"""Share of the hours that a trial must have returns in to be ranked in halves of them."""


def selection_numbers(simulation: Simulation, horizon: int, returns: FloatArray) -> dict[str, float]:
    """Tests over every configuration tried on the candles of a simulation.

    Configurations that never traded are no rivals. In the tests against a benchmark a configuration without a return
    in some hour is taken to hold the benchmark then, which neither raises nor lowers its t-statistic. The probability
    of overfitting is that of the hours in common to all configurations with returns in at least half of the hours; buy
    and hold is left out, too, as nobody has to choose it by its record.

    Parameters
    ----------
    simulation : Simulation
        Has the account `BUY_AND_HOLD`.
    horizon : int
        Forecast horizon in candles; no bootstrap block is shorter.
    returns : float64 (N, K)
        Net returns per candle of every configuration tried, NaN where one has none; see
        `btcbt.walkforward.trial_returns.aligned_returns`.

    Returns
    -------
    dict of str to float
        ``selection.configurations`` (K); for the benchmarks ``flat`` and ``buy_and_hold``
        ``selection.<benchmark>.p_value`` (SPA: none beats it, one-sided) and ``.superior`` (how many do by StepM at
        5 %), where any traded; ``selection.overfitting.probability``, ``.p_value`` and ``.loss_probability`` (see
        `btcbt.metrics.comparison`), where there are at least two to choose from.
    """
    numbers = {"selection.configurations": float(returns.shape[1])}
    rivals = returns[:, (np.nan_to_num(returns) != 0.0).any(axis=0)]
    if rivals.shape[1] == 0:
        return numbers
    held = account_returns(simulation, BUY_AND_HOLD)
    for name, benchmark in (("flat", np.zeros(len(held))), (BUY_AND_HOLD, held)):
        test = superior_predictive_ability(held_where_missing(rivals, benchmark), benchmark, horizon=horizon)
        numbers[f"selection.{name}.p_value"] = test.p_value
        numbers[f"selection.{name}.superior"] = float(len(test.superior))
    choices = rivals[:, np.isfinite(rivals).mean(axis=0) >= _COVERED]
    holds = np.isclose(choices, held[:, None], rtol=1e-9, atol=1e-12) | np.isnan(choices)
    choices = choices[:, ~holds.all(axis=0)]
    if choices.shape[1] > 1:
        chosen = backtest_overfitting(choices)
        numbers["selection.overfitting.probability"] = chosen.probability
        numbers["selection.overfitting.p_value"] = chosen.p_value
        numbers["selection.overfitting.loss_probability"] = chosen.loss_probability
    return numbers
