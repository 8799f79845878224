from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module

import pytest
from pydantic import TypeAdapter

from btcbt.config import KINDS, ForecasterConfig, WindowsConfig
from btcbt.forecasters import Forecaster, create_forecaster
from btcbt.forecasters.ewma_volatility import EwmaVolatility

WINDOWS = WindowsConfig(
    context=128, horizon=12, start=datetime(2019, 6, 1, tzinfo=UTC), end=datetime(2019, 7, 1, tzinfo=UTC)
)
BASELINES = ("random_walk", "drift", "ewma_volatility", "garch")


def config(kind: str, **parameters: object) -> ForecasterConfig:
    return TypeAdapter(ForecasterConfig).validate_python({"kind": kind, **parameters})


def test_the_baselines_kronos_and_the_calibrated_are_all_the_kinds() -> None:
    assert set(KINDS) == {*BASELINES, "kronos", "kronos_anchored", "calibrated"}


@pytest.mark.parametrize("kind", BASELINES)
def test_a_forecaster_takes_its_shape_from_the_experiment(kind: str) -> None:
    forecaster = create_forecaster(config(kind, n_paths=7, batch_size=3), WINDOWS, 99)
    shape = (forecaster.context, forecaster.horizon, forecaster.n_paths, forecaster.seed)
    assert shape == (128, 12, 7, 99)
    assert forecaster.batch_size == 3
    assert create_forecaster(config(kind), WINDOWS, 99).batch_size == 64
    assert forecaster.data_ranges() == ()


@pytest.mark.parametrize("kind", BASELINES)
def test_an_identity_is_json_and_changes_with_whatever_changes_the_paths(kind: str) -> None:
    def identity(seed: int = 1, windows: WindowsConfig = WINDOWS, **parameters: object) -> str:
        forecaster = create_forecaster(config(kind, **parameters), windows, seed)
        return json.dumps(dict(forecaster.identity()), sort_keys=True)

    same = identity()
    assert json.loads(same)["kind"] == kind
    assert json.loads(same)["version"] >= 1
    assert identity(batch_size=5) == same
    others = [
        identity(seed=2),
        identity(n_paths=31),
        identity(windows=WINDOWS.model_copy(update={"horizon": 13})),
        identity(windows=WINDOWS.model_copy(update={"context": 129})),
    ]
    assert len({same, *others}) == 5


def test_the_kinds_have_identities_of_their_own() -> None:
    texts = {json.dumps(dict(create_forecaster(config(kind), WINDOWS, 0).identity())) for kind in BASELINES}
    assert len(texts) == len(BASELINES)


def test_the_decay_reaches_the_forecaster_and_its_identity() -> None:
    forecaster = create_forecaster(config("ewma_volatility", decay=0.9), WINDOWS, 0)
    assert isinstance(forecaster, EwmaVolatility)
    assert forecaster.decay == 0.9
    assert forecaster.identity()["decay"] == 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_each_schema_names_a_class_that_exists(kind: str) -> None:
    module, _, name = config(kind, **({"base": "x"} if kind == "calibrated" else {})).builds.partition(":")
    assert issubclass(getattr(import_module(module), name), Forecaster)


def test_importing_forecasters_loads_neither_torch_nor_arch() -> None:
    code = "import sys, btcbt.forecasters; sys.exit(len({'torch', 'arch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
