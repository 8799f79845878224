"""Tests over all configurations ever tried on the same candles: SPA, StepM and the probability of overfitting.

The Sharpe ratios in the trial ledger suffice for a deflated Sharpe ratio. Tests of whether any configuration beats a
benchmark need the dependence between configurations, so the returns of each trial are stored as well, one file each.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from btcbt.config import BUY_AND_HOLD
from btcbt.errors import StoreError
from btcbt.files import write_whole
from btcbt.metrics.comparison import backtest_overfitting, superior_predictive_ability
from btcbt.metrics.returns import equity_returns
from btcbt.metrics.sharpe import sharpe_ratio
from btcbt.portfolio import Simulation
from btcbt.records import FloatArray
from btcbt.storage.ledger import Trial

log = logging.getLogger(__name__)


def keep_returns(folder: Path, trials: Sequence[Trial], simulation: Simulation) -> None:
    """Store the net returns per candle of trials, which are accounts of a simulation of the same name.

    Valid files are kept; damaged ones are replaced.

    Raises
    ------
    StoreError
        If a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for trial in trials:
            file = _file(folder, trial)
            if _read(file, trial) is None:
                content = io.BytesIO()
                np.save(content, _returns(simulation, trial.name), allow_pickle=False)
                write_whole(file, content.getbuffer())
    except OSError as error:
        raise StoreError(f"{folder}: returns cannot be stored ({error.strerror}); make room and run again") from None


def kept_returns(folder: Path, trials: Sequence[Trial], stretch: str) -> FloatArray:
    """Net returns (N, K) per candle of the trials on one range of candles, in the order of their digests.

    Trials on other ranges are left out even if they overlap, since rows would not align. Trials whose file is missing
    or does not have the Sharpe ratio of the ledger are left out with a warning.
    """
    columns, lost = [], 0
    on = sorted((trial for trial in trials if trial.stretch == stretch), key=lambda trial: trial.id)
    for trial in on:
        returns = _read(_file(folder, trial), trial)
        if returns is None:
            lost += 1
        else:
            columns.append(returns)
    if lost:
        log.warning("%s: the returns of %d of %d trials are missing or damaged and left out", folder, lost, len(on))
    return np.column_stack(columns) if columns else np.empty((0, 0))


def selection_numbers(simulation: Simulation, horizon: int, returns: FloatArray) -> dict[str, float]:
    """Tests over every configuration tried on the candles of a simulation.

    Parameters
    ----------
    simulation : Simulation
        Has the account `BUY_AND_HOLD`.
    horizon : int
        Forecast horizon in candles; no bootstrap block is shorter.
    returns : float64 (N, K)
        Net returns per candle of every configuration tried; see `kept_returns`.

    Returns
    -------
    dict of str to float
        ``selection.configurations`` (K); for the benchmarks ``flat`` and ``buy_and_hold``
        ``selection.<benchmark>.p_value`` (SPA: none beats it, one-sided) and ``.superior`` (how many do by StepM at
        5 %); ``selection.overfitting.probability``, ``.p_value`` and ``.loss_probability`` (see
        `btcbt.metrics.comparison`), where there are at least two.
    """
    numbers = {"selection.configurations": float(returns.shape[1])}
    if returns.shape[1] == 0:
        return numbers
    for name, benchmark in (("flat", None), (BUY_AND_HOLD, _returns(simulation, BUY_AND_HOLD))):
        test = superior_predictive_ability(returns, benchmark, horizon=horizon)
        numbers[f"selection.{name}.p_value"] = test.p_value
        numbers[f"selection.{name}.superior"] = float(len(test.superior))
    if returns.shape[1] > 1:
        chosen = backtest_overfitting(returns)
        numbers["selection.overfitting.probability"] = chosen.probability
        numbers["selection.overfitting.p_value"] = chosen.p_value
        numbers["selection.overfitting.loss_probability"] = chosen.loss_probability
    return numbers


def _returns(simulation: Simulation, name: str) -> FloatArray:
    return equity_returns(simulation.equity[:, simulation.names.index(name)], simulation.initial_cash)


def _file(folder: Path, trial: Trial) -> Path:
    return folder / f"{trial.id}.npy"


def _read(file: Path, trial: Trial) -> FloatArray | None:
    try:
        returns = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if returns.dtype != np.float64 or returns.shape != (trial.n,):
        return None
    same = np.isclose(sharpe_ratio(returns), trial.sharpe, rtol=1e-9, atol=0.0, equal_nan=True)
    return returns if same else None
