"""``btcbt push``: upload a checkpoint to the model hub.

Exit codes: 0 done; 2 no such checkpoint, or the hub refuses it or cannot be reached; 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import console, guarded


def push_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The checkpoint: a pair, a model or a tokenizer.")],
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The repository; created if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; created if missing.")] = None,
) -> None:
    """Upload a checkpoint and its card to the model hub.

    It is one commit; the token is HF_TOKEN or the hub's login.
    """
    errors = console(stderr=True)
    with guarded(errors, f"python -m btcbt push {folder} --repo {repo}", "the hub has no partial commit"):
        from btcbt.workflows.publish import push

        where = push(folder, repo, private=private, revision=revision)
    console().print(f"uploaded: {where}", markup=False, highlight=False, soft_wrap=True)
