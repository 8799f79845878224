"""The walk-forward: candles, windows, forecasts, decisions, accounts, scores, and the run's directory.

This module is the list of stages; each is a function from frozen records to frozen records. Forecasts are stored as
they are made, so that an interrupted run resumes. All later stages take seconds and are always recomputed, so that
the result does not depend on where a run was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from btcbt.config import BUY_AND_HOLD, STORE_FOLDER, RunConfig, load_config, time_text
from btcbt.errors import CandleError, StoreError
from btcbt.execution.local import within_cores
from btcbt.files import in_use, refusals_explained
from btcbt.portfolio import Simulation
from btcbt.progress import Progress
from btcbt.records import FloatArray
from btcbt.report.figures import draw_figures
from btcbt.storage import runs
from btcbt.storage.remote import RemoteFolder, open_remote
from btcbt.storage.runs import Run, load_run
from btcbt.walkforward.accounts import score_accounts
from btcbt.walkforward.decisions import decide_targets
from btcbt.walkforward.forecasters import Serving, load_forecasters
from btcbt.walkforward.forecasting import forecast_missing, try_out
from btcbt.walkforward.interrupts import Interrupted
from btcbt.walkforward.manifest import make_manifest, run_digest, wall_seconds
from btcbt.walkforward.members import Member, make_members
from btcbt.walkforward.memory import release_memory
from btcbt.walkforward.placebos import placebo_numbers
from btcbt.walkforward.refits import make_refits
from btcbt.walkforward.scoring import Scores, score_forecasts
from btcbt.walkforward.selection import selection_numbers
from btcbt.walkforward.stages import Stages
from btcbt.walkforward.traders import Trader, make_traders
from btcbt.walkforward.trials import record_trials
from btcbt.windows import Windows

__all__ = ["Interrupted", "run"]


@dataclass(frozen=True, slots=True, eq=False)
class Clock:
    """Wall seconds of each stage, and when the run began (UTC)."""

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
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
    """Run an experiment, or resume it if it was interrupted.

    Parameters
    ----------
    config : RunConfig or path
        The experiment, or its file.
    progress : Progress, optional
        Receives the progress.

    Returns
    -------
    Run
        The finished run, read back from its directory.

    Raises
    ------
    BtcbtError
        If the experiment, its data or its code is invalid. Only complete shards of forecasts remain on disk.
    Interrupted
        If the run was interrupted.
    """
    experiment = config if isinstance(config, RunConfig) else load_config(config)
    with refusals_explained(experiment.store.folder):
        return _walk(experiment, Stages(), Clock(), progress or Progress())


def _walk(config: RunConfig, stages: Stages, clock: Clock, progress: Progress) -> Run:
    config = config.model_copy(update={"executor": within_cores(config.executor)})
    with clock("read candles"):
        candles = stages.prepared(stages.raw(config.candles))
    # Errors in the experiment are reported before the first forecast is computed.
    traders = make_traders(config)
    remote = _open_remote(config)
    with clock("load forecasters"):
        stages.windows(candles, config.windows)  # reports a wrong range before weights are loaded
        loaded = load_forecasters(config, candles, stages.plan)
        for refitter in loaded.refitters.values():
            refitter.check()
        windows = stages.windows(candles, config.windows, loaded.context)
    _require_a_fill(windows, traders)

    with _store_in_use(config.store.folder / STORE_FOLDER):
        serving: dict[str, Serving] = {}
        for name, refitter in loaded.refitters.items():
            with clock(f"refit {name}"):
                serving[name] = make_refits(name, refitter, windows.origins, progress)
        members = make_members(config, loaded, serving, windows, remote, stages.label)
        try_out(members.values())
        for name, member in members.items():
            with clock(f"forecast {name}"):
                base = None if member.base is None else members[member.base]
                members[name] = forecast_missing(member, base, config, progress)
        with clock("score"):
            scores = score_forecasts(windows, list(members.values()), config.store.folder, progress, config.opponent)
            numbers, tables = dict(scores.headline), list(scores.tables)
        release_memory()
        with clock("decide"):
            targets = decide_targets(traders, members, windows, progress)
        simulation = None
        if traders:
            with clock("simulate"):
                simulation = _simulate(config, stages, windows, traders, targets, progress)
                tried, returns = record_trials(config, windows, traders, members, targets, simulation)
                accounts = score_accounts(simulation, windows.horizon, tried, candles.source)
                numbers |= accounts.headline
                tables += accounts.tables
                numbers |= selection_numbers(simulation, windows.horizon, returns)
            release_memory()
            with clock("placebos"):
                numbers |= placebo_numbers(traders, members, windows, simulation, config, progress)
        return _write(config, windows, members, traders, targets, simulation, Scores(numbers, tuple(tables)), clock)


def _simulate(
    config: RunConfig,
    stages: Stages,
    windows: Windows,
    traders: list[Trader],
    targets: FloatArray,
    progress: Progress,
) -> Simulation:
    """The account of every trader, and of buy and hold."""
    names = [trader.name for trader in traders]
    if BUY_AND_HOLD not in names:
        names.append(BUY_AND_HOLD)
        targets = np.column_stack([targets, np.ones(len(targets))])
    with progress.stage("simulate", len(names), unit="accounts") as advance:
        simulation = stages.accounts(windows.candles, windows.origins, targets, names, config.portfolio)
        advance(len(names))
    return simulation


def _write(
    config: RunConfig,
    windows: Windows,
    members: Mapping[str, Member],
    traders: list[Trader],
    targets: FloatArray,
    simulation: Simulation | None,
    scores: Scores,
    clock: Clock,
) -> Run:
    """Write the run directory, completely or not at all."""
    keys = {name: member.key for name, member in members.items()}
    digest = run_digest(config, windows.candles.sha256, keys, traders)
    target = config.store.folder / config.name / digest
    with runs.new_directory(target) as folder:
        _write_origins(folder, windows, members)
        decided = dict(zip([trader.name for trader in traders], targets.T, strict=True))
        runs.write_columns(folder / "targets.parquet", "origin", windows.origins, decided)
        if simulation is not None:
            equity = dict(zip(simulation.names, simulation.equity.T, strict=True))
            runs.write_columns(folder / "equity.parquet", "open_time", simulation.open_time, equity)
            simulation.trades.to_parquet(folder / "trades.parquet", index=False)
            simulation.orders.to_parquet(folder / "orders.parquet", index=False)
        runs.write_json(folder / "metrics.json", scores.headline)
        runs.write_scores(folder / "scores.parquet", scores.tables)
        runs.write_candles(folder / "candles.parquet", windows.candles, *windows.span())
        manifest = make_manifest(config, digest, windows, list(members.values()), traders, clock.seconds, clock.started)
        runs.write_json(folder / "manifest.json", manifest)
        release_memory()
        with clock("draw"):
            draw_figures(load_run(folder, metrics=dict(scores.headline)))
        # Again, with the time of the figures; the audit's decisions are not asked for twice.
        manifest["seconds"] = wall_seconds(clock.seconds, clock.started)
        runs.write_json(folder / "manifest.json", manifest)
    runs.point_latest(target)
    return load_run(target, metrics=dict(scores.headline))


def _write_origins(folder: Path, windows: Windows, members: Mapping[str, Member]) -> None:
    """Write origins with digests and labels, and link the stored forecasts."""
    digests = {member.column: runs.digest_column(member.digests) for member in members.values()}
    labels = {f"label.{member.name}": member.labels for member in members.values()}
    columns = {"scored": windows.scored, **digests, **labels}
    runs.write_columns(folder / "origins.parquet", "origin", windows.origins, columns)
    for member in members.values():
        member.store.link_into(folder / "forecasts" / member.name, member.plan)


def _open_remote(config: RunConfig) -> RemoteFolder | None:
    url = config.store.url
    return None if url is None else open_remote(url).child(STORE_FOLDER)


def _require_a_fill(windows: Windows, traders: list[Trader]) -> None:
    candles = windows.candles
    if traders and windows.origins[0] > candles.open_time[-1]:
        raise CandleError(
            f"candles {candles.source}: no candle follows the first origin, "
            f"{time_text(int(windows.origins[0]))}, so nothing trades; move windows.start back"
        )


@contextmanager
def _store_in_use(folder: Path) -> Iterator[None]:
    """Prevent ``btcbt store gc`` from deleting what this run uses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror}); make room or choose another store.root, and run again"
        ) from None
    with in_use(folder):
        yield
