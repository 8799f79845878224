"""``btcbt run``: run an experiment.

Exit codes: 0 done; 2 bad usage, configuration, data or checkpoint; 130 interrupted, resumable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import Changes, again, console, guarded, watch


def run_command(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="YAML file of the experiment.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
    changes: Changes = None,
) -> None:
    """Run an experiment, or resume an interrupted one."""
    from btcbt.report.panel import panel_summary
    from btcbt.report.summary import summary
    from btcbt.storage.runs import Run

    errors, out = console(stderr=True), console()
    progress = watch(errors, quiet=quiet)
    with guarded(errors, again("run", experiment, changes)):
        from btcbt.config.changes import load_changed

        config = load_changed(experiment, changes or ())
        from btcbt.walkforward.runner import run

        finished = run(config, progress=progress)
    out.print(summary(finished) if isinstance(finished, Run) else panel_summary(finished))
