"""The command line's own part: speed, exit codes, where words go."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from btcbt.cli import main as cli
from btcbt.cli import terminal
from btcbt.errors import CheckpointError

HEAVY = ("torch", "vectorbt", "pandas", "numpy", "pyarrow", "matplotlib", "scipy", "transformers")


@pytest.mark.parametrize("code", ["import btcbt", "import btcbt.cli.main", "import btcbt; dir(btcbt)"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    script = f"import json, sys; {code}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    script = f"""
import sys
from btcbt.cli.main import app
try:
    app({arguments!r})
except SystemExit as done:
    assert done.code == 0
assert not [name for name in {HEAVY!r} if name in sys.modules]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "run" in done.stdout


def test_a_mistake_in_an_experiment_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ncandles: {path: x}\nwindows: {start: 2019-06-01, end: 2019-06-02, horizn: 3}\n")
    script = f"""
import sys
from btcbt.cli.main import app
try:
    app(["run", {str(file)!r}])
except SystemExit as done:
    assert done.code == 2
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (
        f"{file}:3: unknown key 'windows.horizn' (did you mean 'horizon'?), and 'context' and 'horizon' are"
        in done.stderr
    )
    assert done.stdout == "[]\n"


def test_the_module_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "btcbt", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: btcbt")


def test_an_error_of_the_user_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(stderr=True, width=40)
    message = "checkpoint x: key 'head.weight' has shape (3, 4),\n  expected (5, 4); " + "download it again " * 5
    with pytest.raises(typer.Exit) as caught, terminal.guarded(console, "again"):
        raise CheckpointError(message)
    assert caught.value.exit_code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {' '.join(message.split())}\n"


def test_an_interrupt_says_how_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, terminal.guarded(Console(stderr=True), "btcbt run [a].yaml"):
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == "interrupted; finished shards are kept; resume with: btcbt run [a].yaml\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), terminal.guarded(Console(stderr=True), "again"):
        raise ZeroDivisionError


def test_warnings_of_the_package_are_shown_while_a_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("btcbt.storage.forecasts")
    with terminal.guarded(Console(stderr=True), "again"):
        logger.warning("shard %s is damaged", "[x]")
        logger.info("not this")
    assert capsys.readouterr().err == "warning: shard [x] is damaged\n"
    assert not any(isinstance(handler, terminal.Warnings) for handler in logging.getLogger("btcbt").handlers)


def test_help_lists_run_first_and_has_an_example_for_every_command() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"]).stdout
    commands = shown[shown.index("Experiments:") :]
    listed = [line.split()[0] for line in commands.splitlines() if line.startswith("  ")]
    assert listed[:2] == ["run", "init"]
    for name in (
        "run",
        "init",
        "schema",
        "sweep",
        "register",
        "predict",
        "finetune",
        "audit",
        "check",
        "card",
        "push",
        "data download",
        "store gc",
    ):
        done = CliRunner().invoke(cli.app, [*name.split(), "--help"])
        assert f"Example: btcbt {name}" in " ".join(done.stdout.split())
        assert name.split()[0] in listed


def test_the_version_is_that_of_the_installed_package() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"btcbt {version('btcbt')}\n")


def test_the_script_and_the_module_run_the_same_function() -> None:
    from btcbt import __main__ as module

    with (Path(__file__).parents[3] / "pyproject.toml").open("rb") as file:
        where, name = tomllib.load(file)["project"]["scripts"]["btcbt"].split(":")
    assert getattr(import_module(where), name) is module.main


def test_quiet_is_an_option_of_run() -> None:
    assert "--quiet" in CliRunner().invoke(cli.app, ["run", "--help"]).stdout


def test_the_shell_completes_commands_and_options() -> None:
    import os

    def completed(words: str) -> str:
        environment = {**os.environ, "_BTCBT_COMPLETE": "complete_bash", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        script = "from btcbt.cli.main import main; main()"
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment).stdout

    assert completed("btcbt re").split() == ["register", "report"]
    assert "--dry-run" in completed("btcbt run --d")
