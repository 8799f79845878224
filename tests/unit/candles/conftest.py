"""Candle tables to break."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from btcbt.records import CHANNELS, FloatArray, IntArray

HOUR = 3_600_000
START = 1_546_300_800_000  # 2019-01-01T00:00Z


def hours(n: int) -> IntArray:
    return START + HOUR * np.arange(n, dtype=np.int64)


def walk(rng: np.random.Generator, n: int) -> FloatArray:
    """Consistent candles (n, 6) around 100, with an exact amount."""
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, n)))
    opened = close * np.exp(rng.normal(0, 0.005, n))
    high = np.maximum(opened, close) * (1 + rng.uniform(0, 0.01, n))
    low = np.minimum(opened, close) * (1 - rng.uniform(0, 0.01, n))
    volume = rng.uniform(0, 50, n)
    return np.stack([opened, high, low, close, volume, volume * close], axis=1)


@pytest.fixture
def times() -> IntArray:
    return hours(48)


@pytest.fixture
def values(rng: np.random.Generator) -> FloatArray:
    return walk(rng, 48)


@pytest.fixture
def columns(times: IntArray, values: FloatArray) -> dict[str, pa.Array]:
    """The columns of a correct file, to be changed by a test."""
    opened = pa.array(times).cast(pa.timestamp("ms", tz="UTC"))
    return {"open_time": opened} | {name: pa.array(values[:, c]) for c, name in enumerate(CHANNELS)}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[dict[str, pa.Array]], Path]:
    """Write columns, right or wrong, as a foreign program would."""

    def write(columns: dict[str, pa.Array]) -> Path:
        path = tmp_path / "history.parquet"
        pq.write_table(pa.table(columns), path)
        return path

    return write
