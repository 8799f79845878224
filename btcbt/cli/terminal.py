"""Shared by all commands: consoles, progress, and how errors end a command."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from btcbt.errors import BtcbtError
from btcbt.files import refusals_explained
from btcbt.messages import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from btcbt.progress import Progress

Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key of the experiment: forecasters.kronos.n_paths=100. Repeatable."
    ),
]
"""The option of every command that takes an experiment."""
INTERRUPTED = 130
PIPE_WIDTH = 120


def again(command: str, file: Path, changes: list[str] | None = None) -> str:
    """The command line that resumes a command on an experiment."""
    parts = ["python", "-m", "btcbt", command, str(file)]
    return shlex.join(parts + [word for change in changes or () for word in ("--set", change)])


def console(*, stderr: bool = False) -> Console:
    """A console on standard output or standard error."""
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        """Shows no control characters of texts, which come from files and other people's code."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    stream = sys.stderr if stderr else sys.stdout
    # Pipes and logs have no width.
    known = stream.isatty() or "COLUMNS" in os.environ
    return PrintableConsole(stderr=stderr, width=None if known else PIPE_WIDTH)


def watch(errors: Console, *, quiet: bool) -> Progress:
    """Bars on a terminal, plain lines in a pipe, or nothing."""
    from btcbt.progress import BarProgress, PlainProgress, Progress

    if quiet:
        return Progress()
    return BarProgress(errors) if errors.is_terminal else PlainProgress(errors)


@contextmanager
def guarded(errors: Console, again: str, kept: str = "finished shards are kept") -> Iterator[None]:
    """Turn user errors into one line on `errors` and an exit code; bugs keep their traceback.

    After Ctrl-C the line says what is `kept` and the command, `again`, that resumes.
    """
    handler = Warnings(errors)
    logging.getLogger("btcbt").addHandler(handler)
    try:
        with refusals_explained():
            yield
    except BtcbtError as error:
        message = " ".join(str(error).split())
        errors.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        message = f"interrupted; {kept}; resume with: {again}"
        errors.print(message, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        logging.getLogger("btcbt").removeHandler(handler)


class Warnings(logging.Handler):
    """Shows the package's warnings above the progress bars."""

    def __init__(self, errors: Console) -> None:
        super().__init__(logging.WARNING)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning."""
        text = f"warning: {record.getMessage()}"
        self._errors.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
