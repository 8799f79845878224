"""Candle history as batches of scaled windows.

Every random choice of a batch is a function of (seed, stage, step), so that a fit resumes without a saved random state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from btcbt.config import time_text
from btcbt.errors import CandleError
from btcbt.models.kronos.inference.calendar import stamps
from btcbt.models.kronos.inference.scaling import Scaling
from btcbt.models.kronos.training.recipe import FinetuneConfig
from btcbt.records import CHANNELS, HIGH, LOW, Candles, Float32Array, IntArray

SELECTION_WINDOWS = 256
"""Windows on which the selection loss is measured, spread evenly over the range."""


class Batch(NamedTuple):
    """Scaled windows.

    Attributes
    ----------
    candles : float32 (B, W, 6)
    stamps : int64 (B, W, 5)
    context : int
        First candles of each window, on which its scaling is fitted (see `make_batch`); the model's loss skips them.
    keys : tuple, or None
        Identifies each scaled window among all of the fit; None where windows hardly ever recur.
    """

    candles: Tensor
    stamps: Tensor
    context: int
    keys: tuple[tuple[str, int, bool], ...] | None = None

    def part(self, number: int, count: int) -> Batch:
        """One of `count` parts of equal size."""
        size = len(self.candles) // count
        rows = slice(number * size, (number + 1) * size)
        keys = None if self.keys is None else self.keys[rows]
        return Batch(self.candles[rows], self.stamps[rows], self.context, keys)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return self._replace(candles=self.candles.to(device), stamps=self.stamps.to(device))


class WindowSampler:
    """Contiguous windows of some histories, whole in [start, end), ms UTC.

    Parameters
    ----------
    histories : sequence of Candles
    start, end : int
    window : int
        W.
    name : str
        Name of the range in messages.

    Raises
    ------
    CandleError
        If the range holds no window, or a candle with a number too large to be scaled in float32.
    """

    def __init__(self, histories: Sequence[Candles], start: int, end: int, window: int, name: str = "range") -> None:
        self.histories, self.window, self.name = histories, window, name
        starts: list[IntArray] = []
        for i, candles in enumerate(histories):
            first = np.arange(len(candles) - window + 1, dtype=np.int64)
            last = first + window - 1
            whole = candles.open_time[last] - candles.open_time[first] == (window - 1) * candles.interval_ms
            inside = (candles.open_time[first] >= start) & (candles.open_time[last] < end)
            rows = first[whole & inside]
            _require_scalable(candles, rows, window, name)
            starts.append(np.stack((np.full_like(rows, i), rows), axis=1))
        self.starts = np.concatenate(starts) if starts else np.empty((0, 2), np.int64)
        if not len(self.starts):
            raise CandleError(
                f"{name}: no {window} contiguous candles in {time_text(start)} .. {time_text(end)}; "
                "widen the range, shorten the window, or give more history"
            )

    def values(self, chosen: IntArray) -> tuple[Float32Array, IntArray]:
        """Candles (B, W, 6) and open times (B, W) of rows of `starts`."""
        picked = self.starts[chosen]
        rows = [(self.histories[i], slice(j, j + self.window)) for i, j in picked]
        values = np.stack([candles.values[part] for candles, part in rows]).astype(np.float32)
        return values, np.stack([candles.open_time[part] for candles, part in rows])

    def draw(self, config: FinetuneConfig, batch_size: int, key: tuple[int, int]) -> Batch:
        """Return the training batch of (stage, step)."""
        rng = np.random.default_rng([config.seed, *key])
        chosen = rng.integers(len(self.starts), size=batch_size)
        values, times = self.values(chosen)
        context = int(rng.integers(config.context[0], config.context[1] + 1))
        flipped = rng.random(batch_size) < 0.5 if config.mirror else np.zeros(batch_size, dtype=np.bool_)
        _mirror(values, flipped)
        batch = make_batch(values, times, context, config.clip, leaky=config.leaky)
        recurs = config.leaky or config.context[0] == config.context[1]
        return batch._replace(keys=self._keys(chosen, flipped) if recurs else None)

    def spread(self, config: FinetuneConfig, batch_size: int) -> Iterator[Batch]:
        """Evenly spaced windows, the same at every call, scaled on the longest context."""
        chosen = np.unique(np.linspace(0, len(self.starts) - 1, SELECTION_WINDOWS).astype(np.int64))
        for part in np.array_split(chosen, math.ceil(len(chosen) / batch_size)):
            batch = make_batch(*self.values(part), config.context[1], config.clip, leaky=config.leaky)
            yield batch._replace(keys=self._keys(part, np.zeros(len(part), dtype=np.bool_)))

    def _keys(self, chosen: IntArray, flipped: NDArray[np.bool_]) -> tuple[tuple[str, int, bool], ...]:
        return tuple((self.name, int(row), bool(flip)) for row, flip in zip(chosen, flipped, strict=True))


def _require_scalable(candles: Candles, starts: IntArray, window: int, name: str) -> None:
    """Refuse a number whose square, summed over a window, overflows float32.

    Below that bound no mean or deviation overflows, mirrored or not; above it a loss may be NaN, which the message of
    the training loop would blame on the learning rate.
    """
    limit = math.sqrt(float(np.finfo(np.float32).max) / window)
    for row in np.flatnonzero((candles.values > limit).any(axis=1)):
        if np.searchsorted(starts, row, side="right") > np.searchsorted(starts, row - window, side="right"):
            channel = int(np.argmax(candles.values[row]))
            raise CandleError(
                f"{name}: candles {candles.source}: {CHANNELS[channel]} {candles.values[row, channel]:.4g} at "
                f"{time_text(int(candles.open_time[row]))} is too large to be scaled in float32, expected at most "
                f"{limit:.2g} in a window of {window}; correct the candle, or leave it out"
            )


def _mirror(values: Float32Array, rows: NDArray[np.bool_]) -> None:
    """Turn the prices of some windows upside down around their first open; highs become lows."""
    prices = values[rows, :, :4]
    flipped = 2 * prices[:, :1, :1] - prices
    flipped[..., [HIGH, LOW]] = flipped[..., [LOW, HIGH]]
    values[rows, :, :4] = flipped


def make_batch(values: Float32Array, times: IntArray, context: int, clip: float, *, leaky: bool = False) -> Batch:
    """Scale windows on their first `context` candles.

    If `leaky`, on the whole of each window, candles to be predicted included, and every candle after the first
    counts: what the reference does in fine-tuning. Such losses contain information from the future.
    """
    known = values if leaky else values[:, :context]
    scaled = Scaling.fit(known).apply(values, clip)
    return Batch(torch.from_numpy(scaled), torch.from_numpy(stamps(times)), 1 if leaky else context)
