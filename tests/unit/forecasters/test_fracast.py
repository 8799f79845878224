"""The adapter of Fracast-0; the trained weights are in its package."""

import hashlib
import sys
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from btcbt.errors import ConfigError, ForecasterError
from btcbt.forecasters.fracast import Fracast
from btcbt.records import CLOSE, Window

Maker = Callable[..., list[Window]]


def fracast(**changes: Any) -> Fracast:
    return Fracast(**{"context": 96, "horizon": 6, "n_paths": 2000, "seed": 1, **changes})


def test_closes_have_the_quantiles_that_the_package_forecasts(make_windows: Maker) -> None:
    from fracast import FracastModel

    (window,) = make_windows(1, 96)
    close = window.values[:, CLOSE].astype(np.float64)
    model = FracastModel.from_pretrained(weights="fp32")
    expected = np.sort(model.forecast(np.log(close / close[-1])), axis=1)[:6]
    paths = fracast().forecast([window]).paths[0, :, :, CLOSE].astype(np.float64)
    below = (np.log(paths / close[-1])[:, :, None] <= expected).mean(axis=0)
    assert np.abs(below - model.quantiles).max() < 0.05


def test_its_identity_has_the_digest_of_the_weights_and_the_version_of_the_package() -> None:
    found = fracast().identity()
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        digest.update(files("fracast.weights").joinpath(name).read_bytes())
    assert found["weights_sha256"] == digest.hexdigest()
    assert found["package"] == "0.1.0"
    assert found["paths"] == "quantile_paths"
    assert fracast(weights="w8").identity()["weights_sha256"] != found["weights_sha256"]


def test_what_it_was_trained_on_is_unknown() -> None:
    assert fracast().data_ranges() is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"context": 2049}, "context 2049, the model takes 8 to 2048 candles; change windows.context"),
        ({"context": 7}, "context 7, the model takes 8 to 2048 candles"),
        ({"horizon": 49}, "horizon 49, the model forecasts 48 candles; shorten windows.horizon"),
    ],
)
def test_sizes_that_the_model_cannot_take_are_refused(change: dict[str, int], problem: str) -> None:
    with pytest.raises(ForecasterError, match=problem):
        fracast(**change)


def test_without_its_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from btcbt.forecasters import fracast as module

    module._model.cache_clear()
    monkeypatch.setitem(sys.modules, "fracast", None)
    with pytest.raises(ConfigError, match=r"needs the package 'fracast'.*pip install 'btcbt\[fracast\]'"):
        fracast()
