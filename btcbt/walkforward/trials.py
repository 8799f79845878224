"""Record the configurations of a run in the ledger of trials, and read all that were tried on the same candles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from btcbt.config import LEDGER_FILE, STORE_FOLDER, PortfolioConfig, RunConfig
from btcbt.loading import source_sha256
from btcbt.portfolio import Simulation
from btcbt.records import Candles, FloatArray
from btcbt.storage.ledger import Ledger, Trial
from btcbt.strategies import Strategy
from btcbt.walkforward.accounts import account_trials
from btcbt.walkforward.members import Member
from btcbt.walkforward.traders import Trader
from btcbt.walkforward.trial_returns import (
    aligned_returns,
    distinct_trials,
    hours_between,
    keep_returns,
    kept_hours,
)
from btcbt.windows import Windows

RETURNS_FOLDER = "trials"


def record_trials(
    config: RunConfig,
    windows: Windows,
    traders: Sequence[Trader],
    members: Mapping[str, Member],
    targets: FloatArray,
    simulation: Simulation,
) -> tuple[list[Trial], FloatArray]:
    """Add the configurations of a run to the ledger.

    Origins and decisions are part of a configuration, since origins depend on the longest context of all forecasters.

    Returns
    -------
    list of Trial
        All configurations ever tried on these hours of this market, those of this run among them, each once.
    float64 (N, K)
        Net returns of those whose returns are known on each candle of this run; NaN where one did not trade. In the
        order of digests, which no run changes.
    """
    contents = dict(_contents(config, windows, traders, members, targets))
    ours = account_trials(simulation, windows.candles, config.name, contents)
    return count_trials(config.store.ledger_folders, ours, simulation, windows.candles)


def count_trials(
    folders: Sequence[Path], ours: Sequence[Trial], simulation: Simulation, candles: Candles
) -> tuple[list[Trial], FloatArray]:
    """Add trials, which share a period, to ledgers, and find all that were ever made on these hours.

    Parameters
    ----------
    folders : sequence of Path
        Folders of ledgers: all are written to, and all are read.
    ours : sequence of Trial
        Accounts of the simulation.
    simulation : Simulation
    candles : Candles
        What it traded on.

    Returns
    -------
    tuple
        As `record_trials`.
    """
    ledger = Ledger(*(folder / LEDGER_FILE for folder in folders))
    returns = [returns_folder(folder) for folder in folders]
    for folder in returns:
        keep_returns(folder, ours, simulation, candles)
    ledger.record(ours)
    tried = related_trials(ledger, returns, ours, candles)
    table = aligned_returns(returns, tried, candles, ours[0].start, ours[0].end)
    distinct = distinct_trials(tried, table, ours)
    table = table[:, distinct]
    return [tried[k] for k in distinct], table[:, np.isfinite(table).any(axis=0)]


def related_trials(ledger: Ledger, folders: Sequence[Path], ours: Sequence[Trial], candles: Candles) -> list[Trial]:
    """Every trial that overlaps in time with those of a run and traded the same market, in the order of their digests.

    Parameters
    ----------
    ledger : Ledger
    folders : sequence of Path
        Where returns are kept.
    ours : sequence of Trial
        Trials of the run, which share a period.
    candles : Candles
        What it traded on.
    """
    mine = hours_between(candles, ours[0].start, ours[0].end)
    known: dict[str, bool] = {}

    def same_market(trial: Trial) -> bool:
        if trial.stretch not in known:
            theirs = kept_hours(folders, trial, candles)
            known[trial.stretch] = theirs is not None and mine.same_market(theirs)
        return known[trial.stretch]

    return sorted(ledger.related(ours, same_market), key=lambda trial: trial.id)


def returns_folder(root: Path) -> Path:
    """Where the returns of the trials of a ledger are kept, by the folder of the ledger."""
    return root / STORE_FOLDER / RETURNS_FOLDER


def _contents(
    config: RunConfig,
    windows: Windows,
    traders: Sequence[Trader],
    members: Mapping[str, Member],
    targets: FloatArray,
) -> Iterable[tuple[str, Mapping[str, object]]]:
    for trader, column in zip(traders, targets.T, strict=True):
        key = None if trader.forecaster is None else members[trader.forecaster].key
        stride, portfolio = config.windows.stride, config.portfolio
        yield trader.name, trial_content(trader.strategy, trader.use, key, windows, stride, portfolio, column)


def trial_content(
    strategy: Strategy,
    use: str,
    key: str | None,
    windows: Windows,
    stride: int,
    portfolio: PortfolioConfig,
    targets: FloatArray,
) -> Mapping[str, object]:
    """Everything besides the candles that identifies a configuration, as JSON values.

    Parameters
    ----------
    strategy, use
        The strategy, and its class as named in an experiment.
    key : str or None
        Of the forecasts that it trades on.
    windows : Windows
        M origins.
    stride : int
    portfolio : PortfolioConfig
    targets : float64 (M,)
        Its decisions.
    """
    return {
        "strategy": use,
        "params": strategy.params.model_dump(mode="json"),
        "source_sha256": source_sha256(type(strategy)),
        "forecasts": key,
        "windows": {"context": windows.context, "stride": stride},
        "portfolio": portfolio.model_dump(mode="json"),
        "decisions": hashlib.sha256(windows.origins.tobytes() + targets.tobytes()).hexdigest(),
    }
