"""``btcbt report``: write the page of a finished run again.

Exit codes: 0 done; 2 no such run, or one that is damaged or of an older version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import console, guarded


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or runs/NAME for its newest.")],
) -> None:
    """Write a finished run's page, report.html, from what is stored."""
    with guarded(console(stderr=True), f"python -m btcbt report {run}", kept="nothing was changed"):
        from btcbt.report.page import write_page
        from btcbt.storage.panel_runs import load_any_run

        file = write_page(load_any_run(run))
    console().print(f"page in {file}", markup=False, highlight=False, soft_wrap=True)
