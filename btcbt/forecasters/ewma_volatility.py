"""Gaussian steps with an exponentially weighted variance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from btcbt.forecasters.baseline import Baseline, log_returns, normal_quantile
from btcbt.forecasters.candle_paths import candles_from_returns
from btcbt.records import Float32Array, FloatArray

DEFAULT_DECAY = 0.97


class EwmaVolatility(Baseline):
    """No drift; Gaussian log returns whose variance is an exponentially weighted mean of past squares.

    The variance is the same for every step (J.P. Morgan, 1996, RiskMetrics Technical Document, section 5.2).
    Half of it is subtracted from each log return, so that the expected close is the last close. Open, high and
    low have the shape of a past candle, scaled by the volatility of the step over that of the window; volume and
    amount are those of that candle.

    Parameters
    ----------
    decay : float
        Ratio of the weights of a squared return and the next newer one, in (0, 1).
    context, horizon, n_paths, seed, batch_size
        As in `Baseline`.
    """

    kind: ClassVar[str] = "ewma_volatility"

    def __init__(
        self,
        *,
        context: int,
        horizon: int,
        n_paths: int,
        seed: int,
        decay: float = DEFAULT_DECAY,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(context=context, horizon=horizon, n_paths=n_paths, seed=seed, batch_size=batch_size)
        if not 0.0 < decay < 1.0:
            raise ValueError(f"decay {decay} is outside (0, 1)")
        self.decay = decay

    def _sample(self, history: FloatArray, numbers: FloatArray) -> tuple[Float32Array, dict[str, str]]:
        returns = log_returns(history)
        variance = ewma_variance(returns, self.decay)[:, None, None]
        usual = np.mean(returns**2, axis=1)[:, None, None]
        scale = np.sqrt(np.divide(variance, usual, out=np.ones_like(usual), where=usual > 0))
        steps = np.sqrt(variance) * normal_quantile(numbers[..., 0]) - variance / 2
        return candles_from_returns(history, steps, scale, numbers[..., 1]), {}

    def _parameters(self) -> Mapping[str, object]:
        return {"decay": self.decay}


def ewma_variance(returns: FloatArray, decay: float) -> FloatArray:
    """Variance about zero of the next return, from returns (..., N) with the newest last.

    The weights fall by `decay` with age and sum to one over the N returns.
    """
    weights = decay ** np.arange(returns.shape[-1] - 1, -1, -1, dtype=np.float64)
    weights /= weights.sum()
    return np.asarray((returns**2 * weights).sum(axis=-1), dtype=np.float64)
