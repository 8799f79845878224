"""The walk-forward: candles, windows, forecasts, decisions, accounts, scores, and the run's directory.

This module is the list of stages; each is a function from frozen records to frozen records. Forecasts are stored as
they are made, so that an interrupted run resumes. All later stages take seconds and are always recomputed, so that
the result does not depend on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import overload

import numpy as np

from btcbt.config import BUY_AND_HOLD, PanelConfig, RunConfig, time_text
from btcbt.errors import CandleError
from btcbt.execution.local import within_cores
from btcbt.files import refusals_explained
from btcbt.portfolio import Simulation
from btcbt.progress import Progress
from btcbt.records import FloatArray, FundingRates
from btcbt.report.figures import draw_figures
from btcbt.report.page import write_page
from btcbt.report.run import Run
from btcbt.report.run.panel import PanelRun
from btcbt.storage import runs
from btcbt.storage.runs import load_run
from btcbt.walkforward.accounts import score_accounts
from btcbt.walkforward.experiments import Source, read_experiment
from btcbt.walkforward.finished import stored_run
from btcbt.walkforward.forecasted import Clock, forecasted, load
from btcbt.walkforward.hypotheses import score_hypotheses
from btcbt.walkforward.interrupts import Interrupted
from btcbt.walkforward.manifest import make_manifest, run_digest, wall_seconds
from btcbt.walkforward.members import Member
from btcbt.walkforward.memory import release_memory
from btcbt.walkforward.placebos import placebo_numbers
from btcbt.walkforward.registration import Standing, check_accounts, standing, until_now
from btcbt.walkforward.rehearsal import try_strategies
from btcbt.walkforward.scoring import Scores, score_forecasts
from btcbt.walkforward.selection import selection_numbers
from btcbt.walkforward.sensitivity import score_sensitivity
from btcbt.walkforward.stages import Stages
from btcbt.walkforward.targets import decide_targets
from btcbt.walkforward.traders import Trader, make_traders
from btcbt.walkforward.trials import record_trials
from btcbt.windows import Windows, decision_windows

__all__ = ["Interrupted", "run"]


@overload
def run(config: RunConfig, *, progress: Progress | None = None, force: bool = False) -> Run: ...
@overload
def run(config: PanelConfig, *, progress: Progress | None = None, force: bool = False) -> PanelRun: ...
@overload
def run(config: Source, *, progress: Progress | None = None, force: bool = False) -> Run | PanelRun: ...
def run(config: Source, *, progress: Progress | None = None, force: bool = False) -> Run | PanelRun:
    """Run an experiment, or resume it if it was interrupted.

    A run that is finished already, with the same decisions, is read and returned as it is.

    Parameters
    ----------
    config : RunConfig, PanelConfig, path or mapping
        The experiment, on one symbol or on several, its file, or the keys and values of such a file.
    progress : Progress, optional
        Receives the progress.
    force : bool
        Whether a finished run is scored and drawn again, which counts the trials made since; its forecasts are used.

    Returns
    -------
    Run or PanelRun
        The finished run, read back from its directory.

    Raises
    ------
    BtcbtError
        If the experiment, its data or its code is invalid. Only complete shards of forecasts remain on disk.
    Interrupted
        If the run was interrupted.
    """
    experiment = read_experiment(config)
    progress = progress or Progress()
    if isinstance(experiment, PanelConfig):
        from btcbt.walkforward.panel.runner import run_panel  # it runs this module's `walk` on each symbol

        return run_panel(experiment, progress, force=force)
    with refusals_explained(experiment.store.folder):
        return walk(experiment, Stages(), progress, force=force)


def walk(study: RunConfig, stages: Stages, progress: Progress, *, force: bool) -> Run:
    """Run an experiment on one symbol; see `run`."""
    clock = Clock()
    with clock("read candles"):
        candles = stages.history(study.candles)
    config = until_now(study, candles)
    config = config.model_copy(update={"executor": within_cores(config.executor)})
    # Errors in the experiment are reported before the first forecast is computed.
    traders = make_traders(config)
    check_accounts(config, traders)
    loaded, windows = load(config, candles, stages, clock)
    stages = stages.with_funding(config.portfolio, windows)
    _require_a_fill(windows, traders)
    decided = decision_windows(candles, config.windows, int(windows.origins[0]))
    try_strategies(config, loaded, traders, windows, decided)
    registered = standing(study, candles, loaded.frozen, traders)

    with forecasted(config, loaded, windows, stages, clock, progress) as members:
        with clock("decide"):
            targets = decide_targets(traders, members, windows, decided, config.portfolio, progress)
        keys = {name: member.key for name, member in members.items()}
        digest = run_digest(study, candles.sha256, keys, traders, stages.funding, stages.others)
        target = config.store.folder / study.name / digest
        again = force or any(member.computed for member in members.values())
        finished = None if again else stored_run(target, registered, members, targets)
        if finished is not None:
            progress.note(f"finished before ({finished.manifest['started'][:10]}): nothing is scored again")
            runs.point_latest(target)
            return Run.of(finished)
        with clock("score"):
            scores = score_forecasts(windows, list(members.values()), config.store.folder, progress, config.opponent)
            numbers, tables = dict(scores.headline), list(scores.tables)
        release_memory()
        simulation = None
        if traders:
            with clock("simulate"):
                names, weights = _with_benchmark(traders, targets)
                with progress.stage("simulate", len(names), unit="accounts") as advance:
                    simulation = stages.accounts(candles, decided.origins, weights, names, config.portfolio)
                    advance(len(names))
                tried, returns = record_trials(config, decided, traders, members, targets, simulation, stages.funding)
                accounts = score_accounts(simulation, windows.horizon, tried, candles.source)
                numbers |= accounts.headline
                tables += accounts.tables
                numbers |= selection_numbers(simulation, windows.horizon, returns)
            release_memory()
            with clock("sensitivity"):
                changed = score_sensitivity(simulation, decided, weights, config.portfolio, stages.funding, progress)
                numbers |= changed.headline
                tables += changed.tables
            release_memory()
            with clock("placebos"):
                numbers |= placebo_numbers(
                    traders, members, windows, decided.origins, simulation, config, progress, stages.funding
                )
        if study.hypotheses:
            with clock("test hypotheses"):
                evidence = score_hypotheses(config, windows, members, simulation, registered.registered_ms)
            numbers |= evidence.headline
            tables += evidence.tables
        scores = Scores(numbers, tuple(tables), scores.losses)
        written = (windows, decided, members, traders, targets, simulation, scores, clock, registered)
        return _write(study, target, *written, stages.funding)


def _with_benchmark(traders: list[Trader], targets: FloatArray) -> tuple[list[str], FloatArray]:
    """Names and targets of the accounts: those of every trader, and of buy and hold."""
    names = [trader.name for trader in traders]
    if BUY_AND_HOLD in names:
        return names, targets
    return [*names, BUY_AND_HOLD], np.column_stack([targets, np.ones(len(targets))])


def _write(
    config: RunConfig,
    target: Path,
    windows: Windows,
    decided: Windows,
    members: Mapping[str, Member],
    traders: list[Trader],
    targets: FloatArray,
    simulation: Simulation | None,
    scores: Scores,
    clock: Clock,
    registered: Standing,
    funding: FundingRates | None,
) -> Run:
    """Write the run directory, completely or not at all."""
    with runs.new_directory(target) as folder:
        _write_origins(folder, windows, members)
        columns = dict(zip([trader.name for trader in traders], targets.T, strict=True))
        runs.write_columns(folder / "targets.parquet", "origin", decided.origins, columns)
        if simulation is not None:
            equity = dict(zip(simulation.names, simulation.equity.T, strict=True))
            runs.write_columns(folder / "equity.parquet", "open_time", simulation.open_time, equity)
            simulation.trades.to_parquet(folder / "trades.parquet", index=False)
            simulation.orders.to_parquet(folder / "orders.parquet", index=False)
        runs.write_json(folder / "metrics.json", scores.headline)
        runs.write_scores(folder / "scores.parquet", scores.tables)
        if scores.losses:
            runs.write_columns(folder / "losses.parquet", "origin", windows.origins[windows.scored], scores.losses)
        runs.write_candles(folder / "candles.parquet", windows.candles, *windows.span())
        made_by = (list(members.values()), traders, clock.seconds, clock.started, registered.as_json())
        manifest = make_manifest(config, target.name, windows, *made_by, funding)
        runs.write_json(folder / "manifest.json", manifest)
        release_memory()
        with clock("draw"):
            draw_figures(load_run(folder, metrics=dict(scores.headline)))
            write_page(load_run(folder, metrics=dict(scores.headline)))
        # Again, with the time of the figures; the audit's decisions are not asked for twice.
        manifest["seconds"] = wall_seconds(clock.seconds, clock.started)
        runs.write_json(folder / "manifest.json", manifest)
    runs.point_latest(target)
    return Run.of(load_run(target, metrics=dict(scores.headline)))


def _write_origins(folder: Path, windows: Windows, members: Mapping[str, Member]) -> None:
    """Write origins with digests and labels, and link the stored forecasts."""
    digests = {member.column: runs.digest_column(member.digests) for member in members.values()}
    labels = {f"label.{member.name}": member.labels for member in members.values()}
    columns = {"scored": windows.scored, **digests, **labels}
    runs.write_columns(folder / "origins.parquet", "origin", windows.origins, columns)
    for member in members.values():
        member.store.link_into(folder / "forecasts" / member.name, member.plan)


def _require_a_fill(windows: Windows, traders: list[Trader]) -> None:
    candles = windows.candles
    if traders and windows.origins[0] > candles.open_time[-1]:
        raise CandleError(
            f"candles {candles.source}: no candle follows the first origin, "
            f"{time_text(int(windows.origins[0]))}, so nothing trades; move windows.start back"
        )
