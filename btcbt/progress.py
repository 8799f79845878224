"""Progress of a run: silent, as plain lines, or as bars on a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

WIDE = 100
"""Columns of a terminal from which bars do not fill the line."""
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


class JsonProgress(Progress):
    """One JSON object a line, for programs: ``stage``, ``done``, ``total``, ``unit``, ``seconds``; or ``note``.

    A stage has a line when it begins, at most one every `every` seconds, and one when it ends.
    """

    def __init__(self, console: Console, every: float = 1.0) -> None:
        self._console = console
        self._every = every

    @contextmanager
    def stage(self, name: str, total: int, *, done: int = 0, unit: str = "origins") -> Iterator[Advance]:
        """Open a stage; see `Progress.stage`."""
        started = reported = time.monotonic()
        finished = done

        def line(now: float) -> None:
            seconds = round(now - started, 3)
            write_json_line(
                self._console, {"stage": name, "done": finished, "total": total, "unit": unit, "seconds": seconds}
            )

        def advance(count: int) -> None:
            nonlocal finished, reported
            finished += count
            now = time.monotonic()
            if now - reported >= self._every:
                reported = now
                line(now)

        line(started)
        yield advance
        line(time.monotonic())

    def note(self, message: str) -> None:
        """Print one line."""
        write_json_line(self._console, {"note": message})


def write_json_line(console: Console, content: Mapping[str, object]) -> None:
    """One JSON object on one line, neither wrapped nor coloured."""
    console.file.write(json.dumps(content) + "\n")
    console.file.flush()


class BarProgress(Progress):
    """Progress bars with the rate and the time left, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int, *, done: int = 0, unit: str = "origins") -> Iterator[Advance]:
        """Open a stage; see `Progress.stage`."""
        bars = RichProgress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:<20}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            BarColumn(bar_width=10),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _Rate(unit),
            _Left(),
            console=self._console,
            expand=self._console.width < WIDE,
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
        super().__init__(Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        """The column's text."""
        rate = task.fields.get("rate")
        shown = f"{rate:,.0f}" if rate and rate >= 10 else f"{rate:.1f}" if rate else ""
        return Text(f"{shown} {self._unit}/s" if rate else "", style="progress.data.speed")


class _Left(ProgressColumn):
    """The time left; the time taken when the stage is finished."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """The column's text."""
        if task.finished:
            return Text(f"took {_clock(task.finished_time or 0.0)}", style="progress.elapsed")
        left = task.time_remaining
        return Text(f"{_clock(left)} left" if left is not None else "", style="progress.remaining")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
