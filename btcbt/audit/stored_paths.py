"""Forecasts at the origins up to an audited one, for the strategies that decide there.

A rule may look ahead only while it holds a position: a stop triggered by the next candle, an exit, a warm-up. So a
strategy decides at the last origins up to an audited one as in a run, starting flat, and once more at each with a
drawn holding. The forecasts for these decisions are made once, on the true history: the candles before those origins
are the same in every changed history, and forecasts are audited separately.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btcbt.audit.components import forecast_paths
from btcbt.audit.histories import History, windows_at
from btcbt.forecasters import Forecaster
from btcbt.records import Float32Array, ForecastBatch


class StoredPaths:
    """Forecasts up to each audited origin, on disk, so that a fresh process reads the same.

    Parameters
    ----------
    folder : Path
        An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, history: History, forecasters: Mapping[str, Forecaster]) -> None:
        """Forecast at the decision origins of the true history, and store the paths."""
        for number, forecaster in enumerate(forecasters.values()):
            np.save(self._file(history.point.origin, number), _paths(forecaster, history), allow_pickle=False)

    def paths(self, origin: int, forecasters: Mapping[str, Forecaster]) -> dict[str, NDArray[Any]]:
        """Stored paths (n, S, H, 6) by forecaster, at the decision origins of an audited origin."""
        return {
            name: np.load(self._file(origin, number), mmap_mode="r", allow_pickle=False)
            for number, name in enumerate(forecasters)
        }

    def _file(self, origin: int, number: int) -> Path:
        return self._folder / f"{origin}.{number}.npy"


def _paths(forecaster: Forecaster, history: History) -> Float32Array:
    windows = windows_at(history.windows.with_context(forecaster.context), history.point.decision_origins)
    if forecaster.base is None:
        return forecast_paths(forecaster, windows)
    origins = np.array([window.origin for window in windows], dtype=np.int64)
    batch = ForecastBatch(origins, forecast_paths(forecaster.base, windows))
    return np.concatenate([one.paths for one in forecaster.follow(windows, [batch])])
