"""Base class of the baseline forecasters.

A baseline samples log prices in float64 and returns float32 candles (`candle_paths`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import ndtri

from btcbt.config import WindowsConfig
from btcbt.forecasters.base import Forecaster, origins_of
from btcbt.records import CLOSE, DataRange, Float32Array, FloatArray, ForecastBatch, PathKind, Window

_PATH_STEPS_PER_BATCH = 64 * 30 * 24  # keeps temporary arrays in the cache, at some MB
SMALLEST_UNIFORM = 2.0**-54
"""Used for zero: half of the smallest positive uniform number."""


class Baseline(Forecaster):
    """A forecaster that samples candles from each window alone; nothing is fitted outside of it.

    Parameters
    ----------
    context, horizon, n_paths, seed : int
        As in `Forecaster`.
    batch_size : int, optional
        Origins per call; chosen from the size of the paths if left out.
    """

    kind: ClassVar[str]
    paths_are: PathKind = "independent"

    def __init__(self, *, context: int, horizon: int, n_paths: int, seed: int, batch_size: int | None = None) -> None:
        super().__init__(context=context, horizon=horizon, n_paths=n_paths, seed=seed)
        self._batch_size = batch_size or max(1, min(64, _PATH_STEPS_PER_BATCH // (n_paths * horizon)))

    @property
    def batch_size(self) -> int:
        """Number of origins per call; it affects only speed and memory."""
        return self._batch_size

    def identity(self) -> Mapping[str, object]:
        """Kind, numerical version, seed, shape of the paths and parameters."""
        return {
            "kind": self.kind,
            "version": self.version,
            "context": self.context,
            "horizon": self.horizon,
            "n_paths": self.n_paths,
            "seed": self.seed,
            **self._parameters(),
        }

    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        """Sample the H candles after each window.

        Parameters
        ----------
        windows : sequence of Window
            B windows of T candles each.

        Returns
        -------
        ForecastBatch
            ``paths`` float32 (B, S, H, 6).

        Raises
        ------
        ValueError
            If a window does not have `context` candles.
        """
        history = self.history(windows)
        numbers = self.uniforms(windows)
        paths, notes = self._sample(history, numbers)
        return ForecastBatch(origins_of(windows), paths, {"forecaster": self.kind, **notes})

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Empty: nothing is fitted outside of the window."""
        return ()

    @classmethod
    def from_config(cls, config: Any, windows: WindowsConfig, seed: int, base: Forecaster | None = None) -> Self:
        """Build from a section of an experiment; see `Forecaster.from_config`."""
        batch_size = None if config.batch_size == "auto" else config.batch_size
        parameters = config.model_dump(exclude={"kind", "batch_size"})
        return cls(context=windows.context, horizon=windows.horizon, seed=seed, batch_size=batch_size, **parameters)

    @abstractmethod
    def _sample(self, history: FloatArray, numbers: FloatArray) -> tuple[Float32Array, dict[str, str]]:
        """Paths (B, S, H, 6) from windows (B, T, 6) and uniforms (B, S, H, 2), and notes for the manifest."""

    def _parameters(self) -> Mapping[str, object]:
        return {}


def log_returns(history: FloatArray) -> FloatArray:
    """Log returns from close to close, (B, T - 1), of windows (B, T, 6)."""
    return np.diff(np.log(history[:, :, CLOSE]), axis=1)


def normal_quantile(u: FloatArray) -> FloatArray:
    """Quantiles of the standard normal distribution; finite for every u in [0, 1)."""
    return np.asarray(ndtri(np.maximum(u, SMALLEST_UNIFORM)), dtype=np.float64)
