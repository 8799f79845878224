"""Base class of pretrained models that forecast quantiles of the log close, step by step."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from btcbt.errors import ConfigError, ForecasterError
from btcbt.forecasters.baseline import Baseline
from btcbt.forecasters.quantile_paths import quantile_paths
from btcbt.records import CLOSE, DataRange, Float32Array, FloatArray

_log = logging.getLogger(__name__)


class QuantileModel(Baseline):
    """A pretrained model of quantiles, with paths made by `btcbt.forecasters.quantile_paths`.

    It is given the log closes of the window, less the last one, so that no digit of the price is lost in float32.
    Quantiles that cross a little are sorted (Chernozhukov, Fernandez-Val and Galichon, 2010) and counted: networks with
    a free output for each level cross them often. Those that cross more (`CROSSING`) are an error. A window with
    constant prices gets constant paths.

    Parameters
    ----------
    context, horizon, n_paths, seed, batch_size
        As of `Baseline`.

    Attributes
    ----------
    crossed : int
        Steps of forecasts of this process whose quantiles crossed and were sorted.
    """

    single_threaded = True
    crossed = 0

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
        raw = self._quantiles(self._series(history))[:, : self.horizon]
        raw = np.where((np.ptp(history[:, :, CLOSE], axis=1) == 0.0)[:, None, None], 0.0, raw)
        quantiles = self._sorted(raw)
        return quantile_paths(history, self._levels, quantiles, numbers), {"paths": "quantile_paths"}

    def _sorted(self, quantiles: FloatArray) -> FloatArray:
        """Quantiles (B, H, Q) that do not cross. NaN stays, and is refused later.

        Raises
        ------
        ForecasterError
            If sorting moves one by more than `CROSSING` of the distance between the outermost.
        """
        rising = np.sort(quantiles, axis=2)
        with np.errstate(invalid="ignore"):  # infinite ones
            moved = np.abs(rising - quantiles).max(axis=2)
            wide = moved > CROSSING * (rising[..., -1] - rising[..., 0])
        if wide.any():
            row, step = (int(i) for i in np.argwhere(wide)[0])
            share = moved[row, step] / (rising[row, step, -1] - rising[row, step, 0])
            raise ForecasterError(
                f"forecaster '{self.kind}': quantiles of step {step + 1} cross by {share:.0%} of the distance between "
                f"the outermost, expected at most {CROSSING:.0%}; the checkpoint is damaged, or cannot take this window"
            )
        count = int((moved > 0.0).sum())
        if count:
            self.crossed += count
            _log.info("%s: quantiles cross at %d of %d steps; they are sorted", self.kind, count, moved.size)
        return rising

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


CROSSING = 0.75
"""Farthest that a quantile may be from its place, in distances between the outermost quantiles of the step.

Fracast's were up to 0.21 from it on 100 origins of 2024-07 .. 2025-01; quantiles in any order soon exceed it.
"""
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
