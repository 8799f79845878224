"""What every strategy of the project holds to; a new file in btcbt/strategies/ is tested without a line here."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest

from btcbt.records import Forecast, Forecasts, Holding, Window
from btcbt.strategies import Strategy
from btcbt.strategies.loading import BUILT_IN, load_strategy
from btcbt.walkforward.decisions import decide_all

HOUR = 3_600_000
START = 1_559_347_200_000
FILES = [Path(inspect.getfile(type(load_strategy(use)))) for use in BUILT_IN]
ALLOWED_IMPORTS = {
    "btcbt.strategies.base",
    "btcbt.strategies.thresholds",
    "collections.abc",
    "btcbt.errors",
    "btcbt.records",
    "numpy",
    "pydantic",
    "typing",
    "__future__",
}
WITHOUT_FORECAST = {"buy_and_hold", "flat", "momentum"}


USES = list(BUILT_IN)
every_strategy = pytest.mark.parametrize("use", USES)


def variants(use):
    """The strategy with its defaults and, where it can, with shorts and with other choices."""
    fields = type(load_strategy(use)).Params.model_fields
    yield {}
    if "allow_short" in fields:
        yield {"allow_short": True}
    if "signal" in fields:
        yield {"signal": "expected", "allow_short": True}


def make_forecast(paths, past, hour=0):
    open_time = START + HOUR * (hour + np.arange(len(past), dtype=np.int64))
    values = np.repeat(np.asarray(past, dtype=np.float64)[:, None], 6, axis=1)
    values.setflags(write=False)
    return Forecast(Window(open_time, values, HOUR), np.repeat(paths[:, :, None], 6, axis=2).astype(np.float32))


def forecasts(rng):
    """Random, constant and extreme futures after random, constant and extreme pasts."""
    pasts = [
        8000 * np.exp(np.cumsum(rng.normal(0, 0.01, 64))),
        np.full(64, 8000.0),
        np.geomspace(1e-6, 1e9, 64),
        np.geomspace(1e9, 1e-6, 64),
    ]
    hour = itertools.count()
    for past in pasts:
        last = past[-1]
        futures = [last * np.exp(np.cumsum(rng.normal(rng.normal(0, 0.01), 0.01, (30, 24)), axis=1)) for _ in range(20)]
        futures += [np.full((30, 24), last), np.full((1, 1), last * 1.01), np.full((5, 3), last * 0.9)]
        futures += [
            np.full((30, 24), 1e-30),
            np.full((30, 24), 1e30),
            last * np.geomspace(1e-9, 1e9, 60).reshape(20, 3),
        ]
        # A network can sample a price below zero.
        futures += [
            np.full((30, 24), -last),
            np.where(np.arange(30)[:, None] < 3, -0.1, 1.05) * np.full((30, 24), last),
        ]
        yield from (make_forecast(paths, past, next(hour)) for paths in futures)


HOLDINGS = [Holding(), Holding(1.0, 9), Holding(-1.0, 9), Holding(0.37, 1), Holding(-1e-9, 1)]


def test_there_is_one_strategy_in_each_file():
    for file in FILES:
        module = importlib.import_module(f"btcbt.strategies.{file.stem}")
        own = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
        assert sum(issubclass(one, Strategy) for one in own) == 1
    assert len(USES) == len(set(FILES)) >= 8


@every_strategy
def test_decisions_are_finite_and_within_bounds_on_any_paths(use, rng):
    asked = list(forecasts(rng))
    for params in variants(use):
        strategy = load_strategy(use, params)
        targets = decide_all(strategy, asked)
        assert np.all(np.abs(targets) <= 1)
        for forecast, holding in itertools.product(asked, HOLDINGS):
            assert -1 <= strategy.decide(forecast, holding) <= 1, (params, holding)


@every_strategy
def test_decisions_depend_on_their_arguments_alone(use, rng):
    questions = list(itertools.product(forecasts(rng), HOLDINGS))
    for params in variants(use):
        strategy = load_strategy(use, params)
        in_order = [strategy.decide(*question) for question in questions]
        shuffled = rng.permutation(len(questions))
        again = {index: strategy.decide(*questions[index]) for index in shuffled}
        fresh = [load_strategy(use, params).decide(*question) for question in questions[:40]]
        assert [again[index] for index in range(len(questions))] == in_order
        assert fresh == in_order[:40]


@every_strategy
def test_no_strategy_changes_what_it_is_shown(use, rng):
    strategy = load_strategy(use)
    for forecast in forecasts(rng):
        before = forecast.paths.copy()
        strategy.decide(forecast, Holding())
        assert np.array_equal(forecast.paths, before)


@every_strategy
def test_shorts_are_off_by_default(use, rng):
    assert np.all(decide_all(load_strategy(use), forecasts(rng)) >= 0)


@every_strategy
def test_a_settled_target_is_repeated_exactly(use, rng):
    """Equal questions give equal floats, so that no order is sent for a rounding."""
    for params in variants(use):
        strategy = load_strategy(use, params)
        for forecast in forecasts(rng):
            first = strategy.decide(forecast, Holding())
            settled = strategy.decide(forecast, Holding(first, 1))
            assert strategy.decide(forecast, Holding(settled, 2)) == settled


@every_strategy
def test_those_that_need_no_forecast_are_the_only_ones_that_ignore_it(use, rng):
    strategy = load_strategy(use)
    past = 8000 * np.exp(np.cumsum(rng.normal(0, 0.01, 64)))
    rise, fall = (make_forecast(np.full((5, 24), past[-1] * factor), past) for factor in (1.2, 0.8))
    same = strategy.decide(rise, Holding()) == strategy.decide(fall, Holding())
    assert same == (use in WITHOUT_FORECAST)


@every_strategy
def test_parameters_are_closed_and_described(use):
    schema = type(load_strategy(use)).Params
    with pytest.raises(ValueError, match="Extra inputs"):
        schema(no_such_parameter=1)
    for name, field in schema.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_strategy_file_imports_little_and_has_a_docstring(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported <= ALLOWED_IMPORTS


@every_strategy
def test_deciding_for_many_parameters_at_once_equals_deciding_alone(use, rng):
    strategies = [load_strategy(use, params) for params in variants(use)] * 2
    past = 8000 * np.exp(np.cumsum(rng.normal(0, 0.01, 80)))
    paths = 8000 * np.exp(rng.normal(0, 0.01, (40, 7, 1)) + np.cumsum(rng.normal(0, 0.01, (40, 7, 5)), axis=2))
    several = [make_forecast(one, past[hour : hour + 40], hour) for hour, one in enumerate(paths)]
    parts, weights = [], np.zeros(len(strategies))
    for some in (several[:17], several[17:]):
        block = Forecasts([one.window for one in some], np.array([one.paths for one in some]))
        decided = type(strategies[0]).decide_many(block, weights, [one.params for one in strategies])
        if decided is None:
            pytest.skip("decides at one origin at a time")
        parts.append(decided)
        weights = decided[-1]
    for column, strategy in zip(np.concatenate(parts).T, strategies, strict=True):
        np.testing.assert_array_equal(column, decide_all(strategy, several))
