"""The frozen values that stages exchange.

Axes, everywhere in this package:

====  =========================================================================================
axis  meaning
====  =========================================================================================
N     candles of a history
B     origins of a batch
S     sample paths of one origin (`n_paths`)
T     candles of the context (`context`), the newest last
H     forecast steps (`horizon`), step 1 first
C     channels, in the order of `CHANNELS`
====  =========================================================================================

Times are int64 milliseconds since the epoch, UTC. A candle is named by its open time and known at its
close, ``open_time + interval_ms``. An **origin** is the close of the last candle that a forecast may see.
Prices are in quote units (USD, USDT), volume in base units (BTC), amount in quote units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("open", "high", "low", "close", "volume", "amount")
OPEN, HIGH, LOW, CLOSE, VOLUME, AMOUNT = range(6)

BPS = 1e-4
"""A basis point, as a fraction."""
IN_BPS = 1.0 / BPS
"""What a fraction is multiplied by to be in basis points: 10,000, exactly."""
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
YEAR_DAYS = 365.25
YEAR_MS = YEAR_DAYS * DAY_MS
"""A year; candles trade on every day of it."""

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
PathKind = Literal["independent", "dependent"]
"""How the paths of one origin were made: each drawn on its own, or in any way with regard to each other."""


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """A validated candle history; only `btcbt.candles` makes one from a file.

    Attributes
    ----------
    open_time : int64 (N,)
        Open times, ms UTC, increasing, on the interval's grid; absent rows are gaps.
    values : float64 (N, 6)
        The channels, `amount` filled where the source lacks it. Read-only.
    interval_ms : int
        Length of a candle in ms.
    source : str
        Name of this history in messages: a file name.
    sha256 : str
        Digest of the file that it was read from, or of the arrays if there was none.
    """

    open_time: IntArray
    values: FloatArray
    interval_ms: int
    source: str = "candles"
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.open_time)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The T contiguous candles up to an origin. It has no field that holds the future.

    Attributes
    ----------
    open_time : int64 (T,)
        Open times, ms UTC.
    values : float64 (T, 6)
        A read-only view into the history.
    interval_ms : int
        Length of a candle in ms.
    """

    open_time: IntArray
    values: FloatArray
    interval_ms: int

    @property
    def origin(self) -> int:
        """Close time of the last candle, ms UTC: the moment at which the forecast is made."""
        return int(self.open_time[-1]) + self.interval_ms

    @property
    def last_close(self) -> float:
        """The last known price."""
        return float(self.values[-1, CLOSE])

    def future_open_time(self, horizon: int) -> IntArray:
        """Open times (H,) of the candles to forecast: the calendar alone, no prices."""
        return self.origin + self.interval_ms * np.arange(horizon, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ForecastBatch:
    """Sample paths for B origins.

    Attributes
    ----------
    origins : int64 (B,)
        Origins, ms UTC.
    paths : float32 (B, S, H, C)
        Sampled candles, in quote and base units. Point forecasts and quantiles are derived from them.
    provenance : mapping of str to str
        Where they come from: forecaster, digests of weights, device.
    """

    origins: IntArray
    paths: Float32Array
    provenance: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.paths.ndim != 4 or self.paths.shape[0] != len(self.origins) or self.paths.shape[3] != 6:
            raise ValueError(f"paths {self.paths.shape} are not (B={len(self.origins)}, S, H, 6)")

    def __len__(self) -> int:
        return len(self.origins)


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What a strategy sees at one origin: the past, and sampled futures.

    Attributes
    ----------
    window : Window
        The candles known at the origin.
    paths : float32 (S, H, C)
        Sampled candles after the origin.
    """

    window: Window
    paths: Float32Array

    @property
    def origin(self) -> int:
        """The moment of the decision, ms UTC."""
        return self.window.origin

    @property
    def last_close(self) -> float:
        """The last known price, in quote units."""
        return self.window.last_close

    @property
    def close_paths(self) -> Float32Array:
        """Sampled closes, (S, H)."""
        return self.paths[:, :, CLOSE]

    def returns(self, step: int = -1) -> FloatArray:
        """Simple returns from the last known close to the close of `step` (index into H), (S,)."""
        return np.asarray(self.close_paths[:, step], dtype=np.float64) / self.last_close - 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Forecasts:
    """What a strategy sees at B consecutive origins, as arrays; see `Forecast`.

    Attributes
    ----------
    windows : sequence of Window (B,)
        The candles known at each origin.
    paths : float32 (B, S, H, C)
        Sampled candles after each origin.
    """

    windows: Sequence[Window]
    paths: Float32Array

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def last_close(self) -> FloatArray:
        """The last known price at each origin, in quote units, (B,)."""
        return np.array([window.last_close for window in self.windows])

    def returns(self, step: int = -1) -> FloatArray:
        """Simple returns from the last known close to the close of `step` (index into H), (B, S)."""
        closes = np.ascontiguousarray(self.paths[:, :, step, CLOSE], dtype=np.float64)
        return closes / self.last_close[:, None] - 1.0


@dataclass(frozen=True, slots=True)
class Holding:
    """The current position when a strategy decides.

    Attributes
    ----------
    weight : float
        The strategy's last target, in [-1, 1]; 0.0 before the first.
    candles_held : int
        Candles since the sign of the target last changed (0 at the first decision).
    """

    weight: float = 0.0
    candles_held: int = 0


@dataclass(frozen=True, slots=True)
class DataRange:
    """A span of candles, [start, end) in ms UTC, that something was fitted or selected on.

    `use` is one of ``pretraining``, ``finetuning``, ``selection``, ``fit``, ``looked_at`` for choices (of a recipe, a
    version, a default) that were made with scores on these candles in sight, or ``unknown`` for undeclared data, whose
    span has no meaning.

    Raises
    ------
    ValueError
        If it ends before it starts.
    """

    use: str
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(
                f"data range '{self.use}': its end {self.end} is before its start {self.start} (ms UTC); swap them"
            )


@dataclass(frozen=True, slots=True)
class Refit:
    """A checkpoint that was fitted inside the walk-forward, for the origins in [start, end), ms UTC.

    Attributes
    ----------
    start, end : int
        Range of the origins that it forecasts.
    key : str
        Digest of its inputs: candles, recipe, starting weights.
    folder : str
        Folder of the checkpoint.
    weights : str
        Digest of the fitted weights.
    ranges : tuple of DataRange, or None
        Data that it and its starting weights were fitted or selected on; None if some of that is unknown.
    """

    start: int
    end: int
    key: str
    folder: str
    weights: str
    ranges: tuple[DataRange, ...] | None
