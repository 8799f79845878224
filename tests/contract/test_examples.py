"""The worked examples in strategies/: each runs as its docstring says, passes the audit, and keeps to its rule."""

from __future__ import annotations

import ast
import importlib
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

import btcbt
from btcbt.audit import audit_experiment
from btcbt.config import load_config
from btcbt.errors import StrategyError
from btcbt.records import AMOUNT, HIGH, LOW, VOLUME, Forecast, Holding, Window
from btcbt.strategies import Strategy
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward.decisions import decide_all

ROOT = Path(__file__).parents[2]
FILES = sorted(file for file in (ROOT / "strategies").glob("*.py") if file.stem != "__init__")
HOUR = 3_600_000
START = 1_559_347_200_000
SYMBOLS = {"ensemble": "Ensemble", "stateful": "Smoothed", "volatility_stop": "VolatilityStop"}
EXPERIMENT = """\
name: examples
candles: {{path: bundled:BTCUSD_1h, interval: 1h}}
windows: {{start: 2019-06-18, end: 2019-06-21, context: 60, horizon: 24}}
forecasters:
  walk: {{kind: random_walk, n_paths: 12}}
strategies:
  {name}: {strategy}
store: {{root: {root}, shard_size: 50}}
seed: 3
"""

every_example = pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])


def documented(file: Path) -> tuple[str, str, dict[str, Any]]:
    """Name, ``module:Class`` and parameters of the strategy in the YAML of a file's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    block = docstring.partition("::\n")[2].lstrip("\n")
    lines = block.split("\n\n")[0]
    (entry,) = YAML(typ="safe").load(textwrap.dedent(lines))["strategies"].items()
    name, value = entry
    path, _, class_name = value["use"].partition(":")
    assert path == f"strategies/{file.name}"
    return name, f"strategies.{file.stem}:{class_name}", value.get("params", {})


def write(tmp_path: Path, name: str, use: str, params: dict[str, Any]) -> Path:
    file = tmp_path / "examples.yaml"
    strategy = f'{{use: "{use}", params: {params}}}'.replace("'", "")
    file.write_text(EXPERIMENT.format(name=name, strategy=strategy, root=tmp_path / "runs"))
    return file


def make_forecast(returns: Any, *, past: Any = (100.0,) * 30, hour: int = 0, spread: float = 0.0) -> Forecast:
    """Paths of one step each with the given returns, after closes `past`; highs and lows `spread` around them."""
    close = np.asarray(past, dtype=np.float64)
    values = np.repeat(close[:, None], 6, axis=1)
    values[:, HIGH] += spread
    values[:, LOW] -= spread
    values[:, VOLUME] = values[:, AMOUNT] = 1.0
    open_time = START + HOUR * (hour + np.arange(len(close), dtype=np.int64))
    paths = close[-1] * (1 + np.asarray(returns, dtype=np.float64))
    paths = paths[:, None] if paths.ndim == 1 else paths
    return Forecast(Window(open_time, values, HOUR), np.repeat(paths[:, :, None], 6, axis=2).astype(np.float32))


def load(stem: str, **params: Any) -> Strategy:
    return load_strategy(f"strategies.{stem}:{SYMBOLS[stem]}", params)


def test_there_are_examples() -> None:
    assert {file.stem for file in FILES} >= set(SYMBOLS)


@every_example
def test_an_example_runs_and_trades_as_its_docstring_says(file: Path, tmp_path: Path) -> None:
    name, use, params = documented(file)
    run = btcbt.run(write(tmp_path, name, use, params))
    targets = run.targets()[f"{name}@walk"].to_numpy()
    assert len(targets) == 72
    assert np.all(np.abs(targets) <= 1)
    assert len(np.unique(targets)) > 1
    assert run.manifest["strategies"][f"{name}@walk"]["source_sha256"]


@every_example
def test_an_example_passes_the_audit(file: Path, tmp_path: Path) -> None:
    report = audit_experiment(load_config(write(tmp_path, *documented(file))), sample=3, fresh_process=False)
    assert report.findings == ()
    assert report.comparisons["strategy"] > 0


@every_example
def test_an_example_imports_only_the_protocol_and_numerical_libraries(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported <= {"btcbt.errors", "btcbt.records", "btcbt.strategies.base", "numpy", "pydantic", "typing"}


@every_example
def test_every_parameter_of_an_example_is_described(file: Path) -> None:
    _, use, _ = documented(file)
    for name, field in type(load_strategy(use)).Params.model_fields.items():
        assert field.description, name


def test_the_ensemble_averages_its_votes() -> None:
    # Mean +50 bps: a rise. 3 of 5 paths rise: exactly the margin, so no vote. Tails: -200 bps against +400: a rise.
    forecast = make_forecast([0.04, 0.02, 0.005, -0.02, -0.02])
    votes = {rule: load("ensemble", rules=[rule], tail=0.25) for rule in ("mean", "probability", "tails")}
    assert [votes[rule].decide(forecast, Holding()) for rule in votes] == [1.0, 0.0, 0.0]
    assert load("ensemble", tail=0.01).decide(forecast, Holding()) == pytest.approx(2 / 3)


def test_the_ensemble_votes_on_the_steps_that_it_is_told() -> None:
    rising_late = make_forecast([[-0.01, 0.02], [-0.01, 0.02]])
    assert load("ensemble", steps=[1], allow_short=True).decide(rising_late, Holding()) == -1.0
    assert load("ensemble", steps=[2]).decide(rising_late, Holding()) == 1.0
    assert load("ensemble", steps=[1, 2]).decide(rising_late, Holding()) == 0.0
    with pytest.raises(StrategyError, match=r"steps \[3\] exceed the horizon of 2"):
        load("ensemble", steps=[3]).decide(rising_late, Holding())
    with pytest.raises(StrategyError, match=r"steps \[0\] do not exist"):
        load("ensemble", steps=[0])


def test_the_ensemble_ignores_small_changes_but_always_leaves() -> None:
    ensemble = load("ensemble", band=0.5)
    assert ensemble.decide(make_forecast([0.01] * 5), Holding(0.7, 3)) == 0.7
    assert ensemble.decide(make_forecast([-0.01] * 5), Holding(0.3, 3)) == 0.0


def test_the_stop_sizes_a_position_by_the_volatility_of_the_paths() -> None:
    paths = np.array([[0.02, 0.0], [0.0, 0.02]])  # steps of 2 % up, then down, and the reverse
    steps = np.array([[0.02, -0.02], [0.0, 0.02]])
    yearly = np.sqrt(np.mean(steps**2) * 365.25 * 24)
    weight = load("volatility_stop", target=0.3, entry_bps=1.0).decide(make_forecast(paths), Holding())
    assert weight == pytest.approx(0.3 / yearly, rel=1e-5)


@pytest.mark.parametrize(("fall", "held", "kept"), [(3.9, 5, True), (4.1, 5, False), (4.1, 0, True)])
def test_the_stop_trails_the_highest_close_since_the_entry(fall: float, held: int, kept: bool) -> None:
    # Candles from 0.5 above to 0.5 below the close: a true range of 1, but for the last candle, which falls.
    past = np.full(30, 100.0)
    past[-1] = 100.0 - fall
    average_range = (23 + fall + 0.5) / 24
    forecast = make_forecast([0.01] * 5, past=past, spread=0.5)
    stop = load("volatility_stop", stop_ranges=4.0 / average_range, band=1.0)
    assert (stop.decide(forecast, Holding(0.5, held)) > 0) == kept


def test_after_a_stop_the_strategy_stays_out_for_a_while() -> None:
    stop, forecast = load("volatility_stop", wait=6), make_forecast([0.01] * 5)
    weights = [stop.decide(forecast, Holding(0.0, held)) for held in (0, 1, 5, 6)]
    assert [weight > 0 for weight in weights] == [True, False, False, True]


def test_the_smoothed_signal_is_an_exponential_average_over_time(rng: np.random.Generator) -> None:
    hours = np.cumsum(rng.integers(1, 4, 60))  # some origins are missing
    signals = rng.normal(0.002, 0.01, 60)
    forecasts = [make_forecast([signal] * 2, hour=hour) for signal, hour in zip(signals, hours.tolist(), strict=True)]
    smoothed = load("stateful", half_life=3.0, entry_bps=20.0, exit_bps=0.0)
    expected, average, weight = [], 0.0, 0.0
    for index, forecast in enumerate(forecasts):
        signal = float(forecast.returns().mean()) * 1e4
        kept = 0.0 if index == 0 else 2.0 ** (-float(hours[index] - hours[index - 1]) / 3.0)
        average = kept * average + (1 - kept) * signal
        weight = float(average > 0) if weight else float(average >= 20.0)
        expected.append(weight)
    assert decide_all(smoothed, forecasts).tolist() == expected
    assert 0 < sum(expected) < 60
    assert decide_all(smoothed, forecasts).tolist() == expected  # the second walk remembers nothing of the first


WITHOUT_RESET = """\
from strategies.stateful import Smoothed
from btcbt.records import Holding


class Remembers(Smoothed):
    def decide(self, forecast, holding):
        return super().decide(forecast, Holding(holding.weight, holding.candles_held or int(self._origin > 0)))
"""


def test_the_audit_says_of_a_state_that_outlives_its_walk_that_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "remembers.py").write_text(WITHOUT_RESET)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    file = write(tmp_path, "remembers", "remembers:Remembers", {"half_life": 50.0})
    report = audit_experiment(load_config(file), sample=3, fresh_process=False)
    assert [note for note in report.notes if "'remembers@walk' keeps state" in note]
    assert not [one for one in report.decisions if one["trader"] == "remembers@walk"]
