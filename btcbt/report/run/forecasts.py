"""Stored forecasts as tables: quantiles, and the paths themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from btcbt.config import interval_ms
from btcbt.records import CHANNELS, ForecastBatch, IntArray
from btcbt.storage.forecasts import ForecastStore, ShardPlan
from btcbt.storage.runs import StoredForecasts, require

if TYPE_CHECKING:
    import pandas as pd

FAN = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
"""The median and the ends of the central 50, 80 and 95 %."""


class Forecasts(StoredForecasts):
    """The forecasts of one forecaster of a run, read when asked for.

    Attributes
    ----------
    name : str
        The forecaster.
    origins : int64 (M,)
        Origins, ms UTC.
    """

    def __init__(self, name: str, store: ForecastStore, plan: ShardPlan, origins: IntArray, interval: str) -> None:
        super().__init__(name, store, plan, origins)
        self._interval = interval

    @classmethod
    def of(cls, forecasts: StoredForecasts, interval: str) -> Self:
        """The same forecasts, of candles of an interval, with everything that this class adds."""
        return cls(forecasts.name, forecasts._store, forecasts._plan, forecasts.origins, interval)

    def quantiles(
        self, levels: Sequence[float] = FAN, channel: str = "close", start: int = 0, stop: int | None = None
    ) -> pd.DataFrame:
        """Quantiles of one channel, those that scores and figures use.

        Parameters
        ----------
        levels : sequence of float
            Probabilities between 0 and 1; the extreme paths bound the quantiles (see
            `btcbt.metrics.distribution.sample_quantiles`).
        channel : str
            One of `btcbt.records.CHANNELS`.
        start, stop : int
            Rows of `origins`; all of them by default.

        Returns
        -------
        DataFrame
            In quote or base units, indexed by ``origin`` (UTC) and ``step`` (1 .. H), a column a level.
        """
        import pandas as pd

        from btcbt.metrics.distribution import sample_quantiles  # scipy comes with it

        column = CHANNELS.index(require(channel, CHANNELS, "channel"))
        rows = [
            sample_quantiles(np.sort(batch.paths[..., column], axis=1).swapaxes(1, 2), levels)
            for batch in self._slices(start, stop)
        ]
        values = np.concatenate(rows) if rows else np.empty((0, self.shape[1], len(levels)))
        index = pd.MultiIndex.from_product([utc(self.origins[start:stop]), self._steps()], names=["origin", "step"])
        return pd.DataFrame(
            values.reshape(-1, len(levels)), index=index, columns=pd.Index(list(levels), name="quantile")
        )

    def frame(self, start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """The sampled candles, one a row: large, 1,000 origins of 30 paths and 24 steps are 720,000 rows.

        Parameters
        ----------
        start, stop : int
            Rows of `origins`; all of them by default.

        Returns
        -------
        DataFrame
            ``origin`` (UTC), ``path`` (0 .. S - 1), ``step`` (1 .. H), ``time`` (the candle's open, UTC) and the
            channels of `btcbt.records.CHANNELS`.
        """
        import pandas as pd

        paths, origins = self.paths(start, stop), self.origins[start:stop]
        count, samples, horizon, channels = paths.shape
        length = interval_ms(self._interval)
        opened = origins[:, None] + length * np.arange(horizon, dtype=np.int64)
        return pd.DataFrame(
            {
                "origin": utc(origins).repeat(samples * horizon),
                "path": np.tile(np.repeat(np.arange(samples), horizon), count),
                "step": np.tile(self._steps(), count * samples),
                "time": utc(np.repeat(opened, samples, axis=0).ravel()),
                **dict(zip(CHANNELS, paths.reshape(-1, channels).T, strict=True)),
            }
        )

    def _steps(self) -> IntArray:
        return np.arange(1, self.shape[1] + 1, dtype=np.int64)

    def _slices(self, start: int, stop: int | None, size: int = 256) -> Iterator[ForecastBatch]:
        part = slice(start, stop)
        origins = self.origins[part]
        return self._store.read(self._plan.part(part), origins, size) if len(origins) else iter(())


def utc(times: IntArray) -> pd.DatetimeIndex:
    """Times in ms UTC as pandas has them."""
    import pandas as pd

    return pd.DatetimeIndex(times.astype("datetime64[ms]")).tz_localize("UTC")
