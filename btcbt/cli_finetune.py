"""`btcbt finetune`: tokenizer and model on candle history."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.terminal import console, guarded


def finetune_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe's file.")],
) -> None:
    """Fit tokenizer and model by a recipe; the folder says what they have looked at."""
    errors = console(stderr=True)
    with guarded(errors, f"python -m btcbt finetune {recipe}", "nothing is kept"):
        from btcbt.finetuning import run_recipe

        folder = run_recipe(recipe, lambda line: errors.print(line, markup=False, highlight=False))
    console().print(f"checkpoint in {folder}", markup=False, highlight=False)
