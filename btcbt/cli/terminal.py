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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Progress, warnings and errors as one JSON object a line, on stderr.")
]
INTERRUPTED = 130
PIPE_WIDTH = 120


def again(command: str, file: Path, changes: list[str] | None = None) -> str:
    """The command line that resumes a command on an experiment."""
    parts = ["python", "-m", "btcbt", command, str(file)]
    return shlex.join(parts + [word for change in changes or () for word in ("--set", change)])


def console(*, stderr: bool = False, log_json: bool = False) -> Console:
    """A console on standard output or standard error; with `log_json`, messages to the user are JSON lines."""
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        """Shows no control characters of texts, which come from files and other people's code."""

        log_json: bool = False

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    stream = sys.stderr if stderr else sys.stdout
    # Pipes and logs have no width.
    known = stream.isatty() or "COLUMNS" in os.environ
    made = PrintableConsole(stderr=stderr, width=None if known else PIPE_WIDTH)
    made.log_json = log_json
    return made


def say(errors: Console, kind: str, message: str, style: str = "", *, prefix: bool = True) -> None:
    """One message to the user: a line of text, or of JSON where the console is for programs."""
    if getattr(errors, "log_json", False):
        from btcbt.progress import write_json_line

        write_json_line(errors, {kind: message})
    else:
        text = f"{kind}: {message}" if prefix else message
        errors.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def watch(errors: Console, *, quiet: bool) -> Progress:
    """Bars on a terminal, plain lines in a pipe, JSON lines for programs, or nothing."""
    from btcbt.progress import BarProgress, JsonProgress, PlainProgress, Progress

    if quiet:
        return Progress()
    if getattr(errors, "log_json", False):
        return JsonProgress(errors)
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
        say(errors, "error", " ".join(str(error).split()), style="red")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        say(errors, "interrupted", f"interrupted; {kept}; resume with: {again}", prefix=False)
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
        say(self._errors, "warning", record.getMessage(), style="yellow")
