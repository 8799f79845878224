"""``btcbt sweep``: many configurations of one experiment, with the luck accounted for.

Exit codes: 0 done; 2 bad usage, configuration, data or checkpoint; 130 interrupted, resumable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import Changes, LogJson, Quiet, again, console, guarded, watch


def sweep_command(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="YAML file: an experiment and the values to try.")],
    changes: Changes = None,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Try many parameters, and say what choosing among them is worth."""
    errors, out = console(stderr=True, log_json=log_json), console()
    progress = watch(errors, quiet=quiet)
    with guarded(errors, again("sweep", sweep, changes)):
        from btcbt.report.sweep import sweep_summary
        from btcbt.workflows.sweep import run_sweep

        done = run_sweep(sweep, changes or (), progress=progress)
    out.print(sweep_summary(done.table, done.numbers, list(done.config.over)))
    out.print(f"{done.directory}", markup=False, highlight=False, soft_wrap=True)
