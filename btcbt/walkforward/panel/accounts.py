"""Accounts on a panel: an equal-weight book of each single-symbol account, and those of strategies on panels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from btcbt.config import BUY_AND_HOLD, PanelConfig
from btcbt.loading import source_sha256
from btcbt.metrics.returns import total_and_sharpe
from btcbt.metrics.score import ACCOUNT, POOLED, Row
from btcbt.portfolio import Fills, Simulation, closing_times, simulate_book, simulate_book_variants
from btcbt.progress import Progress
from btcbt.records import CHANNELS, CLOSE, Candles, FloatArray, IntArray
from btcbt.storage.runs import Run, score_table
from btcbt.walkforward.accounts import account_trials, score_accounts
from btcbt.walkforward.panel.decisions import decide_panel
from btcbt.walkforward.panel.scores import PANEL, milliseconds
from btcbt.walkforward.panel.traders import PanelTrader
from btcbt.walkforward.scoring import Scores
from btcbt.walkforward.selection import selection_numbers
from btcbt.walkforward.sensitivity import COSTS_BPS, DELAYS
from btcbt.walkforward.trials import count_trials
from btcbt.windows import Windows


@dataclass(frozen=True, slots=True, eq=False)
class Books:
    """What every account of a panel decided.

    Attributes
    ----------
    origins : int64 (M,)
        Every moment at which some account decides, ms UTC.
    names : tuple of str (A,)
    targets : float64 (M, A, K)
        Weights by account and symbol; NaN where there is no decision.
    made_by : mapping
        By account, what identifies it in the ledger of trials, as JSON values.
    """

    origins: IntArray
    names: tuple[str, ...]
    targets: FloatArray
    made_by: Mapping[str, Mapping[str, object]]


def decide_books(
    config: PanelConfig,
    runs: Mapping[str, Run],
    candles: Mapping[str, Candles],
    traders: Sequence[PanelTrader],
    progress: Progress,
) -> Books:
    """Decisions of every account of a panel.

    Parameters
    ----------
    config : PanelConfig
        The experiment.
    runs : mapping
        The finished run of each symbol.
    candles : mapping
        Their histories.
    traders : sequence of PanelTrader
    progress : Progress
        Receives the progress.
    """
    parts: dict[str, tuple[IntArray, FloatArray]] = _of_single_accounts(runs)
    made_by: dict[str, Mapping[str, object]] = {name: _book_content(runs, name) for name in parts}
    windows = {symbol: windows_of(run, candles[symbol]) for symbol, run in runs.items()}
    with progress.stage("decide on the panel", len(traders), unit="accounts") as advance:
        for trader in traders:
            stored = None
            if trader.forecaster is not None:
                stored = {symbol: run.forecasts(trader.forecaster) for symbol, run in runs.items()}
            closed = _closed(windows) if config.portfolio.on_gap == "flat" else {}
            parts[trader.name] = decide_panel(trader, windows, stored, closed, config.portfolio)
            made_by[trader.name] = _panel_content(runs, trader)
            advance(1)
    origins = np.unique(np.concatenate([times for times, _ in parts.values()]))
    targets = np.full((len(origins), len(parts), len(runs)), np.nan)
    for a, (times, weights) in enumerate(parts.values()):
        targets[np.searchsorted(origins, times), a] = weights
    if BUY_AND_HOLD not in parts:
        raise ValueError("the runs have no account that buys and holds")
    return Books(origins, tuple(parts), targets, made_by)


def score_books(
    config: PanelConfig, books: Books, candles: Mapping[str, Candles], progress: Progress
) -> tuple[Simulation, Scores]:
    """Simulate every account of a panel with shared cash, record it as a trial, and score it.

    Returns
    -------
    Simulation
    Scores
        As `btcbt.walkforward.accounts.score_accounts`, with the tests over all trials and the sensitivity to costs and
        delay.
    """
    single = config.portfolio
    market = index_candles(candles)
    with progress.stage("simulate the panel", len(books.names), unit="accounts") as advance:
        simulation = simulate_book(candles, books.origins, books.targets, books.names, single)
        advance(len(books.names))
    contents = {
        name: {
            **made_by,
            "portfolio": single.model_dump(mode="json"),
            "windows": {"context": config.windows.context, "stride": config.windows.stride},
            "decisions": hashlib.sha256(books.origins.tobytes() + books.targets[:, a].tobytes()).hexdigest(),
        }
        for a, (name, made_by) in enumerate(books.made_by.items())
    }
    ours = account_trials(simulation, market, config.name, contents)
    tried, returns = count_trials(config.store.ledger_folders, ours, simulation, market)
    accounts = score_accounts(simulation, config.windows.horizon, tried, PANEL)
    numbers = dict(accounts.headline) | selection_numbers(simulation, config.windows.horizon, returns)
    changed = _sensitivity(config, books, candles, simulation)
    return simulation, Scores(numbers, (*accounts.tables, *changed))


def windows_of(run: Run, candles: Candles) -> Windows:
    """The windows of a finished run, on its history."""
    frame = run.origins()
    origins = milliseconds(frame.index)
    return Windows(
        candles=candles,
        context=run.config.windows.context,
        horizon=run.config.windows.horizon,
        origins=origins,
        last=np.searchsorted(candles.open_time, origins - candles.interval_ms),
        scored=frame["scored"].to_numpy(dtype=np.bool_),
        skipped={},
    )


def index_candles(candles: Mapping[str, Candles]) -> Candles:
    """The geometric mean of the symbols' closes on every candle of any, by which trials on the same panel are found."""
    observed = [one.observed for one in candles.values()]
    clock = np.unique(np.concatenate([one.open_time for one in observed]))
    logs = np.full((len(clock), len(observed)), np.nan)
    for k, one in enumerate(observed):
        at = np.searchsorted(one.open_time, clock, side="right") - 1
        logs[at >= 0, k] = np.log(one.values[at[at >= 0], CLOSE])
    close = np.exp(np.nanmean(logs, axis=1))
    values = np.repeat(close[:, None], len(CHANNELS), axis=1)
    digest = hashlib.sha256(clock.tobytes() + values.tobytes()).hexdigest()
    return Candles(clock, values, observed[0].interval_ms, "panel", digest)


def _of_single_accounts(runs: Mapping[str, Run]) -> dict[str, tuple[IntArray, FloatArray]]:
    """Equal-weight books of the accounts of single symbols: origins, and weights (M, K)."""
    frames = {symbol: run.targets() for symbol, run in runs.items()}
    for frame in frames.values():
        if BUY_AND_HOLD not in frame:
            frame[BUY_AND_HOLD] = 1.0
    names = list(dict.fromkeys(str(name) for frame in frames.values() for name in frame))
    origins = np.unique(np.concatenate([milliseconds(frame.index) for frame in frames.values()]))
    found = {}
    for name in names:
        targets = np.full((len(origins), len(runs)), np.nan)
        for k, frame in enumerate(frames.values()):
            targets[np.searchsorted(origins, milliseconds(frame.index)), k] = frame[name].to_numpy(dtype=np.float64)
        found[name] = origins, equal_weights(targets)
    return found


def equal_weights(targets: FloatArray) -> FloatArray:
    """Targets of a strategy on each symbol as those of one book: divided by the number of symbols listed then.

    Parameters
    ----------
    targets : float64 (M, K)
        Its target on each symbol, in time order; NaN where it has no decision.

    Returns
    -------
    float64 (M, K)
        A symbol is listed from its first decision to its last, so that a gap in one does not trade the others.
    """
    decided = np.isfinite(targets)
    begun = np.maximum.accumulate(decided, axis=0)
    to_come = np.maximum.accumulate(decided[::-1], axis=0)[::-1]
    listed = (begun & to_come).sum(axis=1, keepdims=True)
    return np.asarray(targets / np.maximum(listed, 1))


def _closed(windows: Mapping[str, Windows]) -> dict[str, dict[int, int]]:
    """When positions were closed before an origin for want of a decision, by symbol and origin, ms UTC."""
    together = np.unique(np.concatenate([one.origins for one in windows.values()]))
    found = {}
    for symbol, one in windows.items():
        times = closing_times(one.candles, together, one.origins)
        found[symbol] = {int(o): int(t) for o, t in zip(one.origins, times, strict=True) if t}
    return found


def _book_content(runs: Mapping[str, Run], name: str) -> dict[str, object]:
    entries = [run.manifest["strategies"].get(name, {"use": BUY_AND_HOLD, "params": {}}) for run in runs.values()]
    first = entries[0]
    return {
        "strategy": f"book of {first['use']}",
        "params": first["params"],
        "source_sha256": first.get("source_sha256", ""),
        "forecasts": _keys(runs, first.get("forecaster")),
    }


def _panel_content(runs: Mapping[str, Run], trader: PanelTrader) -> dict[str, object]:
    return {
        "strategy": trader.use,
        "params": trader.strategy.params.model_dump(mode="json"),
        "source_sha256": source_sha256(type(trader.strategy)),
        "forecasts": _keys(runs, trader.forecaster),
    }


def _keys(runs: Mapping[str, Run], forecaster: str | None) -> dict[str, Any]:
    keys = {symbol: run.manifest["forecasters"].get(forecaster, {}).get("key") for symbol, run in runs.items()}
    return {symbol: None if forecaster is None else key for symbol, key in keys.items()}


def _sensitivity(config: PanelConfig, books: Books, candles: Mapping[str, Candles], real: Simulation) -> list[Any]:
    variants = {f"cost_bps={bps:g}": Fills(bps, 0.0) for bps in COSTS_BPS}
    fee, slippage = config.portfolio.fee_bps, config.portfolio.slippage_bps
    variants |= {f"delay={late}": Fills(fee, slippage, late) for late in DELAYS}
    equity = simulate_book_variants(candles, books.origins, books.targets, list(variants.values()), config.portfolio)
    tables = []
    for a, name in enumerate(books.names):
        rows = [
            Row(ACCOUNT, POOLED, group, metric, value)
            for v, group in enumerate(variants)
            for metric, value in total_and_sharpe(equity[v, :, a], real.initial_cash, real.interval_ms).items()
        ]
        tables.append(score_table(name, PANEL, rows))
    return tables
