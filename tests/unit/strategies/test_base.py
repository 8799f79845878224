"""Loading a strategy and asking it: what is accepted, and what each error says."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from pydantic import Field

from btcbt.errors import StrategyError
from btcbt.records import Forecast, Holding, Window
from btcbt.strategies import Params, Strategy
from btcbt.strategies.loading import BUILT_IN, load_strategy
from btcbt.walkforward.decisions import decide_all

HOUR = 3_600_000
START = 1_559_347_200_000  # 2019-06-01T00:00Z


def forecast_at(hour):
    open_time = START + HOUR * np.arange(hour - 3, hour, dtype=np.int64)
    return Forecast(Window(open_time, np.full((3, 6), 100.0), HOUR), np.full((2, 4, 6), 100.0, dtype=np.float32))


class Scripted(Strategy):
    """Returns what it was given, in turn; keeps what it was told."""

    def __init__(self, decisions):
        super().__init__()
        self.decisions = list(decisions)
        self.told: list[Holding] = []

    def decide(self, forecast, holding):
        self.told.append(holding)
        decision = self.decisions[len(self.told) - 1]
        return decision() if callable(decision) else decision


def ask(decisions, hours=None):
    strategy = Scripted(decisions)
    hours = range(len(decisions)) if hours is None else hours
    return decide_all(strategy, (forecast_at(hour) for hour in hours), name="mine"), strategy.told


# Deciding


def test_targets_come_back_in_order_as_float64():
    targets, _ = ask([0.5, 1, np.float32(-0.25), np.int64(0), -1.0])
    assert targets.dtype == np.float64
    assert targets.tolist() == [0.5, 1.0, -0.25, 0.0, -1.0]


def test_the_holding_is_the_last_decided_target_and_its_age_counts_candles_since_its_sign_changed():
    _, told = ask([0.5, 1.0, -1.0, 0.0, 0.0, 0.2], hours=[0, 1, 4, 5, 6, 9])
    assert [holding.weight for holding in told] == [0.0, 0.5, 1.0, -1.0, 0.0, 0.0]
    assert [holding.candles_held for holding in told] == [0, 1, 4, 1, 1, 4]


def test_no_forecasts_give_no_targets():
    assert ask([])[0].shape == (0,)


@pytest.mark.parametrize(
    ("decision", "shown"),
    [
        (float("nan"), r"nan \(float\)"),
        (float("inf"), r"inf \(float\)"),
        (7, r"7 \(int\)"),
        (-1.0000001, r"-1.0000001 \(float\)"),
        (None, "None"),
        ("long", r"'long' \(str\)"),
        (True, r"True \(bool\)"),
        (np.array([0.5]), r"array\(\[0.5\]\) \(ndarray\)"),
        (0.5 + 0j, r"\(0.5\+0j\) \(complex\)"),
    ],
)
def test_a_decision_that_is_no_target_names_strategy_origin_and_value(decision, shown):
    with pytest.raises(StrategyError) as caught:
        ask([0.5, decision])
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("strategy 'mine' at 2019-06-01T01:00Z: decide returned ")
    assert message.endswith("; expected a finite number in [-1, 1]")
    assert re.search(f"returned {shown}; expected", message)


def test_an_error_inside_decide_names_its_place_and_keeps_its_cause():
    def fail():
        return 1 / 0

    with pytest.raises(
        StrategyError, match=r"'mine' failed at 2019-06-01T00:00Z: ZeroDivisionError: .*py:\d+"
    ) as caught:
        ask([fail])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "test_base.py" in str(caught.value)


def test_a_strategy_error_inside_decide_is_told_once_with_its_origin():
    def fail():
        raise StrategyError("lookback 9 is too long")

    with pytest.raises(StrategyError, match=r"^strategy 'mine' at 2019-06-01T00:00Z: lookback 9 is too long$"):
        ask([fail])


def test_origins_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="increase"):
        ask([0.0, 0.0], hours=[3, 3])


def test_the_class_names_a_strategy_that_was_given_no_name():
    with pytest.raises(StrategyError, match="strategy 'Scripted'"):
        decide_all(Scripted([2]), [forecast_at(0)])


# Loading

MINE = """
from pydantic import Field
from btcbt.strategies import Params, Strategy

class MineParams(Params):
    level: float = Field(0.5, ge=0, le=1)
    name: str = "x"

class Mine(Strategy):
    Params = MineParams

    def decide(self, forecast, holding):
        return self.params.level

class Nested(Strategy):
    class Params(Params):
        level: int

    def decide(self, forecast, holding):
        return self.params.level

class Incomplete(Strategy):
    pass

class Unbuildable(Strategy):
    def __init__(self, params):
        raise RuntimeError("no luck")

    def decide(self, forecast, holding):
        return 0.0

class PlainParams(Mine):
    Params = dict

def function():
    return 0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder, the current directory, without traces in the import system afterwards."""
    (tmp_path / "my_strategies.py").write_text(MINE)
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "my_own.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("x = (\n")
    (tmp_path / "failing.py").write_text("import math\n\nvalue = math.sqrt(-1)\n")
    (tmp_path / "exiting.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "needing.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "strategies" / "my_failing.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_strategy_of_the_project_is_loaded_with_its_defaults():
    strategy = load_strategy("threshold")
    assert type(strategy).__name__ == "Threshold"
    assert strategy.params == type(strategy).Params()


def test_a_users_class_in_the_current_directory_plugs_in(folder):
    strategy = load_strategy("my_strategies:Mine", {"level": 0.25})
    assert decide_all(strategy, [forecast_at(0)]).tolist() == [0.25]


def test_a_users_folder_named_like_the_projects_own_plugs_in_too(folder):
    assert load_strategy("strategies.my_own:Mine", {"level": 1}).decide(forecast_at(0), Holding()) == 1.0
    assert type(load_strategy("threshold")).__module__ == "btcbt.strategies.threshold"


def test_a_users_file_plugs_in_by_its_path(folder):
    for use in ("my_strategies.py:Mine", str(folder / "strategies" / "my_own.py") + ":Mine"):
        assert load_strategy(use, {"level": 0.75}).decide(forecast_at(0), Holding()) == 0.75


def test_a_file_in_the_current_directory_does_not_shadow_an_installed_module(folder):
    (folder / "joblib.py").write_text("raise RuntimeError('shadowed')")
    with pytest.raises(StrategyError, match=r"site-packages.* has no class 'Mine'"):
        load_strategy("joblib:Mine")


def test_every_short_name_is_the_name_of_a_file(folder):
    assert {"threshold", "kelly", "flat", "volatility_target"} < set(BUILT_IN)
    for use in BUILT_IN:
        assert isinstance(load_strategy(use), Strategy)


def test_parameters_may_be_a_nested_class(folder):
    assert load_strategy("my_strategies:Nested", {"level": 1}).decide(forecast_at(0), Holding()) == 1


@pytest.mark.parametrize(
    ("use", "params", "says"),
    [
        (
            "my_strategies",
            {},
            r"no such built-in strategy; the built-in ones are buy_and_hold, .*such as 'my_strategies.py:Mine'",
        ),
        (
            "treshold",
            {},
            r"no such built-in strategy \(did you mean 'threshold'\?\); the built-in ones are buy_and_hold, ",
        ),
        ("no_such_folder/mine.py:Mine", {}, "there is no file .*no_such_folder/mine.py; correct the path"),
        ("broken.py:Mine", {}, r"cannot be imported: SyntaxError: .*broken.py:1\)"),
        ("my strategies:Mine", {}, "'my strategies' is not a module name; expected 'module:Class'"),
        (
            "no_such_module:Mine",
            {},
            "there is no module 'no_such_module' .* run from the folder that holds it",
        ),
        ("strategies.no_such:Mine", {}, "there is no module 'strategies.no_such'"),
        ("broken:Mine", {}, r"cannot be imported: SyntaxError: .*broken.py:1\)"),
        ("failing:Mine", {}, r"cannot be imported: ValueError: .*failing.py:3\)"),
        ("exiting:Mine", {}, r"cannot be imported: SystemExit: 0 .*exiting.py:1\)"),
        ("needing:Mine", {}, r"No module named 'no_such_package_at_all' .*needing.py:1\); install it"),
        ("strategies.my_failing:Mine", {}, r"cannot be imported: ZeroDivisionError: .*my_failing.py:1\)"),
        (
            "my_strategies:Mien",
            {},
            "my_strategies.py has no class 'Mien'; its strategies are Incomplete, Mine, ",
        ),
        ("my_strategies:function", {}, "expected a subclass of btcbt.strategies.base.Strategy"),
        ("my_strategies:MineParams", {}, "expected a subclass of btcbt.strategies.base.Strategy"),
        ("my_strategies:Incomplete", {}, "'Incomplete' lacks decide; define it"),
        ("my_strategies:Unbuildable", {}, r"cannot be built: RuntimeError: no luck .*my_strategies.py:\d+"),
        (
            "my_strategies:PlainParams",
            {},
            "Params is <class 'dict'> .*; derive it from btcbt.strategies.Params",
        ),
        ("my_strategies:Mine", {"levle": 0.1}, r"unknown parameter 'levle' \(did you mean 'level'\?\)"),
        ("my_strategies:Mine", {"level": 2.0}, "parameter 'level': .* less than or equal to 1, got 2.0"),
        ("my_strategies:Mine", {"level": "0.5"}, "parameter 'level': .* valid number, got '0.5'"),
        ("my_strategies:Mine", {"level": float("nan")}, "parameter 'level': .* finite number, got nan"),
        ("my_strategies:Mine", {"level": 2.0, "name": 3}, r"got 2.0 \(and 1 more\)"),
        ("my_strategies:Nested", {}, "parameter 'level' is missing; add it"),
        (
            "threshold",
            {"entry_bps": 1, "exit_bps": 2},
            "exit_bps 2 is not below entry_bps 1",
        ),
    ],
)
def test_what_cannot_be_loaded_is_explained_in_one_line(folder, use, params, says):
    with pytest.raises(StrategyError, match=says) as caught:
        load_strategy(use, params)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"strategy '{use}': ")
    assert caught.value.exit_code == 2


def test_a_module_that_failed_once_is_not_left_half_imported(folder):
    for _ in range(2):
        with pytest.raises(StrategyError, match="ZeroDivisionError"):
            load_strategy("strategies.my_failing:Mine")
    assert "strategies.my_failing" not in sys.modules


def test_a_strategy_must_define_decide():
    with pytest.raises(TypeError, match="decide"):
        Strategy()


def test_parameters_are_closed_and_frozen():
    class Mine(Params):
        level: float = Field(0.5, ge=0)

    with pytest.raises(ValueError, match="extra"):
        Mine(levle=1.0)
    with pytest.raises(ValueError, match="frozen"):
        Mine().level = 1.0


def test_loading_a_strategy_imports_neither_torch_nor_vectorbt_nor_pandas():
    code = (
        "import sys; from btcbt.strategies.loading import load_strategy; load_strategy('kelly');"
        "print(sorted({'torch', 'vectorbt', 'pandas'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
