"""Progress of a run: silent, as plain lines, or as bars on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

Advance = Callable[[int], None]
"""Called with the number of units of a stage that were just finished."""


class Progress:
    """Silent progress, and the base class of the others."""

    @contextmanager
    def stage(self, name: str, total: int, *, done: int = 0, unit: str = "origins") -> Iterator[Advance]:
        """Open a stage of `total` units, of which `done` are already stored."""
        del name, total, done, unit
        yield lambda _done: None

    def note(self, message: str) -> None:
        """Report a message."""


class PlainProgress(Progress):
    """Plain lines for logs and pipes: what is stored, one line every `every` seconds, one at the end of a stage."""

    def __init__(self, console: Console, every: float = 10.0) -> None:
        self._console = console
        self._every = every

    @contextmanager
    def stage(self, name: str, total: int, *, done: int = 0, unit: str = "origins") -> Iterator[Advance]:
        """Open a stage; see `Progress.stage`."""
        started = reported = time.monotonic()
        finished = done
        if done:
            self.note(f"{name}: {done:,} of {total:,} {unit} already stored")

        def advance(count: int) -> None:
            nonlocal finished, reported
            finished += count
            now = time.monotonic()
            if now - reported >= self._every:
                reported = now
                rate = (finished - done) / (now - started)
                left = (total - finished) / rate if rate else float("inf")
                self.note(f"{name}: {finished:,} of {total:,} {unit}, {rate:,.1f}/s, {left:,.0f} s left")

        yield advance
        if total > done:
            seconds = max(time.monotonic() - started, 1e-9)
            self.note(f"{name}: {total:,} {unit} in {seconds:.1f} s ({(total - done) / seconds:,.0f}/s)")

    def note(self, message: str) -> None:
        """Print one line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)


class BarProgress(Progress):
    """Progress bars with the rate and the time left, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int, *, done: int = 0, unit: str = "origins") -> Iterator[Advance]:
        """Open a stage; see `Progress.stage`."""
        bars = RichProgress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        with bars:
            task = bars.add_task(name, total=total, completed=done)
            started = time.monotonic()
            computed = 0

            def advance(count: int) -> None:
                nonlocal computed
                computed += count
                rate = computed / max(time.monotonic() - started, 1e-9)
                bars.update(task, advance=count, rate=rate)

            yield advance

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(message, markup=False, highlight=False)


class _Rate(ProgressColumn):
    """Units per second that this run computed; stored units are not counted."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """The column's text."""
        rate = task.fields.get("rate")
        return Text(f"{rate:,.0f} {self._unit}/s" if rate else "", style="progress.data.speed")
