"""``btcbt store``: list, verify and clean up the store of forecasts.

Exit codes: 0 done; 1 damaged files were found; 2 bad usage, or no store there; 130 interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from btcbt.cli.terminal import console, guarded

if TYPE_CHECKING:
    from btcbt.storage.garbage import StoredKey
    from btcbt.storage.remote import Folder

DAMAGED = 1
KEEP_DAYS = 7.0

store_app = typer.Typer(
    help="The store of forecasts: list, verify, clean up.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RootOption = Annotated[
    str, typer.Option(help="Folder or URL of the forecasts: store.root of the experiments, or their store.local.")
]


@store_app.command("ls", epilog="Example: btcbt store ls --root runs")
def list_command(root: RootOption = "runs") -> None:
    """List the keys: what each stands for, its origins, files and size."""
    errors, out = console(stderr=True), console()
    with guarded(errors, "python -m btcbt store ls", kept="nothing was changed"):
        from btcbt.config import time_text
        from btcbt.report.cells import plain_table
        from btcbt.storage.garbage import list_keys

        table = plain_table("")
        for heading in ("key", "forecaster", "T/H/S", "seed", "origins", "from", "to", "MB"):
            left, folds = heading in ("key", "forecaster", "from", "to"), heading in ("forecaster", "seed")
            table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not folds)
        found = list_keys(_folder(root))
        for one in found:
            meaning = one.meaning
            sizes = "/".join(str(meaning.get(name, "?")) for name in ("context", "horizon", "n_paths"))
            span = ["" if time is None else time_text(time)[:10] for time in (one.first, one.last)]
            size, seed = f"{one.size / 1e6:.1f}", str(meaning.get("seed", "?"))
            table.add_row(one.key[:12], _kind(one), sizes, seed, f"{one.origins:,}", *span, size)
        out.print(table)
        if found:
            out.print("T candles of context, H of horizon, S paths; days UTC.", style="dim")
        damaged = sum(len(one.damaged) for one in found)
        if damaged:
            out.print(f"{damaged} damaged files; 'btcbt store verify' names them", soft_wrap=True)


@store_app.command("verify", epilog="Example: btcbt store verify --root runs")
def verify_command(root: RootOption = "runs") -> None:
    """Compare every file with its checksum and name those that are damaged or foreign."""
    errors, out = console(stderr=True), console()
    with guarded(errors, "python -m btcbt store verify", kept="nothing was changed"):
        from btcbt.storage.garbage import list_keys

        found = list_keys(_folder(root))
    damaged = [why for one in found for why in one.damaged]
    for why in damaged:
        out.print(why, markup=False, highlight=False, soft_wrap=True)
    files, origins = sum(one.shards for one in found), sum(one.origins for one in found)
    out.print(f"{files:,} files of {len(found):,} keys with {origins:,} forecasts; {len(damaged):,} damaged")
    if damaged:
        raise typer.Exit(DAMAGED)


@store_app.command("gc", epilog="Example: btcbt store gc --root runs --delete")
def gc_command(
    root: RootOption = "runs",
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without it, only list what could be deleted.")
    ] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            show_default="7; unlimited at a URL",
            help="Days to keep forecasts that no run uses, for an unfinished run to resume from.",
        ),
    ] = None,
) -> None:
    """Find files of killed processes and abandoned runs, and damaged ones; deletes with --delete only."""
    errors, out = console(stderr=True), console()
    with guarded(errors, "python -m btcbt store gc", kept="only unused files were deleted"):
        from btcbt.storage.garbage import clearing, garbage
        from btcbt.storage.garbage import delete as delete_all
        from btcbt.storage.remote import LocalFolder

        folder = _folder(root)
        days = KEEP_DAYS if older_than is None and isinstance(folder, LocalFolder) else older_than
        with clearing(folder) as alone:
            if not alone:
                errors.print(
                    "warning: a run is in progress here; undamaged forecasts and refits are kept", soft_wrap=True
                )
            found = garbage(folder, older_than_days=days, running=not alone)
            for item in found:
                out.print(f"{item.folder}/{item.name}: {item.why}", markup=False, highlight=False, soft_wrap=True)
            size = delete_all(found) if delete else sum(item.size for item in found)
    verb = "deleted" if delete else "can be deleted with --delete"
    out.print(f"{len(found):,} files, {size / 1e6:.1f} MB: {verb}", markup=False, highlight=False)


def _folder(root: str) -> Folder:
    from btcbt.config import store_root
    from btcbt.storage.remote import open_folder

    return open_folder(store_root(root))


def _kind(one: StoredKey) -> str:
    identity = one.meaning.get("forecaster", {})
    return str(identity.get("kind", "?")) if isinstance(identity, dict) else "?"
