"""Fracast-0, a convolutional model of 85,001 parameters whose weights are in its package (PyPI `fracast`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np

from btcbt.forecasters.quantile_model import QuantileModel, import_extra
from btcbt.records import FloatArray

FEWEST = 8
"""Fewest closes that it takes."""
WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "fp32": ("config.json", "model.safetensors"),
    "w8": ("config.json", "model.int8.safetensors", "w8_manifest.json"),
}
"""Files of the package for each precision of the weights."""


class Fracast(QuantileModel):
    """Fracast-0 (Apache-2.0) on log closes, on the CPU.

    It takes up to 2,048 closes and forecasts the quantiles 0.1, 0.2, ..., 0.9 of 48 steps. Longer horizons, which the
    package makes by appending its own medians, are refused: their quantiles would leave out what is not known at
    step 48. It was pretrained on public collections of series (GiftEvalPretrain, LOTSA, Chronos, BOOM, fev) and
    synthetic ones; no dates are stated, so its origins are labelled ``unknown``.

    Parameters
    ----------
    weights : str
        ``fp32``, or ``w8``, the same rounded to 8 bits.

    Raises
    ------
    ConfigError
        If the package is not installed.
    ForecasterError
        If the context or the horizon is outside of what the model takes.
    """

    kind: ClassVar[str] = "fracast"

    def __init__(
        self,
        *,
        context: int,
        horizon: int,
        n_paths: int,
        seed: int,
        batch_size: int | None = None,
        weights: str = "fp32",
    ) -> None:
        super().__init__(context=context, horizon=horizon, n_paths=n_paths, seed=seed, batch_size=batch_size)
        self.weights = weights
        model = _model(weights)
        self._check_limits(FEWEST, model.context_length, model.horizon)

    @property
    def _levels(self) -> tuple[float, ...]:
        return tuple(_model(self.weights).quantiles)

    def _quantiles(self, logs: FloatArray) -> FloatArray:
        # One window at a time: a third faster on a core than many, and exactly repeatable.
        model = _model(self.weights)
        return np.stack([model.forecast(row, horizon=self.horizon) for row in logs]).astype(np.float64)

    def _parameters(self) -> Mapping[str, object]:
        package = import_extra("fracast", self.kind, "fracast")
        return {
            **super()._parameters(),
            "weights": self.weights,
            "weights_sha256": _digest(self.weights),
            "package": str(package.__version__),
        }


@cache
def _model(weights: str) -> Any:
    """The model on the CPU; not part of a forecaster, so that a forecaster can be sent to other processes."""
    return import_extra("fracast", Fracast.kind, "fracast").FracastModel.from_pretrained(weights=weights, device="cpu")


@cache
def _digest(weights: str) -> str:
    digest = hashlib.sha256()
    for name in WEIGHTS[weights]:
        digest.update(files("fracast.weights").joinpath(name).read_bytes())
    return digest.hexdigest()
