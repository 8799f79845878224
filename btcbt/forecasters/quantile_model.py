"""Base class of pretrained models that forecast quantiles of the log close, step by step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from btcbt.errors import ConfigError, ForecasterError
from btcbt.forecasters.baseline import Baseline
from btcbt.forecasters.quantile_paths import quantile_paths
from btcbt.records import CLOSE, DataRange, Float32Array, FloatArray


class QuantileModel(Baseline):
    """A pretrained model of quantiles, with paths made by `btcbt.forecasters.quantile_paths`.

    It is given the log closes of the window, less the last one, so that no digit of the price is lost in float32.
    Quantiles that cross are sorted first (Chernozhukov, Fernandez-Val and Galichon, 2010): networks with a free output
    for each level cross them often. A window with constant prices gets constant paths.

    Parameters
    ----------
    context, horizon, n_paths, seed, batch_size
        As of `Baseline`.
    """

    single_threaded = True

    def _check_limits(self, fewest: int, most: int, farthest: int) -> None:
        """Check what the model can take.

        Raises
        ------
        ForecasterError
            If the context or the horizon is outside of it.
        """
        if not fewest <= self.context <= most:
            raise ForecasterError(
                f"forecaster '{self.kind}': context {self.context}, the model takes {fewest} to {most} candles; "
                "change windows.context"
            )
        if self.horizon > farthest:
            raise ForecasterError(
                f"forecaster '{self.kind}': horizon {self.horizon}, the model forecasts {farthest} candles; "
                "shorten windows.horizon"
            )

    def data_ranges(self) -> Sequence[DataRange] | None:
        """None: the publisher does not state from when to when the training data are."""
        return None

    def _sample(self, history: FloatArray, numbers: FloatArray) -> tuple[Float32Array, dict[str, str]]:
        raw = self._quantiles(self._series(history))
        quantiles = np.sort(raw, axis=2)[:, : self.horizon]  # NaN comes last, and is refused
        quantiles[np.ptp(history[:, :, CLOSE], axis=1) == 0.0] = 0.0
        return quantile_paths(history, self._levels, quantiles, numbers), {"paths": "quantile_paths"}

    def _series(self, history: FloatArray) -> FloatArray:
        """What the model is given of windows (B, T, 6): log closes less the last one, (B, T)."""
        return np.asarray(np.log(history[:, :, CLOSE] / history[:, -1:, CLOSE]))

    @property
    @abstractmethod
    def _levels(self) -> tuple[float, ...]:
        """Probabilities of the quantiles (Q,)."""

    @abstractmethod
    def _quantiles(self, logs: FloatArray) -> FloatArray:
        """Quantiles, float64 (B, at least H, Q), of the continuation of what `_series` returns."""

    def _parameters(self) -> Mapping[str, object]:
        return {"paths": "quantile_paths", "paths_version": PATHS_VERSION}


PATHS_VERSION = 1
"""Increase it if equal quantiles give different paths."""


def import_extra(module: str, kind: str, extra: str) -> Any:
    """Import the package of an extra.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"a forecaster of kind '{kind}' needs the package '{module}', which cannot be imported ({error}); "
            f"install it with pip install 'btcbt[{extra}]'"
        ) from None
