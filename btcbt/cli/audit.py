"""``btcbt audit``: prove that an experiment does not look ahead, or name what does.

Exit codes: 0 clean; 1 something looks ahead; 2 bad usage, configuration or data; 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import Changes, LogJson, Quiet, again, console, guarded, watch

LOOKS_AHEAD = 1


def audit_command(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="YAML file of the experiment.")],
    sample: Annotated[int, typer.Option(min=2, max=100_000, help="Origins to audit.")] = 18,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the sampled origins and changes.")] = 0,
    fresh_process: Annotated[
        bool, typer.Option(help="Repeat it in a process without access to the true future.")
    ] = True,
    changes: Changes = None,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Check that an experiment does not look ahead.

    Candles after an origin are changed; nothing before it may change by a single bit.
    """
    errors, out = console(stderr=True, log_json=log_json), console()
    progress = watch(errors, quiet=quiet)
    with guarded(errors, again("audit", experiment, changes), kept="an audit cannot be resumed"):
        from btcbt.walkforward.experiments import read_experiment

        config = read_experiment(experiment, changes or ())
        from btcbt.audit import audit_experiment
        from btcbt.audit.panel import audit_panel
        from btcbt.audit.stamp import keep_report
        from btcbt.audit.tables import verdict
        from btcbt.config import PanelConfig

        if isinstance(config, PanelConfig):
            report = audit_panel(config, sample=sample, seed=seed, fresh_process=fresh_process, progress=progress)
            out.print(verdict(report))
            raise typer.Exit(0 if report.clean else LOOKS_AHEAD)
        report = audit_experiment(config, sample=sample, seed=seed, fresh_process=fresh_process, progress=progress)
        out.print(verdict(report))
        stamped, stale = keep_report(report, config)
    where = f"stamped into {stamped}" if stamped else "kept: the next run of this experiment carries it"
    if stale:
        where = f"not about {stamped}: {stale}; run the experiment again"
    out.print(f"The verdict is {where}.", markup=False, highlight=False, soft_wrap=True)
    if not report.clean:
        raise typer.Exit(LOOKS_AHEAD)
