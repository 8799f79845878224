"""Decisions on the way to an audited origin: the forecasts that they are made on, and holdings that are drawn.

A rule that looks ahead may show it only in a position: a stop that is set off by the next candle, an exit, a warm-up.
So a strategy is asked at the last origins before an audited one as a run asks it, from flat and along the way, and
once more at each of them with a drawn holding. The forecasts on the way are made once, on the true history: at those
origins the past is the same in every changed history, and forecasts are audited apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btcbt.audit.participants import answer
from btcbt.audit.scenes import Scene, windows_at
from btcbt.forecasters import Forecaster
from btcbt.records import Float32Array, ForecastBatch


class Trails:
    """Forecasts on the way to each audited origin, on disk: a fresh process reads the same.

    Parameters
    ----------
    folder : Path
        An empty folder for them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, scene: Scene, forecasters: Mapping[str, Forecaster]) -> None:
        """Forecast on the way to the origin of a scene of the true history."""
        for number, forecaster in enumerate(forecasters.values()):
            np.save(self._file(scene.question.origin, number), _paths(forecaster, scene), allow_pickle=False)

    def paths(self, origin: int, forecasters: Mapping[str, Forecaster]) -> dict[str, NDArray[Any]]:
        """Paths (n, S, H, 6) by forecaster, at the origins of the trail of a question."""
        return {
            name: np.load(self._file(origin, number), mmap_mode="r", allow_pickle=False)
            for number, name in enumerate(forecasters)
        }

    def _file(self, origin: int, number: int) -> Path:
        return self._folder / f"{origin}.{number}.npy"


def _paths(forecaster: Forecaster, scene: Scene) -> Float32Array:
    windows = windows_at(scene.windows.with_context(forecaster.context), scene.question.trail)
    if forecaster.base is None:
        return answer(forecaster, windows)
    origins = np.array([window.origin for window in windows], dtype=np.int64)
    batch = ForecastBatch(origins, answer(forecaster.base, windows))
    return np.concatenate([one.paths for one in forecaster.follow(windows, [batch])])
