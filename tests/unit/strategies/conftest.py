"""A forecast from the returns of its paths."""

from __future__ import annotations

import numpy as np
import pytest

from btcbt.records import Forecast, Window

HOUR = 3_600_000
START = 1_559_347_200_000  # 2019-06-01T00:00Z


@pytest.fixture
def forecast_of():
    """Build a Forecast whose paths end at some returns; in a straight line over `horizon` steps."""

    def build(returns, *, horizon=4, past=None, last=1000.0):
        past = np.full(30, last) if past is None else np.asarray(past, dtype=np.float64)
        values = np.repeat(past[:, None], 6, axis=1)
        window = Window(START + HOUR * np.arange(len(past), dtype=np.int64), values, HOUR)
        steps = np.arange(1, horizon + 1) / horizon
        close = past[-1] * (1 + np.asarray(returns, dtype=np.float64)[:, None] * steps)
        return Forecast(window, np.repeat(close[:, :, None], 6, axis=2).astype(np.float32))

    return build
