"""Scaling of candles, fitted on the context and on nothing else.

Float32 mean and population standard deviation of each channel over the whole context,
``clip((x - mean) / (std + 1e-5), -clip, clip)``, as the reference does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from btcbt.records import Float32Array

_EPS = 1e-5
TOO_LARGE = "too large to be scaled in float32; expected below 1e+18: correct it, or count in larger units"


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


class Extreme(NamedTuple):
    """Position of a value that float32 cannot hold, or whose square it cannot hold: window, row and channel."""

    window: int
    row: int
    channel: int


def find_extreme(context: Float32Array, scaling: Scaling) -> Extreme | None:
    """The largest value of a channel (B, T, 6) whose scaling (B, 6) overflowed; None if all are finite.

    Such a value would make the forecast NaN, as a broken checkpoint does.
    """
    good = np.isfinite(scaling.std) & np.isfinite(context).all(axis=1)
    if good.all():
        return None
    window, channel = np.argwhere(~good)[0]
    return Extreme(int(window), int(np.abs(context[window, :, channel]).argmax()), int(channel))
