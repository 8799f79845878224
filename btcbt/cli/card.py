"""``btcbt card``: write the model card of a checkpoint.

Exit codes: 0 done; 2 no such checkpoint or run; 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import console, guarded


def card_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The checkpoint: a pair, a model or a tokenizer.")],
    metrics: Annotated[Path | None, typer.Option(metavar="RUN", help="A finished run that uses it: runs/NAME.")] = None,
    forecaster: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose scores, if several of the run's forecasters use it.")
    ] = None,
    licence: Annotated[str, typer.Option("--license", help="Licence, by the hub's name for it.")] = "mit",
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="OWNER/NAME", help="Hub id of candles it was fitted on; repeatable.")
    ] = None,
) -> None:
    """Write the model card of a checkpoint.

    It has the scores of a run if one is named.
    """
    errors = console(stderr=True)
    with guarded(errors, f"python -m btcbt card {folder}", "the old card is kept"):
        from btcbt.errors import ConfigError
        from btcbt.models.kronos.checkpoints.card import write_model_card
        from btcbt.workflows.publish import evaluate_from_run

        if forecaster is not None and metrics is None:
            raise ConfigError(f"--forecaster {forecaster}: needs a run; give it with --metrics")
        evaluation = None if metrics is None else evaluate_from_run(folder, metrics, forecaster)
        file = write_model_card(folder, evaluation=evaluation, licence=licence, datasets=dataset or ())
    console().print(f"card in {file}", markup=False, highlight=False, soft_wrap=True)
