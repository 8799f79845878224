"""The command line: parses, calls, prints.

Exit codes: 0 done; 1 a check found something; 2 bad usage, configuration, data or checkpoint; 130 interrupted,
resumable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.audit import audit_command
from btcbt.cli.check import check_command
from btcbt.cli.data import data_app
from btcbt.cli.finetune import finetune_command
from btcbt.cli.predict import predict_command
from btcbt.cli.publish import card_command, push_command
from btcbt.cli.store import store_app
from btcbt.cli.terminal import console, guarded

app = typer.Typer(
    name="btcbt",
    help="Walk-forward backtests of candle forecasters: is there an edge after costs?",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")
app.command("finetune")(finetune_command)
app.command("predict")(predict_command)
app.command("card")(card_command)
app.command("push")(push_command)
app.command("audit")(audit_command)
app.command("check")(check_command)


@app.callback()
def _root() -> None:
    """Walk-forward backtests of candle forecasters: is there an edge after costs?"""


@app.command("run")
def run_command(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="The experiment's file.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
) -> None:
    """Run an experiment; one that was stopped goes on where it was."""
    from btcbt.progress import BarProgress, PlainProgress, Progress
    from btcbt.report.summary import summary

    errors, out = console(stderr=True), console()
    progress = Progress() if quiet else (BarProgress if errors.is_terminal else PlainProgress)(errors)
    with guarded(errors, f"python -m btcbt run {experiment}"):
        from btcbt.walkforward.runner import run

        finished = run(experiment, progress=progress)
    out.print(summary(finished))


def main() -> None:
    """Entry point of ``btcbt`` and of ``python -m btcbt``."""
    app(prog_name="btcbt")
