"""Chronos-2 (Ansari et al., 2025) and Chronos-Bolt (Ansari et al., 2024), from the package ``chronos-forecasting``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from btcbt.errors import ConfigError
from btcbt.forecasters.quantile_checkpoint import QuantileCheckpoint
from btcbt.forecasters.quantile_model import import_extra
from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, FloatArray

CHRONOS_2, BOLT = "Chronos2Model", "ChronosBoltModelForForecasting"


class Chronos(QuantileCheckpoint):
    """Either network; the architecture that the checkpoint names tells which.

    Chronos-2 may be given several series of an origin, which inform each other; origins are never mixed. Horizons
    beyond the longest that a checkpoint forecasts at once, which the package makes from its own quantiles, are refused.

    Parameters
    ----------
    checkpoint : str
        Such as ``amazon/chronos-2`` or ``amazon/chronos-bolt-small``.
    channels : str
        ``close``, or ``ohlcv`` (Chronos-2): open, high and low as logs over the last close, and the log of one plus
        volume over its mean.
    others
        As of `QuantileCheckpoint`.

    Raises
    ------
    ConfigError
        As of `QuantileCheckpoint`, and if Chronos-Bolt, which takes one series, is to take several.
    """

    kind: ClassVar[str] = "chronos"

    def __init__(self, *, channels: str = "close", **options: Any) -> None:
        self.channels = channels
        super().__init__(**options)
        if channels == "ohlcv" and self.architecture != CHRONOS_2:
            raise ConfigError(
                f"forecaster '{self.kind}': channels 'ohlcv' is for Chronos-2, and {self.checkpoint} is Chronos-Bolt, "
                "which takes one series; use 'close'"
            )

    @classmethod
    def _classes(cls) -> Mapping[str, Any]:
        bolt, second = (import_extra(f"chronos.{part}", cls.kind, "chronos") for part in ("chronos_bolt", "chronos2"))
        return {CHRONOS_2: second.Chronos2Model, BOLT: bolt.ChronosBoltModelForForecasting}

    def _limits(self) -> tuple[int, int, int]:
        shape = self.model.chronos_config
        second = self.architecture == CHRONOS_2
        farthest = shape.max_output_patches * shape.output_patch_size if second else shape.prediction_length
        return 2, shape.context_length, farthest

    @property
    def _levels(self) -> tuple[float, ...]:
        return tuple(float(level) for level in self.model.chronos_config.quantiles)

    def _series(self, history: FloatArray) -> FloatArray:
        """Log closes (B, 1, T), or with the other channels (B, 5, T), the close first."""
        close = super()._series(history)
        if self.channels == "close":
            return close[:, None]
        prices = np.log(history[:, :, [OPEN, HIGH, LOW]] / history[:, -1:, CLOSE, None])
        mean = history[:, :, VOLUME].mean(axis=1, keepdims=True)
        volume = np.log1p(history[:, :, VOLUME] / np.where(mean > 0, mean, 1.0))
        return np.concatenate((close[:, None], prices.transpose(0, 2, 1), volume[:, None]), axis=1)

    def _quantiles(self, logs: FloatArray) -> FloatArray:
        n_origins, n_series, length = logs.shape
        past = torch.from_numpy(logs.reshape(-1, length).astype(np.float32)).to(self.device)
        options: dict[str, Any] = {}
        if self.architecture == CHRONOS_2:
            options["group_ids"] = torch.arange(n_origins, device=self.device).repeat_interleave(n_series)
            options["num_output_patches"] = -(-self.horizon // self.model.chronos_config.output_patch_size)
        with torch.inference_mode():
            made = self.model(context=past, **options).quantile_preds  # (B * C, Q, steps)
        return np.asarray(made.float().cpu().numpy()[::n_series].transpose(0, 2, 1), dtype=np.float64)

    def _parameters(self) -> Mapping[str, object]:
        return {**super()._parameters(), "channels": self.channels}
