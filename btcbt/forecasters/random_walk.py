"""The random walk and the random walk with drift: candles drawn from the window with replacement."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from btcbt.forecasters.baseline import Baseline
from btcbt.forecasters.candle_paths import pick, to_paths
from btcbt.records import CLOSE, VOLUME, Float32Array, FloatArray


class RandomWalk(Baseline):
    """No drift; each step draws one candle of the window and applies all its relative prices.

    A candle is its four prices over the previous close, its volume and its amount. To remove the drift, the four
    prices of every candle are divided by the window's mean of close over previous close. The price is then a
    martingale: the expected close of every step is exactly the last close, and no strategy has a positive expected
    return. Removing the mean of the log returns instead would leave an expected rise of half their variance per
    step; with this choice the median path falls by about that much.

    The paths are a sample, so their mean differs from the last close by the sampling error.

    Notes
    -----
    The independent bootstrap (Efron, 1979) keeps the distribution of hourly returns, fat tails and skew
    included, but not their order: volatility does not cluster in the paths.
    """

    kind: ClassVar[str] = "random_walk"
    _centred: ClassVar[bool] = True

    def _sample(self, history: FloatArray, numbers: FloatArray) -> tuple[Float32Array, dict[str, str]]:
        logs = np.log(history[:, :, :VOLUME])
        ratios = logs[:, 1:] - logs[:, :-1, CLOSE:]
        if self._centred:
            ratios -= log_mean_growth(ratios[:, :, CLOSE])[:, None, None]
        rows = pick(numbers[..., 0], history.shape[1] - 1)
        log_prices = ratios.reshape(-1, VOLUME)[rows]
        close = np.cumsum(log_prices[..., CLOSE], axis=2)
        log_prices[:, :, 1:] += close[:, :, :-1, None]
        return to_paths(history, log_prices, rows), {}


class Drift(RandomWalk):
    """The random walk plus the window's mean return.

    The candles are drawn as they are, so the expected close of step h is the last close times the h-th power
    of the window's mean of close over previous close.
    """

    kind: ClassVar[str] = "drift"
    _centred: ClassVar[bool] = False


def log_mean_growth(returns: FloatArray) -> FloatArray:
    """Log of the mean of exp(returns) over the last axis, without overflow."""
    peak = returns.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(returns - peak).mean(axis=-1)) + peak[..., 0], dtype=np.float64)
