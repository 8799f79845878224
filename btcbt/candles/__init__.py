"""Candle history on disk to validated, read-only `Candles`."""

from btcbt.candles.bundled import bundled_names
from btcbt.candles.ops import find_gaps, resample, slice_candles
from btcbt.candles.parquet import read_candles, write_candles
from btcbt.candles.schema import make_candles

__all__ = [
    "bundled_names",
    "find_gaps",
    "make_candles",
    "read_candles",
    "resample",
    "slice_candles",
    "write_candles",
]
