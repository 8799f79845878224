"""What every command shares: its consoles, and how an error of the user ends it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from btcbt.errors import BtcbtError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
PIPE_WIDTH = 120


def console(*, stderr: bool = False) -> Console:
    """A console on standard output or standard error."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # In a pipe or a log the width of a terminal is unknown, and 80 columns would break the tables.
    return Console(stderr=stderr, width=None if stream.isatty() else PIPE_WIDTH)


@contextmanager
def guarded(errors: Console, again: str, kept: str = "finished shards are kept") -> Iterator[None]:
    """Turn what a user can mend into one line on `errors` and an exit code; a bug of ours keeps its traceback.

    After Ctrl-C the line says what is `kept` and that the command `again` goes on from it.
    """
    handler = Warnings(errors)
    logging.getLogger("btcbt").addHandler(handler)
    try:
        yield
    except BtcbtError as error:
        message = " ".join(str(error).split())
        errors.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        message = f"interrupted; {kept}, go on with: {again}"
        errors.print(message, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        logging.getLogger("btcbt").removeHandler(handler)


class Warnings(logging.Handler):
    """Shows the package's warnings above the progress."""

    def __init__(self, errors: Console) -> None:
        super().__init__(logging.WARNING)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        text = f"warning: {record.getMessage()}"
        self._errors.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
