"""``btcbt audit``: does anything in an experiment look ahead?

Exit codes: 0 nothing does; 1 something does; 2 bad usage, configuration or data; 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import console, guarded

LOOKS_AHEAD = 1


def audit_command(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="The experiment's file.")],
    sample: Annotated[int, typer.Option(min=2, max=100_000, help="Origins to audit.")] = 18,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Draws the origins and the changes.")] = 0,
    fresh_process: Annotated[
        bool, typer.Option(help="Repeat it in a process that has never seen the true future.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the verdict.")] = False,
) -> None:
    """Change what follows an origin and see whether anything before it changes: it must not, by a single bit."""
    from btcbt.progress import BarProgress, PlainProgress, Progress

    errors, out = console(stderr=True), console()
    progress = Progress() if quiet else (BarProgress if errors.is_terminal else PlainProgress)(errors)
    with guarded(errors, f"python -m btcbt audit {experiment}", kept="an audit starts anew"):
        from btcbt.audit import audit_experiment
        from btcbt.audit.stamp import keep_report
        from btcbt.audit.tables import verdict
        from btcbt.config import load_config

        config = load_config(experiment)
        report = audit_experiment(config, sample=sample, seed=seed, fresh_process=fresh_process, progress=progress)
        out.print(verdict(report))
        stamped, stale = keep_report(report, config)
    where = f"stamped into {stamped}" if stamped else "kept: the next run of this experiment carries it"
    if stale:
        where = f"not about {stamped}: {stale}; run the experiment again"
    out.print(f"The verdict is {where}.", markup=False, highlight=False, soft_wrap=True)
    if not report.clean:
        raise typer.Exit(LOOKS_AHEAD)
