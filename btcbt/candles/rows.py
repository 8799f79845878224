"""Candle rows as read from a source, before validation.

`Candles` are validated; `Rows` include off-grid, repeated, unordered or broken rows, so that they can be counted,
reported and, on request, dropped. Times are kept in **microseconds**, because the Binance
archive has used them since 2025 and a close time such as 00:59:59.999999 has no exact value in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from btcbt.candles.schema import candle_error, check_interval, make_candles
from btcbt.records import CHANNELS, Candles, FloatArray, IntArray

US = 1000
"""Microseconds in a millisecond."""
UNKNOWN = np.iinfo(np.int64).min
"""Marks a close time that the source lacks."""

# An epoch count below the first bound is in seconds, below the second in ms, below the third in us. In the preceding
# unit each bound lies after the year 5000; in its own unit, in the spring of 1973.
_UNIT_BOUNDS = (10**11, 10**14, 10**17)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """N rows of one source, in its order.

    Attributes
    ----------
    open_us, close_us : int64 (N,)
        Open and close times, microseconds UTC; `close_us` is `UNKNOWN` where the source lacks it.
    values : float64 (N, 6)
        The channels; NaN where a value is missing.
    source : str
        Name of the source in messages.
    """

    open_us: IntArray
    close_us: IntArray
    values: FloatArray
    source: str

    def __post_init__(self) -> None:
        n = len(self.open_us)
        if self.close_us.shape != (n,) or self.values.shape != (n, len(CHANNELS)):
            raise ValueError(f"close_us {self.close_us.shape} or values {self.values.shape} do not fit {n} rows")

    def __len__(self) -> int:
        return len(self.open_us)

    @property
    def open_ms(self) -> IntArray:
        """Open times in ms UTC, rounded down."""
        return self.open_us // US

    def take(self, index: IntArray | NDArray[np.bool_]) -> Rows:
        """The rows at `index`, or where a mask is true."""
        return Rows(self.open_us[index], self.close_us[index], self.values[index], self.source)

    def to_candles(self, interval: str) -> Candles:
        """Validate the rows as `Candles`; missing amounts are estimated.

        Raises
        ------
        CandleError
            If a row breaks the contract, or the rows are candles of a longer interval.
        """
        ragged = np.flatnonzero(self.open_us % US)
        if len(ragged):
            moment = np.datetime64(int(self.open_us[ragged[0]]), "us")
            raise candle_error(self.source, f"row {ragged[0]} ({moment}Z) is not on a whole ms; drop the row")
        candles = make_candles(self.open_ms, self.values, interval=interval, source=self.source)
        check_interval(candles)
        return candles


def join_rows(parts: Sequence[Rows], source: str) -> Rows:
    """All rows of `parts`, concatenated."""
    if not parts:
        return Rows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, len(CHANNELS))), source)
    return Rows(
        np.concatenate([part.open_us for part in parts]),
        np.concatenate([part.close_us for part in parts]),
        np.concatenate([part.values for part in parts]),
        source,
    )


def same_rows(one: Rows, first: IntArray, other: Rows, second: IntArray) -> NDArray[np.bool_]:
    """Whether the channels of row ``first[i]`` of `one` equal those of row ``second[i]`` of `other`, (M,)."""
    left, right = one.values[first], other.values[second]
    return np.asarray(((left == right) | (np.isnan(left) & np.isnan(right))).all(axis=1))


def epoch_us(counts: IntArray, source: str) -> IntArray:
    """Convert counts since 1970 in s, ms, us or ns, recognised by their size, to microseconds.

    Raises
    ------
    CandleError
        If a count in nanoseconds is not a whole microsecond.
    """
    size = np.abs(np.maximum(counts, UNKNOWN + 1))
    seconds, milli, micro = (size < bound for bound in _UNIT_BOUNDS)
    rest = np.where(~micro, counts % US, 0)
    if rest.any():
        row = int(np.argmax(rest != 0))
        raise candle_error(source, f"row {row}: time {counts[row]} ns is not a whole microsecond; round the times")
    factor = np.where(seconds, US * US, np.where(milli, US, 1))
    # The factor is 1 wherever the product could overflow.
    return np.asarray(np.where(micro, np.where(micro, counts, 0) * factor, counts // US))
