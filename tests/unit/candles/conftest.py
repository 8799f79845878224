"""Candle tables to break."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from btcbt.records import CHANNELS, FloatArray, IntArray
from tests.unit.candles.archive_server import HOUR, ArchiveServer, Clock, walk

START = 1_546_300_800_000  # 2019-01-01T00:00Z


def hours(n: int) -> IntArray:
    return START + HOUR * np.arange(n, dtype=np.int64)


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


@pytest.fixture
def archive_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ArchiveServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def clock() -> Clock:
    return Clock()
