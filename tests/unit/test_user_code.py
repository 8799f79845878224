"""Code of users that raises what it should not: one line, exit code 2, and nothing that a terminal would obey."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.table import Table

from btcbt.cli.terminal import console, guarded
from btcbt.config.experiment import StrategyConfig
from btcbt.errors import BtcbtError, StrategyError
from btcbt.messages import describe, printable, short
from btcbt.records import Forecast, Window
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward.decisions import decide_all

HEAD = "from btcbt.strategies import Params, Strategy\n"
DECIDES = {
    "sys.exit": "import sys; sys.exit(7)",
    "BaseException": "raise BaseException('x')",
    "GeneratorExit": "raise GeneratorExit",
    "an error that cannot be shown": "raise Shy",
    "a value that cannot be shown": "return Mute()",
    "a number that cannot be compared": "return Odd(0.5)",
}
CLASSES = """
class Shy(Exception):
    def __str__(self): raise RuntimeError
class Mute:
    def __repr__(self): raise RuntimeError
class Odd(float):
    def __ge__(self, other): raise RuntimeError
    __le__ = __ge__
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def put(source: str) -> str:
        file = tmp_path / "mine.py"
        file.write_text(HEAD + source)
        return f"{file}:Mine"

    return put


@pytest.mark.parametrize("decide", DECIDES)
def test_whatever_a_strategy_raises_names_it_and_the_origin(
    write: Callable[[str], str], make_windows: Callable[..., list[Window]], decide: str
) -> None:
    use = write(
        f"{CLASSES}\nclass Mine(Strategy):\n    def decide(self, forecast, holding):\n        {DECIDES[decide]}\n"
    )
    forecast = Forecast(make_windows(1, 5)[0], np.ones((2, 3, 6), dtype=np.float32))
    with pytest.raises(StrategyError, match=r"strategy 'mine' (failed )?at 2019-01-01T05:00Z") as raised:
        decide_all(load_strategy(use), [forecast], name="mine")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "source",
    [
        "raise BaseException('x')",
        "raise SystemExit(7)",
        "class Mine(Strategy):\n    def __init__(self, p): raise SystemExit(7)\n    def decide(self, f, h): return 0.0",
        "class P(Params):\n    x: object = object()\n"
        "class Mine(Strategy):\n    Params = P\n    def decide(self, f, h): return 0.0",
    ],
    ids=["import", "exit at import", "exit when built", "parameters that JSON cannot hold"],
)
def test_a_strategy_that_cannot_be_loaded_is_named(write: Callable[[str], str], source: str) -> None:
    with pytest.raises(StrategyError, match=r"strategy '.*mine\.py:Mine': "):
        load_strategy(write(source))


def test_ctrl_c_in_a_strategy_is_ctrl_c(write: Callable[[str], str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_strategy(write("raise KeyboardInterrupt"))


@pytest.mark.parametrize("value", [object(), 16**4000, {"a": {1, 2, object()}}], ids=["object", "digits", "set"])
def test_parameters_that_json_cannot_hold_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="values that JSON can hold are expected"):
        StrategyConfig(use="threshold", params={"x": value})


def test_values_that_cannot_be_shown_are_named_by_their_type() -> None:
    assert short(16**4000) == "<int, whose repr() raises ValueError>"
    assert describe(16**4000).endswith("(int)")


ATTACK = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202eabc\r\b"


def is_plain(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


def test_no_error_and_no_warning_moves_the_cursor_of_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with guarded(console(stderr=True), "again"):
            logging.getLogger("btcbt.any").warning("note %s", ATTACK)
            raise BtcbtError(f"bad {ATTACK}")

    with pytest.raises(typer.Exit):
        command()
    shown = capsys.readouterr().err
    assert "warning: note ?]0;title" in shown
    assert "error: bad ?]0;title" in shown
    assert is_plain(shown)


def test_no_table_does_either(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    table.add_row(ATTACK)
    console(stderr=True).print(table, ATTACK)
    shown = capsys.readouterr().err
    assert "?[31mred" in shown
    assert is_plain(shown)


def test_what_can_be_printed_is_left_as_it_is() -> None:
    text = "Zürich ±3 % — 比特币 │ ✓\nnext line"
    assert printable(text) == text


def test_a_disk_that_refuses_ends_a_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, guarded(console(stderr=True), "again"):
        raise OSError(28, "No space left on device")
    assert ended.value.exit_code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
