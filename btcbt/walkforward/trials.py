"""Record the configurations of a run in the ledger of trials, and read all that were tried on the same candles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from btcbt.config import LEDGER_FILE, STORE_FOLDER, RunConfig
from btcbt.loading import source_sha256
from btcbt.portfolio import Simulation
from btcbt.records import FloatArray
from btcbt.storage.ledger import Ledger, Trial
from btcbt.walkforward.accounts import account_trials
from btcbt.walkforward.members import Member
from btcbt.walkforward.selection import keep_returns, kept_returns
from btcbt.walkforward.traders import Trader
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
        All trials ever recorded on these candles, including those of this run.
    float64 (N, K)
        The net returns per candle of those on the same range of candles; see `kept_returns`.
    """
    contents = dict(_contents(config, windows, traders, members, targets))
    ledger, returns = Ledger(config.store.folder / LEDGER_FILE), returns_folder(config)
    ours = account_trials(simulation, windows.candles, config.name, contents)
    keep_returns(returns, ours, simulation)
    ledger.record(ours)
    tried = ledger.related(ours)
    return tried, kept_returns(returns, tried, ours[0].stretch)


def returns_folder(config: RunConfig) -> Path:
    """The folder with the returns of trials."""
    return config.store.folder / STORE_FOLDER / RETURNS_FOLDER


def _contents(
    config: RunConfig,
    windows: Windows,
    traders: Sequence[Trader],
    members: Mapping[str, Member],
    targets: FloatArray,
) -> Iterable[tuple[str, Mapping[str, object]]]:
    origins = windows.origins.tobytes()
    for trader, column in zip(traders, targets.T, strict=True):
        yield (
            trader.name,
            {
                "strategy": trader.use,
                "params": trader.strategy.params.model_dump(mode="json"),
                "source_sha256": source_sha256(type(trader.strategy)),
                "forecasts": None if trader.forecaster is None else members[trader.forecaster].key,
                "windows": {"context": windows.context, "stride": config.windows.stride},
                "portfolio": config.portfolio.model_dump(mode="json"),
                "decisions": hashlib.sha256(origins + column.tobytes()).hexdigest(),
            },
        )
