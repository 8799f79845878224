"""The command line: assembles the commands of this package into one application.

Exit codes: 0 done; 1 a check found something; 2 bad usage, configuration, data or checkpoint; 130 interrupted,
resumable.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from btcbt.cli.audit import audit_command
from btcbt.cli.card import card_command
from btcbt.cli.check import check_command
from btcbt.cli.compare import compare_command
from btcbt.cli.data import data_app
from btcbt.cli.finetune import finetune_command
from btcbt.cli.init import init_command
from btcbt.cli.predict import predict_command
from btcbt.cli.push import push_command
from btcbt.cli.register import register_command
from btcbt.cli.report import report_command
from btcbt.cli.run import run_command
from btcbt.cli.schema import schema_command
from btcbt.cli.store import store_app
from btcbt.cli.sweep import sweep_command

SECTIONS = {
    "Experiments": ("run", "init", "sweep", "register", "audit", "check", "compare", "report", "schema"),
    "Forecasts and models": ("predict", "finetune", "card", "push"),
    "Data": ("data", "store"),
}
"""The order and the headings of the commands in the help."""


class Commands(TyperGroup):
    """The commands in the order of `SECTIONS`.

    Depending on its version, typer brings its own copy of click, so click's types are not named here.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of the commands."""
        return [name for names in SECTIONS.values() for name in names]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings."""
        for title, names in SECTIONS.items():
            commands = {name: self.get_command(ctx, name) for name in names}
            width = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
            rows = [(name, command.get_short_help_str(width)) for name, command in commands.items() if command]
            with formatter.section(title):
                formatter.write_dl(rows)


app = typer.Typer(
    name="btcbt",
    cls=Commands,
    add_completion=True,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run", epilog="Example: btcbt run experiments/walkforward.yaml")(run_command)
app.command("init", epilog="Example: btcbt init my-study")(init_command)
app.command("schema", epilog="Example: btcbt schema > experiment.json")(schema_command)
app.command("sweep", epilog="Example: btcbt sweep experiments/sweep.yaml")(sweep_command)
app.command("register", epilog="Example: btcbt register study.yaml")(register_command)
app.command("audit", epilog="Example: btcbt audit experiments/walkforward.yaml")(audit_command)
app.command("check", epilog="Example: btcbt check runs/walkforward --baseline baseline.json")(check_command)
app.command("compare", epilog="Example: btcbt compare runs/walkforward runs/refit")(compare_command)
app.command("report", epilog="Example: btcbt report runs/walkforward")(report_command)
app.command("predict", epilog="Example: btcbt predict bundled:BTCUSD_1h --horizon 24")(predict_command)
app.command("finetune", epilog="Example: btcbt finetune recipe.yaml")(finetune_command)
app.command("card", epilog="Example: btcbt card checkpoints/mine --metrics runs/walkforward")(card_command)
app.command("push", epilog="Example: btcbt push checkpoints/mine --repo me/mine --private")(push_command)
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"btcbt {version('btcbt')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Walk-forward backtests of candle forecasters: is there an edge after costs?"""
    del version  # handled by its callback


def main() -> None:
    """Entry point of ``btcbt`` and of ``python -m btcbt``."""
    app(prog_name="btcbt")
