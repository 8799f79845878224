"""The experiments that ship can be run as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import btcbt
from btcbt.config import RunConfig, load_config, load_experiment
from btcbt.config.sweep import load_sweep
from btcbt.models.kronos.training.recipe import FinetuneConfig
from btcbt.models.kronos.training.start import load_starting_weights
from btcbt.walkforward.panel.traders import make_panel_traders, on_one_symbol
from btcbt.walkforward.traders import make_traders

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.rglob("*.yaml"))
EXPERIMENTS = [file for file in FILES if "\nwindows:" in file.read_text()]
SWEEPS = [file for file in FILES if "\nover:" in file.read_text()]
RECIPES = [file for file in FILES if file not in (*EXPERIMENTS, *SWEEPS)]


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_an_experiment_is_valid_and_its_strategies_can_be_built(file: Path) -> None:
    config = load_experiment(file)
    assert config.name == file.stem
    if isinstance(config, RunConfig):
        traders = [trader.name for trader in make_traders(config)]
    else:
        part = config.of("BTC", on_one_symbol(config), config.windows.start, config.windows.end)
        traders = [trader.name for trader in (*make_traders(part), *make_panel_traders(config))]
    assert {name.partition("@")[0] for name in traders} == set(config.strategies)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_valid_and_its_networks_can_be_built(file: Path) -> None:
    config = load_config(file, FinetuneConfig)
    assert config.name == file.stem
    start = load_starting_weights(config)
    assert start.tokenizer.config.s1_bits == start.model.config.s1_bits


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_sweep_is_valid_and_so_is_the_experiment_of_each_of_its_configurations(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER.parent)
    sweep, experiments = load_sweep(file)
    assert sweep.name == file.stem
    assert len(experiments) > 1


def test_every_experiment_is_in_the_documentation_and_says_what_it_asks_or_makes() -> None:
    page = (FOLDER.parent / "docs/experiments.md").read_text(encoding="utf-8")
    for file in FILES:
        assert file.name in page or (file.parent.name == "sizes" and "experiments/sizes" in page)
    for file in EXPERIMENTS:
        header = "".join(re.findall(r"^#(.*)$", file.read_text(encoding="utf-8").partition("\nname:")[0], re.MULTILINE))
        assert "?" in header or file.parent.name == "sizes", file.name


def test_the_main_experiment_is_the_one_that_the_makefile_runs() -> None:
    assert FOLDER / "walkforward.yaml" in EXPERIMENTS
    assert "experiments/walkforward.yaml" in (FOLDER.parent / "Makefile").read_text()


def test_the_quickstart_runs_as_it_is(tmp_path: Path) -> None:
    config = load_config(FOLDER / "quickstart.yaml")
    store = config.store.model_copy(update={"root": str(tmp_path)})
    run = btcbt.run(config.model_copy(update={"store": store}))
    assert run.manifest["origins"]["eligible"] == 336
    assert run.directory.parent == tmp_path / "quickstart"
    assert 0 < run.metrics["forecast.random_walk.crps_bps.close.h24"] < 1000
