"""TimesFM 2.5 (Das, Kong, Sen and Zhou, 2024, "A decoder-only foundation model"), by the class of transformers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from btcbt.errors import ConfigError
from btcbt.forecasters.quantile_checkpoint import QuantileCheckpoint
from btcbt.records import FloatArray

ARCHITECTURE = "TimesFm2_5ModelForPrediction"


class TimesFm(QuantileCheckpoint):
    """TimesFM 2.5 on log closes, averaged with its forecast of the mirrored series, as published.

    It reads whole patches of 32 closes: the newest whole number of patches of the window is given to it, since
    transformers would fill up the first one with zeros, which count in the mean and deviation that it scales by.
    """

    kind: ClassVar[str] = "timesfm"

    @classmethod
    def _classes(cls) -> Mapping[str, Any]:
        transformers = importlib.import_module("transformers")
        network = getattr(transformers, ARCHITECTURE, None)
        if network is None:
            raise ConfigError(
                f"a forecaster of kind '{cls.kind}' needs a transformers that has {ARCHITECTURE}, got version "
                f"{transformers.__version__}; update it with pip install -U transformers"
            )
        return {ARCHITECTURE: network}

    def _limits(self) -> tuple[int, int, int]:
        shape = self.model.config
        return shape.patch_length, shape.context_length, shape.horizon_length

    @property
    def _levels(self) -> tuple[float, ...]:
        return tuple(float(level) for level in self.model.config.quantiles)

    def _quantiles(self, logs: FloatArray) -> FloatArray:
        patch = self.model.config.patch_length
        length = logs.shape[1] // patch * patch
        past = torch.from_numpy(logs[:, -length:].astype(np.float32)).to(self.device, self.dtype)
        with torch.inference_mode():
            made = self.model(past_values=list(past), forecast_context_len=length, truncate_negative=False)
        quantiles = made.full_predictions[:, :, 1:]  # the first is the mean
        return np.asarray(quantiles.float().cpu().numpy(), dtype=np.float64)
