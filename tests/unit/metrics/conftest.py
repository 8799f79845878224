"""Simulated forecasts and outcomes to score."""

from collections.abc import Callable

import numpy as np
import pytest

from btcbt.records import FloatArray

HOUR_MS = 3_600_000
JUNE_2019_MS = 1_559_347_200_000


def candles(rng: np.random.Generator, close: FloatArray) -> FloatArray:
    """Candles (..., 6) around closes, in which one hour in ten has no volume."""
    opening = close * np.exp(0.001 * rng.normal(size=close.shape))
    high = np.maximum(opening, close) * np.exp(0.002 * rng.exponential(size=close.shape))
    low = np.minimum(opening, close) * np.exp(-0.002 * rng.exponential(size=close.shape))
    volume = rng.exponential(50.0, close.shape) * (rng.random(close.shape) > 0.1)
    return np.stack([opening, high, low, close, volume, volume * close], axis=-1)


@pytest.fixture
def simulate(rng: np.random.Generator) -> Callable[..., dict[str, FloatArray]]:
    """Build the arguments of `score_batch`: forecasts of the right law, `sharpness` times as wide."""

    def build(n: int, n_paths: int = 7, horizon: int = 4, context: int = 9, *, sharpness: float = 1.0):
        last = 8000.0 * np.exp(0.1 * rng.normal(size=n))
        volatility = 0.004 * np.exp(0.5 * rng.normal(size=n))

        def walk(*shape: int) -> FloatArray:
            spread = volatility.reshape(-1, *(1,) * len(shape))
            return (spread * rng.normal(size=(n, *shape))).cumsum(axis=-1)

        past = walk(context)
        return {
            "origins": JUNE_2019_MS + HOUR_MS * np.arange(n, dtype=np.int64),
            "paths": candles(rng, last[:, None, None] * np.exp(sharpness * walk(n_paths, horizon))).astype(np.float32),
            "outcomes": candles(rng, last[:, None] * np.exp(walk(horizon))),
            "context": candles(rng, last[:, None] * np.exp(past - past[:, -1:])),
        }

    return build
