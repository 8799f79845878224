"""``btcbt sweep``: many configurations of one experiment, with the luck accounted for.

Exit codes: 0 done; 2 bad usage, configuration, data or checkpoint; 130 interrupted, resumable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import console, guarded, watch


def sweep_command(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="YAML file: an experiment and the values to try.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
) -> None:
    """Try many parameters, and say what choosing among them is worth."""
    errors, out = console(stderr=True), console()
    progress = watch(errors, quiet=quiet)
    with guarded(errors, f"python -m btcbt sweep {sweep}"):
        from btcbt.report.sweep import sweep_summary
        from btcbt.workflows.sweep import run_sweep

        done = run_sweep(sweep, progress=progress)
    out.print(sweep_summary(done.table, done.numbers, list(done.config.over)))
    out.print(f"{done.directory}", markup=False, highlight=False, soft_wrap=True)
