"""An experiment as a mapping: read like its file, its errors name the key, and frozen through and through."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import btcbt
from btcbt.config import RunConfig, load_config
from btcbt.config.yaml import plain, read_yaml
from btcbt.errors import BtcbtError, ConfigError

ROOT = Path(__file__).resolve().parents[3]
TREE: dict[str, Any] = {
    "name": "trial",
    "candles": {"path": "bundled:BTCUSD_1h"},
    "windows": {"start": "2019-06-01", "end": "2019-06-08", "context": 48, "horizon": 6},
    "forecasters": {"smooth": {"kind": "ewma_volatility", "decay": 0.9}},
    "strategies": {"mine": {"use": "threshold", "params": {"levels": [1, {"deep": [2]}]}, "forecasters": ["smooth"]}},
}


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("walk*.yaml")), ids=lambda file: file.name)
def test_a_mapping_is_the_experiment_of_a_file_that_holds_it(file: Path) -> None:
    tree = plain(read_yaml(file))
    assert load_config(tree) == load_config(file)
    assert load_config(tree).digest() == load_config(file).digest()


def test_the_types_of_python_are_taken_for_those_of_a_file() -> None:
    windows = TREE["windows"] | {"horizon": np.int64(6)}
    smooth = {"kind": "ewma_volatility", "decay": np.float32(0.5)}
    mine = TREE["strategies"]["mine"] | {"forecasters": ("smooth",)}
    changed = {"windows": windows, "forecasters": {"smooth": smooth}, "strategies": {"mine": mine}}
    config = load_config(MappingProxyType(TREE | changed | {"store": {"root": Path("there")}}))
    assert config.windows.horizon == 6
    assert config.forecasters["smooth"].decay == 0.5  # type: ignore[union-attr]
    assert config.strategies == load_config(TREE).strategies
    assert config.store.root == "there"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategiez": {}}, "experiment: unknown key 'strategiez' .did you mean 'strategies'"),
        ({"windows": TREE["windows"] | {"horizon": "6"}}, "experiment: 'windows.horizon': .* integer, got '6'"),
        ({"windows": {"context": 48}}, "experiment: 'windows.horizon' is missing; add it"),
        ({"forecasters": {"a": {"kind": "kronoz"}}}, "experiment: 'forecasters.a': .*did you mean 'kronos'"),
        ({"strategies": {"a": {"use": "flat", "params": {"x": object()}}}}, "'strategies.a.params': values that JSON"),
        ({1: 2}, "experiment: .*"),
    ],
)
def test_an_error_in_a_mapping_names_the_key(change: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        btcbt.run(TREE | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [5, None, ["a"]])
def test_what_is_no_experiment_is_refused_in_a_line(given: Any) -> None:
    with pytest.raises(BtcbtError, match="the path of a file or a mapping is expected, got"):
        btcbt.run(given)


def test_a_mapping_inside_of_itself_is_refused() -> None:
    tree = deepcopy(TREE)
    tree["strategies"]["mine"]["params"]["again"] = tree
    with pytest.raises(ConfigError, match="inside of itself"):
        load_config(tree)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.strategies["mine"].params.update(levels=3),
        lambda config: config.strategies["mine"].params.__setitem__("levels", 3),
        lambda config: config.strategies["mine"].params.__ior__({"levels": 3}),
        lambda config: config.strategies["mine"].params.setdefault("new", 3),
        lambda config: config.strategies["mine"].params.pop("levels"),
        lambda config: config.strategies["mine"].params["levels"].append(3),
        lambda config: config.strategies["mine"].params["levels"].sort(),
        lambda config: config.strategies["mine"].params["levels"].__iadd__([3]),
        lambda config: config.strategies["mine"].params["levels"][1]["deep"].__setitem__(0, 3),
        lambda config: config.strategies["mine"].params["levels"][1].clear(),
        lambda config: config.strategies.clear(),
        lambda config: config.forecasters.__delitem__("smooth"),
    ],
)
def test_nothing_inside_of_a_configuration_can_be_changed(change: Callable[[RunConfig], object]) -> None:
    config = load_config(TREE)
    digest = config.digest()
    with pytest.raises(TypeError, match="a configuration is frozen; change the mapping or file that it is made of"):
        change(config)
    assert config == load_config(TREE)
    assert config.digest() == digest


def test_every_method_that_changes_a_dict_or_a_list_is_refused() -> None:
    config = load_config(TREE)
    for value, kind in ((config.strategies, dict), (config.strategies["mine"].params["levels"], list)):
        own = {name for name in vars(type(value)) if callable(getattr(type(value), name))}
        reads = {"copy", "count", "fromkeys", "get", "index", "items", "keys", "values"}
        changes = {name for name in vars(kind) if not name.startswith("_")} - reads
        assert changes | {"__setitem__", "__delitem__"} <= own


def test_a_frozen_configuration_is_copied_pickled_and_written_like_any_other() -> None:
    config = load_config(TREE)
    for copy in (pickle.loads(pickle.dumps(config)), deepcopy(config), config.model_copy(deep=True)):  # noqa: S301
        assert copy == config
        with pytest.raises(TypeError):
            copy.strategies["mine"].params["levels"].append(3)
    assert json.loads(config.model_dump_json())["strategies"]["mine"]["params"] == TREE["strategies"]["mine"]["params"]
    config.model_dump()["strategies"]["mine"]["params"]["levels"] = 3  # a copy to change


def test_the_mapping_that_an_experiment_was_made_of_stays_free() -> None:
    tree = deepcopy(TREE)
    config = load_config(tree)
    tree["strategies"]["mine"]["params"]["levels"].append(3)
    assert config.strategies["mine"].params["levels"] == [1, {"deep": [2]}]
