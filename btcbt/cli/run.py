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
    errors, out = console(stderr=True), console()
    progress = watch(errors, quiet=quiet)
    with guarded(errors, again("run", experiment, changes)):
        from btcbt.walkforward.experiments import read_experiment

        config = read_experiment(experiment, changes or ())
        # Only now, since this imports for seconds: a mistake in the experiment is told at once.
        from btcbt.report.summary import summary
        from btcbt.walkforward.runner import run

        finished = run(config, progress=progress)
    out.print(summary(finished))
