"""``btcbt init``: an experiment, a strategy and a notebook to start from.

Exit codes: 0 done; 2 a file is there already, or the folder cannot be written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import console, guarded


def init_command(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder to write to; created if missing.")
    ] = Path(),
) -> None:
    """Write a commented experiment, a strategy and a notebook that run as they are."""
    with guarded(console(stderr=True), f"python -m btcbt init {directory}", kept="finished files are kept"):
        from btcbt.workflows.init import EXPERIMENT_FILE, NOTEBOOK_FILE, write_start

        written = write_start(directory)
    out = console()
    for file in written:
        out.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)
    inside = "" if directory == Path() else f"cd {directory} && "
    steps = f"Next: {inside}btcbt run {EXPERIMENT_FILE}, then open {NOTEBOOK_FILE} in Jupyter"
    out.print(steps, markup=False, highlight=False, soft_wrap=True)
