"""`btcbt card` and `btcbt push`: a checkpoint's card, and its way to the model hub.

Exit codes: 0 done; 2 no such checkpoint or run, or the hub refuses or cannot be reached; 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import console, guarded

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The checkpoint: a pair, a model or a tokenizer.")]


def card_command(
    folder: Folder,
    metrics: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A finished run that forecasts with it: runs/NAME.")
    ] = None,
    forecaster: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose scores, where several of the run forecast with it.")
    ] = None,
    licence: Annotated[str, typer.Option("--license", help="As the hub names it.")] = "mit",
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="OWNER/NAME", help="Hub id of candles it was fitted on; repeatable.")
    ] = None,
) -> None:
    """Write the model card of a checkpoint, with the scores of a run if one is named."""
    errors = console(stderr=True)
    with guarded(errors, f"python -m btcbt card {folder}", "the old card is kept"):
        from btcbt.errors import ConfigError
        from btcbt.models.kronos.checkpoints.card import write_model_card
        from btcbt.workflows.publish import evaluate_from_run

        if forecaster is not None and metrics is None:
            raise ConfigError(f"--forecaster {forecaster}: names one of a run; give the run with --metrics")
        evaluation = None if metrics is None else evaluate_from_run(folder, metrics, forecaster)
        file = write_model_card(folder, evaluation=evaluation, licence=licence, datasets=dataset or ())
    console().print(f"card in {file}", markup=False, highlight=False, soft_wrap=True)


def push_command(
    folder: Folder,
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The repository; created if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="If it is created, for its owner alone.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; created if there is none.")] = None,
) -> None:
    """Upload a checkpoint with its card to the model hub, in one commit; the token is HF_TOKEN or the hub's login."""
    errors = console(stderr=True)
    with guarded(errors, f"python -m btcbt push {folder} --repo {repo}", "the hub keeps whole commits alone"):
        from btcbt.workflows.publish import push

        where = push(folder, repo, private=private, revision=revision)
    console().print(f"uploaded: {where}", markup=False, highlight=False, soft_wrap=True)
