"""``btcbt data``: candle history in and out of Parquet.

Exit codes: 0 done; 1 problems were found (and not repaired), or files failed in a download with --keep-going;
2 bad usage or data; 130 interrupted, resumable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from btcbt.cli.terminal import console, guarded

if TYPE_CHECKING:
    from rich.console import Console

    from btcbt.candles.check import Inspection
    from btcbt.candles.download import Download, OnFile
    from btcbt.candles.importers import Stored

PROBLEMS = 1

data_app = typer.Typer(
    help="Candle history: download, import, check.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

IntervalOption = Annotated[str, typer.Option(help="Interval of the candles, such as 1h.")]
InferredOption = Annotated[str | None, typer.Option(help="Interval of the candles, such as 1h; inferred by default.")]
RepairOption = Annotated[bool, typer.Option("--repair", help="Drop the rows that break the contract.")]
PlaceholdersOption = Annotated[
    bool,
    typer.Option(
        "--drop-placeholders", help="Repair, and also drop candles without volume whose four prices are equal."
    ),
]


@data_app.command("download", epilog="Example: btcbt data download --symbol BTCUSDT --start 2017-08")
def download_command(
    start: Annotated[str, typer.Option(help="First month or day: 2017-08 or 2017-08-17.")],
    symbol: Annotated[str | None, typer.Option(help="Symbol, such as BTCUSDT.")] = None,
    symbols: Annotated[str | None, typer.Option(help="Several, such as BTCUSDT,ETHUSDT: one file each.")] = None,
    interval: IntervalOption = "1h",
    end: Annotated[str | None, typer.Option(help="Last month or day; yesterday by default.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Parquet file to create or append to, with --symbols their folder; data/SYMBOL_INTERVAL.parquet by "
            "default."
        ),
    ] = None,
    archive: Annotated[
        Path | None, typer.Option(help="Folder that keeps the zips; 'archive' beside the output by default.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Base URL of the archive; https://data.binance.vision by default.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Concurrent requests.")] = 4,
    attempts: Annotated[int, typer.Option(min=1, max=20, help="Attempts per file.")] = 6,
    repair: RepairOption = False,
    drop_placeholders: PlaceholdersOption = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch republished files again.")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Store the rest if some files fail.")] = False,
) -> None:
    """Download verified candles from the Binance archive and append them; resumes if interrupted."""
    out, errors = console(), console(stderr=True)
    asked = f"--symbol {symbol}" if symbols is None else f"--symbols {symbols}"
    again = f"python -m btcbt data download {asked} --interval {interval} --start {start} ..."
    clean = True
    with guarded(errors, again, "fetched files are kept"):
        from btcbt.candles.archive import BASE_URL
        from btcbt.candles.download import download_candles, histories
        from btcbt.candles.transport import RetryPolicy

        for name, place in histories(symbol, symbols, interval, output).items():
            with _bar(errors) as progress:
                done = download_candles(
                    name,
                    interval,
                    start,
                    end,
                    output=place,
                    archive=archive,
                    base_url=base_url or BASE_URL,
                    jobs=jobs,
                    repair=repair,
                    drop_placeholders=drop_placeholders,
                    refresh=refresh,
                    keep_going=keep_going,
                    retry=RetryPolicy(attempts=attempts),
                    progress=progress,
                )
            clean &= _show_download(out, done)
    if not clean:
        raise typer.Exit(PROBLEMS)


@data_app.command("import", epilog="Example: btcbt data import candles.csv --output data/BTCUSDT_1h.parquet")
def import_command(
    sources: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV, JSON, Parquet, Feather, zips, or folders.")
    ],
    output: Annotated[Path, typer.Option(help="Parquet file to create or append to.")],
    interval: InferredOption = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME=TITLE,...", help="Unusual titles of columns: open_time=t,open=o,close=c."),
    ] = None,
    repair: RepairOption = False,
    drop_placeholders: PlaceholdersOption = False,
    prefer_new: Annotated[
        bool, typer.Option("--prefer-new", help="Replace stored candles that have other values.")
    ] = False,
) -> None:
    """Import files into a Parquet history; importing them again changes nothing."""
    out, errors = console(), console(stderr=True)
    with guarded(errors, "the same command", "no partial file is left"):
        from btcbt.candles.importers import import_history, parse_renamed

        stored = import_history(
            sources,
            output,
            interval,
            repair=repair,
            drop_placeholders=drop_placeholders,
            prefer_new=prefer_new,
            renamed=None if columns is None else parse_renamed(columns),
        )
        _lines(out, stored.inspection.lines())
        _show_stored(out, output, stored if stored.written else None, stored.dropped)
    if not stored.written:
        raise typer.Exit(PROBLEMS)


@data_app.command("check", epilog="Example: btcbt data check data/BTCUSDT_1h.parquet")
def check_command(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Histories, or files to be imported.")],
    interval: InferredOption = None,
    repair: RepairOption = False,
    drop_placeholders: PlaceholdersOption = False,
    output: Annotated[Path | None, typer.Option(help="File for the repaired history; in place by default.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for notes and gaps, too.")] = False,
) -> None:
    """Print coverage, gaps and problems; repair on request."""
    out, errors = console(), console(stderr=True)
    clean = True
    with guarded(errors, "the same command", "no partial file is left"):
        from btcbt.candles.importers import check_history

        for file in files:
            checked = check_history(file, interval, repair=repair, drop_placeholders=drop_placeholders, output=output)
            _lines(out, checked.before.lines())
            if checked.dropped:
                _lines(out, _dropped(checked.dropped))
            if checked.written:
                _lines(out, [f"repaired: {checked.written}", *checked.after.lines()])
            elif checked.before.problems:
                _lines(out, ["  not changed; --repair drops the rows with problems"])
            clean &= _is_clean(checked.after, strict)
    if not clean:
        raise typer.Exit(PROBLEMS)


def _is_clean(inspection: Inspection, strict: bool) -> bool:
    odd = inspection.issues or len(inspection.gaps) if strict else inspection.problems
    return not odd


def _show_download(out: Console, done: Download) -> bool:
    """Print the result of a download; whether nothing is left to fix."""
    from btcbt.candles.download import FileState

    counts = ", ".join(f"{done.count(state)} {state.value}" for state in FileState if done.count(state))
    _lines(out, [f"files: {counts}"])
    for state, note in ((FileState.ABSENT, "not in the archive"), (FileState.FAILED, "failed")):
        names = done.named(state)
        if names:
            more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
            _lines(out, [f"  {note}: {', '.join(names[:5])}{more}"])
    if done.inspection is None:
        _lines(out, [f"{done.output}: nothing new"])
    else:
        _lines(out, done.inspection.lines())
        if done.filled:
            _lines(out, [f"  filled from daily files: {done.filled:,}"])
        _show_stored(out, done.output, done.stored, done.dropped)
    return done.count(FileState.FAILED) == 0 and (done.inspection is None or done.stored is not None)


def _show_stored(out: Console, output: Path, stored: Stored | None, dropped: Mapping[str, int]) -> None:
    if stored is None:
        _lines(out, [f"{output}: not written; check the problems, and add --repair to drop these rows"])
        return
    _lines(out, _dropped(dropped))
    _lines(
        out,
        [
            f"{output}: {stored.added:,} candles added, {stored.equal:,} already stored, "
            f"{stored.differing:,} stored with other values; SHA-256 {stored.sha256}"
        ],
    )


def _dropped(dropped: Mapping[str, int]) -> list[str]:
    return [f"  dropped: {reason}: {count:,}" for reason, count in dropped.items()]


def _lines(out: Console, lines: list[str]) -> None:
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _bar(errors: Console) -> Iterator[OnFile | None]:
    """A progress bar of files, on a terminal only."""
    if not errors.is_terminal:
        yield None
        return
    from rich.progress import Progress

    with Progress(console=errors, transient=True) as bar:
        task = bar.add_task("download", total=None)
        yield lambda done, todo, name: bar.update(task, completed=done, total=todo, description=name)
