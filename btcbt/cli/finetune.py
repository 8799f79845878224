"""``btcbt finetune``: fit tokenizer and model on candle history.

Exit codes: 0 done; 2 bad usage, recipe, data or checkpoint; 130 interrupted, resumable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import LogJson, Quiet, console, guarded, watch


def finetune_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file of the recipe.")],
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Fit tokenizer and model, or resume an interrupted fit."""
    errors, out = console(stderr=True, log_json=log_json), console()
    progress = watch(errors, quiet=quiet)
    with guarded(errors, f"python -m btcbt finetune {recipe}", "the last checkpoint is kept"):
        from btcbt.workflows.finetune import is_first, loss_table, run_recipe

        done = run_recipe(recipe, progress.note)
        if is_first():
            if done.losses:
                out.print(loss_table(done.losses), markup=False, highlight=False, soft_wrap=True)
            for folder in done.folders:
                out.print(f"checkpoint in {folder}", markup=False, highlight=False, soft_wrap=True)
