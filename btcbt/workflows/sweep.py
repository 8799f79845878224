"""Sweeps: many configurations of one experiment, their accounts, and what choosing among them is worth.

Forecasts are computed once for each different forecaster and kept in the store. The configurations are columns of few
vectorbt simulations. All of them are trials: they are recorded in the ledger and counted by the deflated Sharpe ratio,
the test for superior predictive ability and the probability of backtest overfitting, here and in every later run on
these hours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

from btcbt.config import BUY_AND_HOLD, ForecasterConfig, PortfolioConfig, RunConfig, interval_ms, time_text
from btcbt.config.changes import Assignment
from btcbt.config.sweep import SelectionConfig, SweepConfig, load_sweep, varied
from btcbt.errors import ConfigError
from btcbt.metrics.returns import drawdown, equity_returns
from btcbt.metrics.sharpe import bootstrap_interval, compound, deflated_sharpe, sharpe_ratio
from btcbt.portfolio import Simulation, simulate
from btcbt.progress import Progress
from btcbt.records import YEAR_MS, FloatArray, FundingRates, IntArray
from btcbt.report.sweep import draw_sweep
from btcbt.storage import runs
from btcbt.strategies import Strategy
from btcbt.strategies.loading import load_strategy
from btcbt.trees import canonical, tree_digest
from btcbt.walkforward.accounts import account_trials, comparable_sharpe
from btcbt.walkforward.decisions import asked_at, closed_before
from btcbt.walkforward.forecasted import Clock, forecasted, load
from btcbt.walkforward.manifest import DIGEST_LENGTH, run_digest
from btcbt.walkforward.many_decisions import Stream, decide_parameters
from btcbt.walkforward.members import Member
from btcbt.walkforward.provenance import code_version, git_commit, package_versions
from btcbt.walkforward.registration import until_now
from btcbt.walkforward.rehearsal import try_strategies
from btcbt.walkforward.selection import selection_numbers
from btcbt.walkforward.stages import Stages
from btcbt.walkforward.traders import Trader
from btcbt.walkforward.trials import count_trials, trial_content
from btcbt.windows import Windows, decision_windows

if TYPE_CHECKING:
    import pandas as pd

TABLE = "sweep.parquet"
CHOSEN = "chosen on the past"
ACCOUNTS_AT_ONCE = 1 << 22
"""Accounts x candles that are simulated together: each needs some 500 bytes."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One account of a sweep.

    Attributes
    ----------
    name : str
        ``strategy@forecaster``, numbered.
    strategy, use : str
        Name and class of the strategy.
    params : mapping
        Its parameters.
    forecaster : str or None
        The forecaster variant that it trades on.
    portfolio : PortfolioConfig
    assignment : mapping
        The values of the swept keys.
    built : Strategy
        The strategy with its parameters, to ask what it is; accounts decide by objects of their own.
    """

    name: str
    strategy: str
    use: str
    params: Mapping[str, Any]
    forecaster: str | None
    portfolio: PortfolioConfig
    assignment: Assignment
    built: Strategy


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """A finished sweep.

    Attributes
    ----------
    directory : Path
        Where its tables and figures lie.
    config : SweepConfig
    table : DataFrame
        One row a configuration: ``name``, ``strategy``, ``forecaster``, the swept keys, ``total_return``, ``sharpe``
        (annualised), ``max_drawdown``, ``turnover`` (a year), ``orders``, ``deflated_sharpe``.
    numbers : mapping of str to float
        ``selection.*`` as in a run; ``nested.sharpe``, ``nested.total_return``, with ``_low`` and ``_high`` of their
        95 % intervals, of the account that was chosen on the past; ``hindsight.*`` of the best one over its hours.
    manifest : mapping
    """

    directory: Path
    config: SweepConfig
    table: pd.DataFrame
    numbers: Mapping[str, float]
    manifest: Mapping[str, Any]


def run_sweep(path: str | Path, changes: Sequence[str] = (), *, progress: Progress | None = None) -> Sweep:
    """Run every configuration of a sweep.

    Parameters
    ----------
    path : path
        YAML file of the sweep (`btcbt.config.sweep.SweepConfig`).
    changes : sequence of str
        ``KEY=VALUE`` each, see `btcbt.config.changes.load_changed`: of the experiment.
    progress : Progress, optional

    Raises
    ------
    BtcbtError
        If the sweep, its experiment, its data or its code is invalid.
    """
    progress = progress or Progress()
    sweep, experiments = load_sweep(path, changes)
    merged, configurations = merge(path, sweep, experiments)
    stages, clock = Stages(), Clock()
    with clock("read candles"):
        candles = stages.history(merged.candles)
    merged = until_now(merged, candles)
    loaded, windows = load(merged, candles, stages, clock)
    funding = stages.with_funding(merged.portfolio, windows).funding
    workers = merged.executor.workers or int(joblib.cpu_count())
    decided = decision_windows(candles, merged.windows, int(windows.origins[0]))
    first = {one.strategy: one for one in reversed(configurations)}.values()
    tried_out = [Trader(one.name, one.built, one.use, one.params, one.forecaster) for one in first]
    try_strategies(merged, loaded, tried_out, windows, decided)
    with forecasted(merged, loaded, windows, stages, clock, progress) as members:
        targets = decide(configurations, windows, decided, members, workers, progress)
        accounts = _simulate(configurations, decided, targets, funding, progress)
        with progress.stage("count trials", len(configurations), unit="accounts") as advance:
            contents = _contents(merged, configurations, decided, members, targets, funding)
            ours = account_trials(accounts, windows.candles, sweep.name, contents)
            tried, returns = count_trials(merged.store.ledger_folders, ours, accounts, windows.candles)
            numbers = selection_numbers(accounts, windows.horizon, returns)
            advance(len(configurations))
        own = _returns(accounts)[:, :-1]
        chosen = choose(own, accounts.open_time, accounts.interval_ms, sweep.select)
        nested = _nested_account(configurations, decided, targets, accounts.open_time, chosen, funding)
        numbers |= _nested_numbers(own, nested, chosen, sweep.select, windows.horizon)
        sharpes = [comparable_sharpe(trial, len(own)) for trial in tried]
        table = _table(configurations, accounts, own, sharpes)
        digest = _digest(sweep, merged, windows, members, configurations, funding)
        target = merged.store.folder / sweep.name / digest
        with runs.new_directory(target) as folder:
            manifest = _manifest(sweep, merged, windows, members, chosen, configurations, clock)
            table.to_parquet(folder / TABLE, index=False)
            equity = {CHOSEN: nested.equity[:, 0], BUY_AND_HOLD: accounts.equity[:, -1]}
            runs.write_columns(folder / "equity.parquet", "open_time", accounts.open_time, equity)
            runs.write_json(folder / "metrics.json", numbers)
            runs.write_json(folder / "manifest.json", manifest)
            draw_sweep(table, list(sweep.over), sweep.name, folder)
        runs.point_latest(target)
        return Sweep(target, sweep, table, numbers, manifest)


def merge(
    where: str | Path, sweep: SweepConfig, experiments: Sequence[tuple[Assignment, RunConfig]]
) -> tuple[RunConfig, list[Configuration]]:
    """One experiment with every variant of a forecaster, and the accounts of a sweep, each once.

    Raises
    ------
    ConfigError
        If no strategy and forecaster take part together.
    """
    variants: dict[bytes, tuple[str, ForecasterConfig]] = {}  # by content
    found: dict[bytes, Configuration] = {}
    for assignment, config in experiments:
        taking_part = sweep.strategies or varied(sweep.over, "strategies", config.strategies) or config.strategies
        on = sweep.forecasters or varied(sweep.over, "forecasters", config.forecasters) or config.forecasters
        portfolio = config.portfolio.model_dump(mode="json")
        for name in taking_part:
            chosen = config.strategies[name]
            strategy = load_strategy(chosen.use, chosen.params)
            params = strategy.params.model_dump(mode="json")
            pairs = [one for one in on if chosen.forecasters is None or one in chosen.forecasters]
            for forecaster in pairs if strategy.uses_forecast else [None]:
                variant = None if forecaster is None else _variant(config, forecaster, variants)
                key = canonical([name, chosen.use, params, variant, portfolio])
                if key not in found:
                    label = f"{name}#{len(found)}" + ("" if variant is None else f"@{variant}")
                    found[key] = Configuration(
                        label, name, chosen.use, chosen.params, variant, config.portfolio, assignment, strategy
                    )
    if not found:
        raise ConfigError(f"{where}: no strategy trades on any of the forecasters; see 'strategies' and 'forecasters'")
    update = {
        "name": sweep.name,
        "forecasters": dict(variants.values()),
        "strategies": {},
        "opponent": None,
        "placebos": 0,
        "hypotheses": {},
    }
    return experiments[0][1].model_copy(update=update), list(found.values())


def _variant(config: RunConfig, name: str, variants: dict[bytes, tuple[str, ForecasterConfig]]) -> str:
    """The name of a forecaster as it is configured, in the merged experiment; its base is added before it."""
    one = config.forecasters[name]
    if one.based_on is not None:
        one = one.model_copy(update={"base": _variant(config, one.based_on, variants)})
    key = canonical([name, one.model_dump(mode="json")])
    if key not in variants:
        taken = {label for label, _ in variants.values()}
        free = (f"{name}-{i}" for i in itertools.count(2))
        variants[key] = name if name not in taken else next(label for label in free if label not in taken), one
    return variants[key][0]


def decide(
    configurations: Sequence[Configuration],
    windows: Windows,
    decided: Windows,
    members: Mapping[str, Member],
    workers: int,
    progress: Progress,
) -> FloatArray:
    """Decisions (M, K) of every configuration, as `btcbt.walkforward.decisions.decide_targets`."""
    targets = np.full((len(decided), len(configurations)), np.nan)
    groups: dict[tuple[str, str | None, int | None], dict[bytes, list[int]]] = {}
    for column, one in enumerate(configurations):
        same = groups.setdefault((one.use, one.forecaster, one.built.context), {})
        same.setdefault(canonical(dict(one.params)), []).append(column)
    with progress.stage("decide", sum(map(len, groups.values())), unit="configurations") as advance:
        for (use, forecaster, _), same in groups.items():
            first = [configurations[columns[0]] for columns in same.values()]
            asked = asked_at(first[0].built, windows, decided)
            member = None if forecaster is None else members[forecaster]
            stream = Stream.of(asked, member)
            closed = closed_before(decided.candles, decided.origins, asked.origins, first[0].portfolio)
            params = [one.params for one in first]
            rows = np.searchsorted(decided.origins, asked.origins)
            found = decide_parameters(use, params, stream, closed, workers, advance)
            for column, columns in zip(found.T, same.values(), strict=True):
                targets[np.ix_(rows, np.array(columns))] = column[:, None]
    return targets


def _simulate(
    configurations: Sequence[Configuration],
    windows: Windows,
    targets: FloatArray,
    funding: FundingRates | None,
    progress: Progress,
) -> Simulation:
    """The account of every configuration, in their order, and of buy and hold as the last."""
    at_once = max(1, ACCOUNTS_AT_ONCE // len(windows))
    parts, order = [], []
    groups: dict[str, list[int]] = {}
    for column, one in enumerate(configurations):
        groups.setdefault(one.portfolio.model_dump_json(), []).append(column)
    with progress.stage("simulate", len(configurations), unit="accounts") as advance:
        for columns in groups.values():
            for some in (columns[at : at + at_once] for at in range(0, len(columns), at_once)):
                names = [configurations[column].name for column in some]
                portfolio = configurations[some[0]].portfolio
                parts.append(
                    simulate(windows.candles, windows.origins, targets[:, some], names, portfolio, funding=funding)
                )
                order += some
                advance(len(some))
    held = simulate(
        windows.candles,
        windows.origins,
        np.ones((len(windows), 1)),
        [BUY_AND_HOLD],
        configurations[0].portfolio,
        funding=funding,
    )
    return _joined([*parts, held], [*np.argsort(order), len(order)])


def _joined(parts: Sequence[Simulation], order: Sequence[int]) -> Simulation:
    """Simulations of the same candles as one, with the accounts in another order."""
    import pandas as pd

    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts], axis=-1)[..., order]
        for field in fields(Simulation)
        if isinstance(getattr(parts[0], field.name), np.ndarray) and field.name != "open_time"
    }
    names = [name for part in parts for name in part.names]
    tables: dict[str, Any] = {
        name: pd.concat([getattr(part, name) for part in parts], ignore_index=True) for name in ("orders", "trades")
    }
    return replace(parts[0], names=tuple(names[k] for k in order), **columns, **tables)


def _returns(accounts: Simulation) -> FloatArray:
    """Net returns per candle (N, K)."""
    return np.column_stack([equity_returns(equity, accounts.initial_cash) for equity in accounts.equity.T])


def choose(returns: FloatArray, open_time: IntArray, interval: int, select: SelectionConfig) -> IntArray:
    """The configuration that nested selection trades in each candle.

    Whenever `trade` has passed, the configuration with the best record over the last `train` before it is chosen
    (ties: the first); it never sees a return of the candles in which it trades.

    Parameters
    ----------
    returns : float64 (N, K)
        Net returns per candle.
    open_time : int64 (N,)
        Of the candles, ms UTC.
    interval : int
        Length of a candle, ms.
    select : SelectionConfig

    Returns
    -------
    int64 (N,)
        Columns; -1 before there is a past to choose on.
    """
    chosen = np.full(len(returns), -1)
    past = interval_ms(select.train or select.trade)
    first = open_time[0] + past
    for at in range(int(first), int(open_time[-1]) + interval, interval_ms(select.trade)):
        begin = open_time[0] if select.train is None else at - past
        known = (open_time >= begin) & (open_time + interval <= at)
        if known.sum() > 1:
            chosen[open_time >= at] = int(np.argmax(record(returns[known], select.by)))
    return chosen


def record(returns: FloatArray, by: str) -> FloatArray:
    """Sharpe ratio per candle or total return of each account (K,); 0 for one that never moved."""
    if by == "total_return":
        return np.asarray(np.expm1(np.log1p(np.maximum(returns, 1e-12 - 1.0)).sum(axis=0)))
    spread = returns.std(axis=0, ddof=1)
    moves = spread > 1e-12 * np.abs(returns).max(axis=0, initial=1e-300)
    return np.asarray(np.divide(returns.mean(axis=0), spread, out=np.zeros_like(spread), where=moves))


def _nested_account(
    configurations: Sequence[Configuration],
    windows: Windows,
    targets: FloatArray,
    open_time: IntArray,
    chosen: IntArray,
    funding: FundingRates | None,
) -> Simulation:
    """The account that holds what the chosen configuration decides; it pays for changing from one to another."""
    limits = [(-one.portfolio.max_short, one.portfolio.max_long) for one in configurations]
    low, high = np.array(limits).T
    rows = np.searchsorted(open_time, windows.origins)
    column = chosen[np.minimum(rows, len(chosen) - 1)]
    decided = np.clip(targets, low, high)[np.arange(len(targets)), column]
    portfolio = configurations[0].portfolio.model_copy(update={"max_long": 1.0, "max_short": 1.0})
    held = np.where(column < 0, 0.0, decided)[:, None]
    return simulate(windows.candles, windows.origins, held, [CHOSEN], portfolio, funding=funding)


def _nested_numbers(
    returns: FloatArray, nested: Simulation, chosen: IntArray, select: SelectionConfig, horizon: int
) -> dict[str, float]:
    """Sharpe ratios (annualised) and returns over the hours in which something was chosen, with 95 % intervals."""
    traded = chosen >= 0
    numbers = {"nested.candles": float(traded.sum()), "nested.choices": float(len(set(chosen[traded].tolist())))}
    if not traded.any():
        return numbers
    best = int(np.argmax(record(returns[traded], select.by)))
    accounts = {"nested": _returns(nested)[traded, 0], "hindsight": returns[traded, best]}
    for name, series in accounts.items():
        year = math.sqrt(YEAR_MS / nested.interval_ms)
        ends = bootstrap_interval(series, horizon)
        numbers[f"{name}.sharpe"] = sharpe_ratio(series) * year
        numbers[f"{name}.sharpe_low"], numbers[f"{name}.sharpe_high"] = (end * year for end in ends["sharpe"])
        numbers[f"{name}.total_return"] = compound(series)
        numbers[f"{name}.total_return_low"], numbers[f"{name}.total_return_high"] = ends["total_return"]
    return numbers | {"hindsight.column": float(best)}


def _table(
    configurations: Sequence[Configuration], accounts: Simulation, returns: FloatArray, sharpes: Sequence[float]
) -> pd.DataFrame:
    import pandas as pd

    year = math.sqrt(YEAR_MS / accounts.interval_ms)
    count = accounts.orders["strategy"].value_counts()
    rows = [
        {
            "name": one.name,
            "strategy": one.strategy,
            "forecaster": one.forecaster,
            **one.assignment,
            "total_return": compound(series),
            "sharpe": sharpe_ratio(series) * year,
            "max_drawdown": float(drawdown(series).max(initial=0.0)),
            "turnover": float(accounts.turnover[column]) * year**2 / len(series),
            "orders": int(count.get(one.name, 0)),
            "deflated_sharpe": deflated_sharpe(series, sharpes),
        }
        for column, (one, series) in enumerate(zip(configurations, returns.T, strict=True))
    ]
    return pd.DataFrame(rows)


def _contents(
    merged: RunConfig,
    configurations: Sequence[Configuration],
    decided: Windows,
    members: Mapping[str, Member],
    targets: FloatArray,
    funding: FundingRates | None,
) -> dict[str, Mapping[str, object]]:
    """What identifies each account in the ledger, as for the accounts of a run."""
    found = {}
    for one, column in zip(configurations, targets.T, strict=True):
        key = None if one.forecaster is None else members[one.forecaster].key
        config = merged.model_copy(update={"portfolio": one.portfolio})
        found[one.name] = trial_content(one.built, one.use, key, config, decided.origins, column, funding)
    return found


def _digest(
    sweep: SweepConfig,
    merged: RunConfig,
    windows: Windows,
    members: Mapping[str, Member],
    configurations: Sequence[Configuration],
    funding: FundingRates | None,
) -> str:
    """Digest of all inputs of a sweep; see `run_digest`."""
    traders = [Trader(one.name, one.built, one.use, one.params, one.forecaster) for one in configurations]
    keys = {name: member.key for name, member in members.items()}
    made_of = run_digest(merged, windows.candles.sha256, keys, traders, funding)
    return tree_digest({"run": made_of, "sweep": sweep.model_dump(mode="json")})[:DIGEST_LENGTH]


def _manifest(
    sweep: SweepConfig,
    merged: RunConfig,
    windows: Windows,
    members: Mapping[str, Member],
    chosen: IntArray,
    configurations: Sequence[Configuration],
    clock: Clock,
) -> dict[str, Any]:
    return {
        "name": sweep.name,
        "sweep": sweep.model_dump(mode="json", by_alias=True),
        "experiment": merged.model_dump(mode="json"),
        "candles": {"path": merged.candles.path, "sha256": windows.candles.sha256},
        "origins": {"eligible": len(windows), "first": time_text(int(windows.origins[0]))},
        "forecasters": {name: {"key": member.key, "kind": member.kind} for name, member in members.items()},
        "chosen": {configurations[k].name: int((chosen == k).sum()) for k in sorted(set(chosen.tolist()) - {-1})},
        "code": {"version": code_version(), "commit": git_commit()},
        "packages": package_versions(),
        "seconds": dict(clock.seconds),
    }
