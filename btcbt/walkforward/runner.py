"""The walk-forward: candles, windows, forecasts, decisions, accounts, scores, and the run's directory.

Each stage hands frozen records to the next; this is the only loop. Forecasts go to the store as they are
made, so that a run which is stopped at any point goes on from there; everything after the store takes seconds
and is done anew, so that its outcome does not depend on where a run was stopped.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa

from btcbt.candles import read_candles
from btcbt.config import (
    BUY_AND_HOLD,
    CALIBRATED,
    LEDGER_FILE,
    RANDOM_WALK,
    STORE_FOLDER,
    ForecasterConfig,
    RandomWalkConfig,
    RunConfig,
    load_config,
    time_text,
)
from btcbt.errors import CandleError, ConfigError, StoreError
from btcbt.files import in_use
from btcbt.forecasters import Forecaster, create_forecaster
from btcbt.metrics.placebos import spooled
from btcbt.portfolio import Simulation, simulate
from btcbt.progress import Progress
from btcbt.records import FloatArray, Forecast
from btcbt.report.figures import draw_figures
from btcbt.storage import runs as stored
from btcbt.storage.forecasts import NUMERICAL_VERSION, ForecastStore, ShardWriter, forecast_key, window_digests
from btcbt.storage.ledger import Ledger, Trial
from btcbt.storage.remote import open_remote
from btcbt.storage.runs import Run, load_run
from btcbt.storage.verdicts import stored_verdict
from btcbt.strategies import Strategy
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward.accounts import account_trials, score_accounts
from btcbt.walkforward.decisions import decide_all
from btcbt.walkforward.forecasting import READ_BATCH, Member, forecast_shards, label_and_digest
from btcbt.walkforward.placebos import Candidate, run_placebos
from btcbt.walkforward.provenance import code_version, git_commit, package_versions
from btcbt.walkforward.refits import Refitter, describe_refits, frozen_config, make_refits, make_refitter
from btcbt.walkforward.scoring import score_forecasts
from btcbt.walkforward.selection import keep_returns, kept_returns, selection_numbers
from btcbt.windows import make_windows

DIGEST_LENGTH = 16


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has: what was forecast is stored."""


@dataclass(frozen=True, slots=True, eq=False)
class Trader:
    """A strategy on the forecasts of one forecaster, or on none: a column of targets."""

    name: str
    strategy: Strategy
    use: str
    params: Mapping[str, Any]
    forecaster: str | None


@dataclass(slots=True, eq=False)
class Clock:
    """Wall seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began


def run(config: RunConfig | str | Path, *, progress: Progress | None = None) -> Run:
    """Run an experiment; go on where an earlier, unfinished run of it stopped.

    Parameters
    ----------
    config : RunConfig or path
        The experiment, or its file.
    progress : Progress, optional
        Who is told how far it is; nobody by default.

    Returns
    -------
    Run
        The finished run, read back from its directory.

    Raises
    ------
    BtcbtError
        If something of the user's is wrong. Nothing is left behind but whole shards of forecasts.
    Interrupted
        If the process was asked to stop.
    """
    experiment = config if isinstance(config, RunConfig) else load_config(config)
    return _Walk(experiment, progress or Progress()).run()


class _Walk:
    """One run under way."""

    def __init__(self, config: RunConfig, progress: Progress) -> None:
        self.config = config
        self.progress = progress
        self.clock = Clock()
        self.started = datetime.now(UTC)
        self.root = config.store.folder
        self._returns_folder = self.root / STORE_FOLDER / "trials"

    def run(self) -> Run:
        """All stages, in order."""
        with self.clock("read candles"):
            self.candles = read_candles(self.config.candles.path, self.config.candles.interval)
        # Everything that can be wrong with an experiment shows before the first forecast is paid for.
        self.traders = make_traders(self.config)
        url = self.config.store.url
        self.remote = None if url is None else open_remote(url).child(STORE_FOLDER)
        with self.clock("load forecasters"):
            self._load_forecasters()
        if self.traders and self.windows.origins[0] > self.candles.open_time[-1]:
            raise CandleError(
                f"candles {self.candles.source}: none follows the first origin, "
                f"{time_text(int(self.windows.origins[0]))}, so nothing trades; move windows.start back"
            )
        with _store_in_use(self.root / STORE_FOLDER):
            return self._walk()

    def _walk(self) -> Run:
        self._make_members()
        for member in self.members:
            with self.clock(f"forecast {member.name}"):
                self._forecast(member)
        with self.clock("score"):
            scores = score_forecasts(self.windows, self.members, self.root, self.progress)
            numbers, self.scores = dict(scores.headline), list(scores.tables)
        _give_back_memory()
        with self.clock("decide"):
            targets = self._decide()
        simulation = None
        if self.traders:
            with self.clock("simulate"):
                simulation = self._simulate(targets)
                trials, stretch = self._trials(simulation, targets)
                accounts = score_accounts(simulation, self.windows.horizon, trials, self.candles.source)
                numbers |= accounts.headline
                self.scores += accounts.tables
                tried = kept_returns(self._returns_folder, trials, stretch)
                numbers |= selection_numbers(simulation, self.windows.horizon, tried)
            _give_back_memory()
            with self.clock("placebos"):
                numbers |= self._placebos(simulation)
        return self._write(numbers, targets, simulation)

    # -- forecasts ------------------------------------------------------------------------------------

    def _load_forecasters(self) -> None:
        """Every forecaster with the weights that it begins with, what will be refitted, and the origins."""
        configs: dict[str, ForecasterConfig] = dict(self.config.forecasters)
        if all(c.kind != RANDOM_WALK for c in configs.values()):
            configs[RANDOM_WALK] = RandomWalkConfig(kind="random_walk")
        # The random walk comes first: the others are compared with it.
        # One that is calibrated comes last: it needs the forecasts of its base.
        names = sorted(configs, key=lambda name: (configs[name].kind != RANDOM_WALK, configs[name].kind == CALIBRATED))
        self.configs = {name: configs[name] for name in names}
        make_windows(self.candles, self.config.windows)  # a wrong range shows before weights are read
        self.loaded: dict[str, Forecaster] = {}
        self.refitters: dict[str, Refitter] = {}
        for name, config in self.configs.items():
            if config.kind == CALIBRATED:
                continue
            self.loaded[name] = create_forecaster(frozen_config(config), self.config.windows, self.config.seed)
            refitter = make_refitter(config, self.config, self.candles, self.loaded[name])
            if refitter is not None:
                refitter.check()
                self.refitters[name] = refitter
        # Forecasters are compared at the same origins, so an origin must suit the one that looks back farthest.
        longest = max(forecaster.context for forecaster in self.loaded.values())
        self.windows = make_windows(self.candles, self.config.windows, context=longest)

    def _make_members(self) -> None:
        """Fit what is refitted, and find what is stored."""
        contexts = {self.windows.context, *(forecaster.context for forecaster in self.loaded.values())}
        self.digests = {context: window_digests(self.windows.with_context(context)) for context in sorted(contexts)}
        self.members: list[Member] = []
        for name, config in self.configs.items():
            build: Callable[[], Forecaster]
            build = partial(create_forecaster, config, self.config.windows, self.config.seed)
            if config.kind == CALIBRATED:
                build = partial(build, {member.name: member.forecaster for member in self.members})
            if name in self.refitters:
                with self.clock(f"refit {name}"):
                    served = make_refits(name, self.refitters[name], self.windows.origins, self.progress)
                build = partial(build, None, served)
            plain = name in self.loaded and name not in self.refitters
            self.members.append(self._make_member(name, config, self.loaded[name] if plain else build(), build))

    def _make_member(
        self, name: str, config: ForecasterConfig, forecaster: Forecaster, build: Callable[[], Forecaster]
    ) -> Member:
        key, meaning = forecast_key(
            forecaster.identity(),
            interval_ms=self.candles.interval_ms,
            context=forecaster.context,
            horizon=forecaster.horizon,
            n_paths=forecaster.n_paths,
            seed=self.config.seed,
        )
        folder = self.root / STORE_FOLDER / key
        remote = None if self.remote is None else self.remote.child(key)
        store = ForecastStore(folder, key, n_paths=forecaster.n_paths, horizon=forecaster.horizon, remote=remote)
        windows = self.digests[forecaster.context]
        labels, digests, kind = label_and_digest(forecaster, self.windows.origins, windows)
        return Member(
            name=name,
            kind=config.kind,
            forecaster=forecaster,
            build=build,
            windows=self.windows.with_context(forecaster.context),
            digests=digests,
            column=f"window.{forecaster.context}" if kind == "window" else f"{kind}.{name}",
            key=key,
            meaning=meaning,
            store=store,
            plan=store.plan(self.windows.origins, digests),
            labels=labels,
            traded=name in self.config.forecasters,
        )

    def _forecast(self, member: Member) -> None:
        """Compute the shards that the store lacks."""
        missing = member.plan.missing
        total = len(self.windows)
        with self.progress.stage(f"forecast {member.name}", total, done=total - len(missing)) as advance:
            if len(missing):
                member.store.describe(member.meaning)
                size = self.config.store.shard_size
                shards = [missing[start : start + size] for start in range(0, len(missing), size)]
                base = next((m for m in self.members if m.forecaster is getattr(member.forecaster, "base", None)), None)
                with _stop_between_shards(self.progress) as stop, ShardWriter(member.store) as writer:
                    for rows, batch in forecast_shards(member, shards, self.config.executor, base, advance):
                        writer.put(member.digests[rows], batch)
                        stop()
                member.computed = len(missing)
                member.plan = member.store.plan(self.windows.origins, member.digests)
        first = member.store.read(member.plan.part(slice(0, 1)), self.windows.origins[:1], 1)
        member.provenance = next(first).provenance

    # -- decisions ------------------------------------------------------------------------------------

    def _decide(self) -> FloatArray:
        targets = np.empty((len(self.windows), len(self.traders)), dtype=np.float64)
        members = {member.name: member for member in self.members}
        with self.progress.stage("decide", targets.size, unit="decisions") as advance:
            for column, trader in enumerate(self.traders):
                member = None if trader.forecaster is None else members[trader.forecaster]
                forecasts = self._forecasts(member, advance)
                targets[:, column] = decide_all(trader.strategy, forecasts, name=trader.name)
        return targets

    def _forecasts(self, member: Member | None, advance: Callable[[int], None]) -> Iterator[Forecast]:
        """What a strategy sees, origin by origin; without a forecaster there are no paths."""
        if member is None:
            none = np.empty((0, self.config.windows.horizon, 6), dtype=np.float32)
            for window in self.windows:
                yield Forecast(window, none)
            advance(len(self.windows))
            return
        row = 0
        for batch in member.store.read(member.plan, self.windows.origins, READ_BATCH):
            for paths in batch.paths:
                yield Forecast(self.windows[row], paths)
                row += 1
            advance(len(batch))

    def _simulate(self, targets: FloatArray) -> Simulation:
        names = [trader.name for trader in self.traders]
        if BUY_AND_HOLD not in names:
            names.append(BUY_AND_HOLD)
            targets = np.column_stack([targets, np.ones(len(targets))])
        with self.progress.stage("simulate", len(names), unit="accounts") as advance:
            simulation = simulate(self.candles, self.windows.origins, targets, names, self.config.portfolio)
            advance(len(names))
        return simulation

    def _trials(self, simulation: Simulation, targets: FloatArray) -> tuple[list[Trial], str]:
        """Leave this run's configurations in the ledger; all ever tried on these candles, and the candles' digest.

        What was decided when is part of a configuration: origins depend on the longest context of all forecasters, and
        decisions on modules that the strategy's own file imports.
        """
        keys = {member.name: member.key for member in self.members}
        origins = self.windows.origins.tobytes()
        made_of = {
            trader.name: {
                "strategy": trader.use,
                "params": trader.strategy.params.model_dump(mode="json"),
                "source_sha256": source_sha256(trader.strategy),
                "forecasts": keys.get(trader.forecaster or ""),
                "windows": {"context": self.windows.context, "stride": self.config.windows.stride},
                "portfolio": self.config.portfolio.model_dump(mode="json"),
                "decisions": hashlib.sha256(origins + targets[:, column].tobytes()).hexdigest(),
            }
            for column, trader in enumerate(self.traders)
        }
        ledger = Ledger(self.root / LEDGER_FILE)
        ours = account_trials(simulation, self.candles, self.config.name, made_of)
        keep_returns(self._returns_folder, ours, simulation)
        ledger.record(ours)
        return ledger.related(ours), ours[0].stretch

    def _placebos(self, simulation: Simulation) -> dict[str, float]:
        """Where each strategy that trades on a forecast ranks among placebo runs."""
        runs, numbers = self.config.placebos, dict[str, float]()
        for member in self.members if runs else ():
            on = [
                Candidate(trader.name, trader.use, trader.params)
                for trader in self.traders
                if trader.forecaster == member.name
            ]
            if not on:
                continue
            parts = (batch.paths for batch in member.store.read(member.plan, self.windows.origins, READ_BATCH))
            stage = self.progress.stage(f"placebos {member.name}", runs, unit="runs")
            with spooled(parts, self.root) as paths, stage as advance:
                ranks = run_placebos(
                    on,
                    self.windows,
                    paths,
                    simulation,
                    self.config.portfolio,
                    runs=runs,
                    stride=self.config.windows.stride,
                    seed=self.config.seed,
                    advance=advance,
                )
            numbers |= ranks
            if not ranks:
                self.progress.note("too few origins to shuffle them: no placebo was run")
        return numbers

    # -- the directory --------------------------------------------------------------------------------

    def _write(self, numbers: dict[str, float], targets: FloatArray, simulation: Simulation | None) -> Run:
        digest = self._digest()
        target = self.root / self.config.name / digest
        windows = self.windows
        with stored.new_directory(target) as folder:
            columns: dict[str, Any] = {"scored": windows.scored}
            for context, digests in self.digests.items():
                columns[f"window.{context}"] = stored.digest_column(digests)
            columns |= {
                member.column: stored.digest_column(member.digests)
                for member in self.members
                if member.column not in columns
            }
            columns |= {f"label.{member.name}": member.labels for member in self.members}
            stored.write_columns(folder / "origins.parquet", "origin", windows.origins, columns)
            for member in self.members:
                member.store.link_into(folder / "forecasts" / member.name, member.plan)
            names = [trader.name for trader in self.traders]
            decided = dict(zip(names, targets.T, strict=True))
            stored.write_columns(folder / "targets.parquet", "origin", windows.origins, decided)
            if simulation is not None:
                equity = dict(zip(simulation.names, simulation.equity.T, strict=True))
                stored.write_columns(folder / "equity.parquet", "open_time", simulation.open_time, equity)
                simulation.trades.to_parquet(folder / "trades.parquet", index=False)
                simulation.orders.to_parquet(folder / "orders.parquet", index=False)
            stored.write_json(folder / "metrics.json", numbers)
            stored.write_scores(folder / "scores.parquet", self.scores)
            stored.write_candles(folder / "candles.parquet", self.candles, *windows.span())
            stored.write_json(folder / "manifest.json", self._manifest(digest))
            _give_back_memory()
            with self.clock("draw"):
                draw_figures(load_run(folder, metrics=numbers))
            stored.write_json(folder / "manifest.json", self._manifest(digest))
        stored.point_latest(target)
        return load_run(target, metrics=numbers)

    def _digest(self) -> str:
        keys = {member.name: member.key for member in self.members}
        return run_digest(self.config, self.candles.sha256, keys, self.traders)

    def _manifest(self, digest: str) -> dict[str, Any]:
        windows, candles = self.windows, self.candles
        return {
            "name": self.config.name,
            "digest": digest,
            "config_digest": self.config.digest(),
            "config": self.config.model_dump(mode="json"),
            "seed": self.config.seed,
            "candles": {
                "path": self.config.candles.path,
                "sha256": candles.sha256,
                "interval": self.config.candles.interval,
                "rows": len(candles),
                "first": time_text(int(candles.open_time[0])),
                "last": time_text(int(candles.open_time[-1])),
            },
            "origins": {
                "eligible": len(windows),
                "scored": int(np.count_nonzero(windows.scored)),
                "skipped": dict(windows.skipped),
                "first": time_text(int(windows.origins[0])),
                "last": time_text(int(windows.origins[-1])),
            },
            "forecasters": {
                member.name: _describe(member) | describe_refits(member.forecaster, windows.origins)
                for member in self.members
            },
            "strategies": {
                trader.name: {
                    "use": trader.use,
                    "params": dict(trader.params),
                    "forecaster": trader.forecaster,
                    "source_sha256": source_sha256(trader.strategy),
                }
                for trader in self.traders
            },
            "code": {"version": code_version(), "commit": git_commit(), "numerical_version": NUMERICAL_VERSION},
            "audit": stored_verdict(self.root, digest),
            "packages": package_versions(),
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": {
                **{stage: round(seconds, 3) for stage, seconds in self.clock.seconds.items()},
                "total": round((datetime.now(UTC) - self.started).total_seconds(), 3),
            },
        }


@contextmanager
def _store_in_use(folder: Path) -> Iterator[None]:
    """Keep ``btcbt store gc`` from what a run under way counts on."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror}); make room or choose another store.root, and run again"
        ) from None
    with in_use(folder):
        yield


def run_digest(config: RunConfig, candles_sha256: str, forecasts: Mapping[str, str], traders: Sequence[Trader]) -> str:
    """Names a run by all that it is made from, so that no run takes the place of a different one.

    `forecasts` holds the key of each forecaster's forecasts (`btcbt.storage.forecasts.forecast_key`) by its name.
    """
    content = {
        "config": config.digest(),
        "candles": candles_sha256,
        "forecasts": dict(forecasts),
        "strategies": {trader.name: source_sha256(trader.strategy) for trader in traders},
        "code": code_version(),
        "numerical_version": NUMERICAL_VERSION,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def make_traders(config: RunConfig) -> list[Trader]:
    """Build every strategy, once for each forecaster that it trades on.

    Those are named ``strategy@forecaster``; a strategy that uses no forecast runs once, under its own name.

    Raises
    ------
    StrategyError
        If one cannot be imported or built.
    ConfigError
        If a strategy lacks the forecasters that it needs, or names some that it does not use.
    """
    traders = []
    for name, chosen in config.strategies.items():
        if name == BUY_AND_HOLD and chosen.use != BUY_AND_HOLD:
            raise ConfigError(
                f"strategies.{name}: the account of this name is what all others are measured against, so it is "
                f"the strategy {BUY_AND_HOLD}, not {chosen.use}; choose another name"
            )
        strategy = load_strategy(chosen.use, chosen.params)
        if not strategy.uses_forecast:
            if chosen.forecasters is not None:
                raise ConfigError(f"strategies.{name}.forecasters: {chosen.use} uses no forecast; remove the key")
            traders.append(Trader(name, strategy, chosen.use, chosen.params, None))
            continue
        on = tuple(config.forecasters) if chosen.forecasters is None else chosen.forecasters
        if not on:
            raise ConfigError(f"strategies.{name}: {chosen.use} needs a forecaster; add one under 'forecasters'")
        for forecaster in on:
            # A new instance for each, so that nothing is carried from one account to another.
            own = load_strategy(chosen.use, chosen.params)
            traders.append(Trader(f"{name}@{forecaster}", own, chosen.use, chosen.params, forecaster))
    return traders


def source_sha256(strategy: Strategy) -> str:
    """Digest of the files that a strategy's class and its bases are written in; empty where there are none.

    Other modules that these import are not looked at: a helper that changes does not make another run.
    """
    content = b""
    for name in dict.fromkeys(cls.__module__ for cls in type(strategy).__mro__):
        file = getattr(sys.modules.get(name), "__file__", None)
        ours = name.partition(".")[0] in ("btcbt", *sys.stdlib_module_names)  # told apart by their versions
        if ours or file is None or not Path(file).is_file():
            continue
        content += Path(file).read_bytes()
    return hashlib.sha256(content).hexdigest() if content else ""


def _describe(member: Member) -> dict[str, Any]:
    return {
        "kind": member.kind,
        "key": member.key,
        "context": member.forecaster.context,
        "digests": member.column,
        "n_paths": member.forecaster.n_paths,
        "identity": dict(member.forecaster.identity()),
        "traded": member.traded,
        "labels": dict(Counter(str(label) for label in member.labels)),
        "computed": member.computed,
        "reused": len(member.labels) - member.computed,
        "provenance": dict(member.provenance),
    }


def _give_back_memory() -> None:
    """Hand freed memory back to the system, which the C library keeps otherwise and splinters over a long run."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    pa.default_memory_pool().release_unused()


@contextmanager
def _stop_between_shards(progress: Progress) -> Iterator[Callable[[], None]]:
    """Turn the first Ctrl-C into a stop after the shard in hand; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        asked.set()
        progress.note("stopping after the shard in hand; press Ctrl-C again to stop at once")

    def stop() -> None:
        if asked.is_set():
            raise Interrupted

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    except Exception:
        if asked.is_set():  # a worker process may have been stopped by the same Ctrl-C
            raise Interrupted from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
