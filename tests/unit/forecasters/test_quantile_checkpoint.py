"""The adapters of Chronos and TimesFM, on tiny checkpoints that their own packages wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from btcbt.config import ForecasterConfig, WindowsConfig
from btcbt.errors import CheckpointError, ConfigError, ForecasterError
from btcbt.forecasters import Forecaster, create_forecaster
from btcbt.forecasters.chronos import Chronos
from btcbt.models.kronos.checkpoints.files import write_data_ranges
from btcbt.records import CLOSE, DataRange, Window
from tests.tiny_quantile_models import CONTEXT, SAVERS

pytest.importorskip("chronos")
KINDS = {"chronos_bolt": "chronos", "chronos_2": "chronos", "timesfm": "timesfm"}
Maker = Callable[..., list[Window]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in SAVERS.items()}


def build(context: int = 96, horizon: int = 6, **section: object) -> Forecaster:
    start, end = datetime(2019, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
    windows = WindowsConfig(context=context, horizon=horizon, start=start, end=end)
    tree = {"device": "cpu", "n_paths": 5, **section}
    return create_forecaster(TypeAdapter(ForecasterConfig).validate_python(tree), windows, 3)


def build_tiny(tiny: dict[str, Path], name: str, **options: object) -> Forecaster:
    return build(kind=KINDS[name], checkpoint=str(tiny[name]), **options)


def closes(windows: list[Window]) -> torch.Tensor:
    logs = np.stack([np.log(window.values[:, CLOSE] / window.last_close) for window in windows])
    return torch.tensor(logs, dtype=torch.float32)


def quantiles_of(forecaster: Forecaster, windows: list[Window]) -> np.ndarray:
    assert isinstance(forecaster, Chronos)
    return forecaster._quantiles(forecaster._series(forecaster.history(windows)))[:, :6]


def test_chronos_bolt_forecasts_what_its_own_pipeline_does(tiny: dict[str, Path], make_windows: Maker) -> None:
    from chronos import ChronosBoltPipeline

    windows = make_windows(2, 96)
    pipeline = ChronosBoltPipeline.from_pretrained(tiny["chronos_bolt"])
    expected = pipeline.predict_quantiles(closes(windows), 6)[0].numpy()
    np.testing.assert_allclose(quantiles_of(build_tiny(tiny, "chronos_bolt"), windows), expected, atol=1e-6)


@pytest.mark.parametrize("channels", ["close", "ohlcv"])
def test_chronos_2_forecasts_what_its_own_pipeline_does(
    tiny: dict[str, Path], make_windows: Maker, channels: str
) -> None:
    from chronos import Chronos2Pipeline

    windows = make_windows(2, 96)
    forecaster = build_tiny(tiny, "chronos_2", channels=channels)
    assert isinstance(forecaster, Chronos)
    series = forecaster._series(forecaster.history(windows))
    pipeline = Chronos2Pipeline.from_pretrained(tiny["chronos_2"])
    made, _ = pipeline.predict_quantiles(torch.tensor(series, dtype=torch.float32), 6)
    expected = np.stack([one[0].numpy() for one in made])
    np.testing.assert_allclose(quantiles_of(forecaster, windows), expected, atol=1e-6)


def test_other_channels_inform_chronos_2(tiny: dict[str, Path], make_windows: Maker) -> None:
    windows = make_windows(2, 96)
    one, all_ = (build_tiny(tiny, "chronos_2", channels=c).forecast(windows).paths for c in ("close", "ohlcv"))
    assert not np.array_equal(one, all_)


@pytest.mark.parametrize("name", KINDS)
def test_another_checkpoint_is_another_identity_and_declares_its_own_ranges(
    tiny: dict[str, Path], name: str, tmp_path: Path
) -> None:
    first = build_tiny(tiny, name)
    assert first.data_ranges() is None
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in tiny[name].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_data_ranges(folder, (DataRange("pretraining", 0, 1000),))
    moved = build(kind=KINDS[name], checkpoint=str(folder))
    assert moved.identity() == first.identity()
    assert moved.data_ranges() == (DataRange("pretraining", 0, 1000),)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-3:] = b"\x01\x02\x3d"
    (folder / "model.safetensors").write_bytes(weights)
    assert build(kind=KINDS[name], checkpoint=str(folder)).identity() != first.identity()


@pytest.mark.parametrize("name", KINDS)
def test_lengths_that_the_network_does_not_take_are_refused(tiny: dict[str, Path], name: str) -> None:
    with pytest.raises(ForecasterError, match=f"context {CONTEXT + 1}, the model takes .* to {CONTEXT} candles"):
        build_tiny(tiny, name, context=CONTEXT + 1)
    with pytest.raises(ForecasterError, match="horizon 49, the model forecasts 32 candles"):
        build_tiny(tiny, name, context=200, horizon=49)


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_of_another_architecture_or_without_weights_is_refused(
    tiny: dict[str, Path], name: str, tmp_path: Path
) -> None:
    config = json.loads((tiny[name] / "config.json").read_text())
    with pytest.raises(CheckpointError, match="cannot be read"):
        build(kind=KINDS[name], checkpoint=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        build(kind=KINDS[name], checkpoint=str(tmp_path))
    other = {"architectures": ["T5ForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config | other))
    with pytest.raises(CheckpointError, match=r"its architecture is 'T5For.*expected") as caught:
        build(kind=KINDS[name], checkpoint=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["chronos_bolt", "timesfm"])
def test_a_checkpoint_that_lacks_weights_is_refused_instead_of_filled_at_random(
    tiny: dict[str, Path], name: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny[name] / "model.safetensors")
    left_out = next(key for key in weights if "layer" in key)
    save_file({k: v for k, v in weights.items() if k != left_out}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((tiny[name] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="1 weights are missing, such as"):
        build(kind=KINDS[name], checkpoint=str(tmp_path))


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chronos.chronos_bolt", None)
    with pytest.raises(ConfigError, match=r"needs the package 'chronos.*pip install 'btcbt\[chronos\]'"):
        build(kind="chronos")


def test_chronos_bolt_takes_one_series(tiny: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="channels 'ohlcv' is for Chronos-2"):
        build_tiny(tiny, "chronos_bolt", channels="ohlcv")


@pytest.mark.parametrize("name", KINDS)
def test_weights_that_are_not_finite_are_reported_in_one_line(
    tiny: dict[str, Path], name: str, make_windows: Maker
) -> None:
    forecaster = build_tiny(tiny, name)
    with torch.no_grad():
        for parameter in forecaster.model.parameters():  # type: ignore[attr-defined]
            parameter.fill_(torch.nan)
    with pytest.raises(ForecasterError, match=r"quantiles of step 1: .*not all finite"):
        forecaster.forecast(make_windows(2, 96))


def test_timesfm_forecasts_what_its_own_class_does_for_whole_patches(
    tiny: dict[str, Path], make_windows: Maker
) -> None:
    from transformers import TimesFm2_5ModelForPrediction

    windows = make_windows(2, 100)  # six patches of 16, and 4 closes before them
    model = TimesFm2_5ModelForPrediction.from_pretrained(tiny["timesfm"])
    past = list(closes(windows)[:, -96:])
    with torch.no_grad():
        made = model(past_values=past, forecast_context_len=96, truncate_negative=False).full_predictions
    expected = np.exp(made[:, :6, 5].numpy()) * np.array([window.last_close for window in windows])[:, None]
    paths = build_tiny(tiny, "timesfm", context=100, n_paths=3000).forecast(windows).paths
    below = (paths[..., CLOSE] <= expected[:, None]).mean(axis=1)
    assert np.abs(below - 0.5).max() < 0.05


@pytest.mark.parametrize("kind", ["fracast", "chronos", "timesfm"])
def test_the_summary_of_a_run_says_that_paths_are_made_of_quantiles(kind: str) -> None:
    config = TypeAdapter(ForecasterConfig).validate_python({"kind": kind})
    assert config.remark.startswith("paths made by quantile_paths")
    assert config.n_paths == 300
