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
from btcbt.forecasters.fitted import FitSchedule, Fitted

WINDOWS = WindowsConfig(
    context=128, horizon=12, start=datetime(2019, 6, 1, tzinfo=UTC), end=datetime(2019, 7, 1, tzinfo=UTC)
)
BASELINES = ("random_walk", "drift", "ewma_volatility", "garch")
QUANTILES = ("fracast", "chronos", "timesfm")
FITTED = ("har", "gjr_garch", "boosted_quantiles")
ON_OTHERS = ("calibrated", "located", "reordered")


def config(kind: str, **parameters: object) -> ForecasterConfig:
    return TypeAdapter(ForecasterConfig).validate_python({"kind": kind, **parameters})


def test_these_are_all_the_kinds() -> None:
    assert set(KINDS) == {*BASELINES, *FITTED, *QUANTILES, *ON_OTHERS, "kronos", "kronos_anchored"}


@pytest.mark.parametrize("kind", BASELINES)
def test_a_forecaster_takes_its_shape_from_the_experiment(kind: str) -> None:
    forecaster = create_forecaster(config(kind, n_paths=7, batch_size=3), WINDOWS, 99)
    shape = (forecaster.context, forecaster.horizon, forecaster.n_paths, forecaster.seed)
    assert shape == (128, 12, 7, 99)
    assert forecaster.batch_size == 3
    assert create_forecaster(config(kind, n_paths=30), WINDOWS, 99).batch_size == 64
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
    module, _, name = config(kind, **({"base": "x"} if kind in ON_OTHERS else {})).builds.partition(":")
    assert issubclass(getattr(import_module(module), name), Forecaster)


@pytest.mark.parametrize("kind", FITTED)
def test_a_fitted_forecaster_takes_shape_schedule_and_parameters_from_its_schema(kind: str) -> None:
    windows = WINDOWS.model_copy(update={"context": 240})
    forecaster = create_forecaster(config(kind, fit={"every": "48h", "embargo": "6h"}), windows, 99)
    assert isinstance(forecaster, Fitted)
    shape = (forecaster.context, forecaster.horizon, forecaster.n_paths, forecaster.seed)
    assert shape == (240, 12, 300, 99)
    years = 2 if kind == "boosted_quantiles" else 1
    assert forecaster.schedule == FitSchedule(48 * 3_600_000, years * 8760 * 3_600_000, 6 * 3_600_000)
    assert forecaster.data_ranges() == ()
    assert forecaster.model.kind == kind
    assert create_forecaster(config(kind, batch_size=3), windows, 0).batch_size == 3


def test_parameters_of_a_model_reach_it_and_its_identity() -> None:
    windows = WINDOWS.model_copy(update={"context": 240})
    assert create_forecaster(config("har", lags=[1, 24]), windows, 0).identity()["lags"] == [1, 24]
    assert create_forecaster(config("boosted_quantiles", leaves=8), windows, 0).identity()["leaves"] == 8


def test_importing_forecasters_loads_neither_torch_nor_arch() -> None:
    code = "import sys, btcbt.forecasters; sys.exit(len({'torch', 'arch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
