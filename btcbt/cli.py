"""The command line: parses, calls, prints.

Exit codes: 0 done; 2 bad usage, configuration, data or checkpoint; 130 interrupted, resumable.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from btcbt.errors import BtcbtError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
PIPE_WIDTH = 120

app = typer.Typer(
    name="btcbt",
    help="Walk-forward backtests of candle forecasters: is there an edge after costs?",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Walk-forward backtests of candle forecasters: is there an edge after costs?"""


@app.command("run")
def run_command(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="The experiment's file.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
) -> None:
    """Run an experiment; one that was stopped goes on where it was."""
    from btcbt.report.progress import BarProgress, PlainProgress, Progress
    from btcbt.report.summary import summary

    errors, out = _console(stderr=True), _console()
    progress = Progress() if quiet else (BarProgress if errors.is_terminal else PlainProgress)(errors)
    with _guarded(errors, f"python -m btcbt run {experiment}"):
        from btcbt.runner import run

        finished = run(experiment, progress=progress)
    out.print(summary(finished))


def main() -> None:
    """Entry point of ``btcbt`` and of ``python -m btcbt``."""
    app(prog_name="btcbt")


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # In a pipe or a log the width of a terminal is unknown, and 80 columns would break the tables.
    return Console(stderr=stderr, width=None if stream.isatty() else PIPE_WIDTH)


@contextmanager
def _guarded(console: Console, again: str) -> Iterator[None]:
    """Turn what a user can mend into one line and an exit code; a bug of ours keeps its traceback."""
    handler = _Warnings(console)
    logging.getLogger("btcbt").addHandler(handler)
    try:
        yield
    except BtcbtError as error:
        message = " ".join(str(error).split())
        console.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        message = f"interrupted; finished shards are kept, go on with: {again}"
        console.print(message, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        logging.getLogger("btcbt").removeHandler(handler)


class _Warnings(logging.Handler):
    """Shows the package's warnings above the progress."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = f"warning: {record.getMessage()}"
        self._console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
