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
"""Says that so many more units of a stage are done."""


class Progress:
    """Progress that nobody watches; the base of those that somebody does."""

    @contextmanager
    def stage(self, name: str, total: int, *, done: int = 0, unit: str = "origins") -> Iterator[Advance]:
        """Open a stage of `total` units, of which `done` were found done already."""
        del name, total, done, unit
        yield lambda _done: None

    def note(self, message: str) -> None:
        """Say something once."""


class PlainProgress(Progress):
    """Lines for logs and pipes: one at the start of a stage, one each `every` seconds, one at its end."""

    def __init__(self, console: Console, every: float = 10.0) -> None:
        self._console = console
        self._every = every

    @contextmanager
    def stage(self, name: str, total: int, *, done: int = 0, unit: str = "origins") -> Iterator[Advance]:
        """Open a stage; see `Progress.stage`."""
        began = said = time.monotonic()
        finished = done
        if done:
            self.note(f"{name}: {done:,} of {total:,} {unit} are stored already")

        def advance(more: int) -> None:
            nonlocal finished, said
            finished += more
            now = time.monotonic()
            if now - said >= self._every:
                said = now
                rate = (finished - done) / (now - began)
                left = (total - finished) / rate if rate else float("inf")
                self.note(f"{name}: {finished:,} of {total:,} {unit}, {rate:,.1f}/s, {left:,.0f} s left")

        yield advance
        if total > done:
            seconds = max(time.monotonic() - began, 1e-9)
            self.note(f"{name}: {total:,} {unit} in {seconds:.1f} s ({(total - done) / seconds:,.0f}/s)")

    def note(self, message: str) -> None:
        """Print one line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)


class BarProgress(Progress):
    """Bars with the rate and the time left, for a terminal."""

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
            began = time.monotonic()
            worked = 0

            def advance(more: int) -> None:
                nonlocal worked
                worked += more
                rate = worked / max(time.monotonic() - began, 1e-9)
                bars.update(task, advance=more, rate=rate)

            yield advance

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(message, markup=False, highlight=False)


class _Rate(ProgressColumn):
    """Units per second of what this run did itself; stored units cost nothing and do not count."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """What the column shows of a stage."""
        rate = task.fields.get("rate")
        return Text(f"{rate:,.0f} {self._unit}/s" if rate else "", style="progress.data.speed")
