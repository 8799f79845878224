"""``btcbt run``: run an experiment.

Exit codes: 0 done; 2 bad usage, configuration, data or checkpoint; 130 interrupted, resumable.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from btcbt.cli.terminal import Changes, LogJson, Quiet, again, console, guarded, watch

if TYPE_CHECKING:
    from rich.console import RenderableType

    from btcbt.config import PanelConfig, RunConfig
    from btcbt.progress import Progress
    from btcbt.storage.panel_runs import PanelRun
    from btcbt.storage.runs import Run
    from btcbt.workflows.dry_run import Outlook


def run_command(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="YAML file of the experiment.")],
    changes: Changes = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what there is to do, with time and memory from a few origins."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Score and draw a finished run again, counting the trials made since.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each column of the summary means.")] = False,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Log configuration, metrics and files with MLflow (extra mlflow).")
    ] = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Run an experiment, or resume an interrupted one."""
    errors, out = console(stderr=True, log_json=log_json), console()
    progress = watch(errors, quiet=quiet)
    shown: RenderableType
    with guarded(errors, again("run", experiment, changes)):
        from btcbt.config import one_symbol
        from btcbt.walkforward.experiments import read_experiment

        config = read_experiment(experiment, changes or ())
        if mlflow:
            from btcbt.workflows.tracking import require_mlflow

            require_mlflow()
            one_symbol(experiment, config)
        # Only now, since these import for seconds: a mistake in the experiment is told at once.
        if dry_run:
            shown = _dry_run(config, progress)
        else:
            from btcbt.storage.runs import Run
            from btcbt.walkforward.runner import run

            finished = run(config, progress=progress, force=force)
            if mlflow and isinstance(finished, Run):
                from btcbt.workflows.tracking import log_run

                progress.note(f"logged with MLflow: {log_run(finished)}")
            shown = _summary(finished, experiment, explain=explain)
    out.print(shown)


def _summary(finished: Run | PanelRun, experiment: Path, *, explain: bool) -> RenderableType:
    """What a run found."""
    from btcbt.report.panel import panel_summary
    from btcbt.report.summary import summary
    from btcbt.storage.panel_runs import PanelRun

    if isinstance(finished, PanelRun):
        return panel_summary(finished)
    return summary(finished, explain=explain, experiment=str(experiment))


def _dry_run(config: RunConfig | PanelConfig, progress: Progress) -> RenderableType:
    """What there is to do for an experiment, or for each symbol of one."""
    from rich.console import Group

    from btcbt.config import PanelConfig
    from btcbt.walkforward.panel.runner import beside, each_symbol, read_panel
    from btcbt.walkforward.stages import Stages
    from btcbt.workflows.dry_run import look_ahead

    if not isinstance(config, PanelConfig):
        return _outlook(look_ahead(config, progress=progress))
    stages = Stages()
    candles = read_panel(config, stages)
    parts = each_symbol(config, candles)
    return Group(
        *(
            _outlook(look_ahead(part, stages=beside(stages, symbol, candles), progress=progress))
            for symbol, part in parts.items()
        )
    )


def _outlook(found: Outlook) -> RenderableType:
    """What there is to do, as a table and two sentences."""
    from rich.console import Group
    from rich.text import Text

    from btcbt.report.cells import NONE, number, plain_table

    table = plain_table(f"{found.name}: {found.origins:,} origins, {found.first} .. {found.last}")
    for heading in ("forecaster", "stored", "to do", "shards", "origins/s", "time", "store MB"):
        table.add_column(heading, justify="left" if heading == "forecaster" else "right", no_wrap=True)
    for one in found.forecasters:
        stored = number(one.stored, ",.0f")
        table.add_row(
            one.name,
            stored,
            f"{one.missing:,}",
            f"{one.shards:,}",
            number(one.rate, ",.1f"),
            f"{one.seconds:,.0f} s" if one.missing else NONE,
            f"{one.megabytes:,.0f}",
        )
    skipped = sum(found.skipped.values())
    lines = [
        f"{skipped:,} origins of the range are left out, for want of candles." if skipped else "",
        *(f"{one.name}: {one.note}" for one in found.forecasters if one.note),
        f"{found.accounts:,} accounts. Forecasting takes about {found.seconds:,.0f} s in one process, as "
        f"{found.probed} origins of each tell; scores and figures take more. Memory so far: {found.memory_mb:,.0f} MB.",
        "This experiment is finished: running it reads what is stored." if found.finished else "Nothing was written.",
    ]
    return Group(table, "", *(Text(line) for line in lines if line))
