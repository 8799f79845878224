"""Scaling of candles, fitted on the context and on nothing else.

Float32 mean and population standard deviation of each channel over the whole context,
``clip((x - mean) / (std + 1e-5), -clip, clip)``, as the reference does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from btcbt.records import Float32Array

_EPS = 1e-5


class Scaling(NamedTuple):
    """Location and spread of each channel, float32 (..., 6)."""

    mean: Float32Array
    std: Float32Array

    @classmethod
    def fit(cls, context: Float32Array) -> Scaling:
        """Fit on candles (..., T, 6)."""
        # Time contiguous, so that each channel is summed pairwise, as the reference's column-wise tables are: the
        # last float32 digit of a mean decides some tokens.
        series = np.ascontiguousarray(np.asarray(context, dtype=np.float32).swapaxes(-1, -2))
        return cls(series.mean(axis=-1), series.std(axis=-1))

    def apply(self, candles: Float32Array, clip: float) -> Float32Array:
        """Scale candles (..., T, 6) and clip them to +-`clip`."""
        candles = np.asarray(candles, dtype=np.float32)
        scaled = (candles - self.mean[..., None, :]) / (self.std[..., None, :] + np.float32(_EPS))
        return np.clip(scaled, -clip, clip)

    def invert(self, scaled: Float32Array) -> Float32Array:
        """Undo `apply` (up to its clipping) for paths (..., S, H, 6) or candles (..., H, 6) of each window."""
        extra = (None,) * (scaled.ndim - self.mean.ndim)
        index = (..., *extra, slice(None))
        return scaled * (self.std[index] + np.float32(_EPS)) + self.mean[index]
