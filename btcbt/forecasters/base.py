"""The Forecaster protocol: what a walk-forward asks of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from btcbt.records import DataRange, ForecastBatch, IntArray, Window


class Part(NamedTuple):
    """Origins that the same fitted parts forecast.

    Attributes
    ----------
    rows : int64
        Which of the origins asked about.
    weights : str
        Digest of what was fitted for them alone; empty if the forecaster's identity says it all.
    ranges : sequence of DataRange, or None
        As `Forecaster.data_ranges`, of these parts.
    """

    rows: IntArray
    weights: str
    ranges: Sequence[DataRange] | None


class Forecaster(ABC):
    """Turns windows of known candles into sampled futures.

    Attributes
    ----------
    context : int
        T, candles in each window that it is given.
    horizon : int
        H, candles ahead.
    n_paths : int
        S, sample paths of each origin.
    seed : int
        Keys the random numbers (`btcbt.randomness.uniforms`).
    """

    single_threaded: bool = False
    """True if a forecast is slow and does best on one core: several processes then share the work."""

    def __init__(self, *, context: int, horizon: int, n_paths: int, seed: int) -> None:
        self.context = context
        self.horizon = horizon
        self.n_paths = n_paths
        self.seed = seed

    @abstractmethod
    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        """Sample the H candles after each window.

        Parameters
        ----------
        windows : sequence of Window
            B windows of T candles each, of one interval.

        Returns
        -------
        ForecastBatch
            ``paths`` (B, S, H, 6); the paths of an origin do not depend on the other windows of the call.
        """

    @abstractmethod
    def identity(self) -> Mapping[str, object]:
        """Everything but the candles that determines a forecast, as JSON values.

        Two forecasters with equal identities give equal paths on equal windows; the store keys on it. It
        holds content (digests of weights), not names or places.
        """

    @property
    def batch_size(self) -> int:
        """How many origins to hand over in one call; speed and memory alone depend on it."""
        return 64

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Candles that fitted parts have looked at; empty if nothing was fitted, None if that is unknown."""
        return ()

    def parts(self, origins: IntArray) -> Iterator[Part]:
        """Group origins by the fitted parts that forecast them: all together, unless it is refitted as time passes."""
        yield Part(np.arange(len(origins), dtype=np.int64), "", self.data_ranges())
