"""Funding series: what is read, and what is refused in one line."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from btcbt.candles import read_funding, require_cover
from btcbt.errors import ConfigError
from btcbt.records import HOUR_MS, FundingRates

START = 1_719_792_000_000  # 2024-07-01T00:00Z
UTC_MS = pa.timestamp("ms", tz="UTC")


def table(times: list[int | None], rates: list[float | None], kind: pa.DataType = UTC_MS) -> pa.Table:
    stamps = pa.array(times, type=pa.int64()).cast(kind)
    return pa.table({"time": stamps, "rate": pa.array(rates, type=pa.float64()), "symbol": ["BTCUSDT"] * len(times)})


def written(folder: Path, content: pa.Table) -> Path:
    file = folder / "funding.parquet"
    pq.write_table(content, file)
    return file


def eight_hourly(count: int) -> list[int]:
    return [START + 8 * HOUR_MS * k for k in range(count)]


@pytest.mark.parametrize(("unit", "per_ms"), [("s", 1e-3), ("ms", 1), ("us", 1_000), ("ns", 1_000_000)])
def test_times_of_any_unit_and_zone_are_the_instants_that_they_are(tmp_path: Path, unit: str, per_ms: float) -> None:
    times = [int(time * per_ms) for time in eight_hourly(3)]
    file = written(tmp_path, table(times, [1e-4, -2e-4, 0.0], pa.timestamp(unit, tz="Asia/Tokyo")))
    funding = read_funding(file)
    assert funding.time.tolist() == eight_hourly(3)
    assert funding.rate.tolist() == [1e-4, -2e-4, 0.0]
    assert funding.source == "funding.parquet"
    assert funding.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="read-only"):
        funding.rate[0] = 1.0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (table(eight_hourly(2), [1e-4, float("nan")]), "row 1 has no finite rate"),
        (table(eight_hourly(2), [None, 1e-4]), "row 0 has no finite rate"),
        (table(eight_hourly(2), [1e-4, 1.0]), "row 1 has a rate of 0.1 or more; write fractions"),
        (table([START, START], [1e-4, 1e-4]), "row 1 is not after the row before"),
        (table([START + 8 * HOUR_MS, START], [1e-4, 1e-4]), "row 1 is not after the row before"),
        (table([START, START + 8 * HOUR_MS + 7], [1e-4, 1e-4]), "row 1 is off the hour; round its time"),
        (table([START, None], [1e-4, 1e-4]), "row 1 has no time"),
        (table([], []), "no rows"),
        (table(eight_hourly(1), [1e-4], pa.timestamp("ms")), "expected a timestamp with a time zone"),
        (table(eight_hourly(1), [1e-4]).rename_columns(["time", "funding", "symbol"]), "column 'rate' is missing"),
        (pa.table({"time": eight_hourly(1), "rate": [1e-4]}), "column 'time' is int64, expected a timestamp"),
        (
            pa.table({"time": pa.array(eight_hourly(1), UTC_MS), "rate": ["0.0001"]}),
            "column 'rate' is string, expected float64",
        ),
    ],
)
def test_a_series_that_breaks_its_contract_is_refused_in_one_line(
    tmp_path: Path, content: pa.Table, problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read_funding(written(tmp_path, content))
    assert str(raised.value).startswith("portfolio.funding funding.parquet: ")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.parquet cannot be read \(No such file or directory\)"):
        read_funding(tmp_path / "nothing.parquet")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_funding(tmp_path)
    (tmp_path / "text.parquet").write_text("time,rate\n")
    with pytest.raises(ConfigError, match="not a readable Parquet file"):
        read_funding(tmp_path / "text.parquet")


def hours(*times: int) -> FundingRates:
    return FundingRates(START + HOUR_MS * np.array(times), np.zeros(len(times)), "rates", "")


def test_a_series_covers_a_period_with_a_rate_at_least_every_eight_hours_in_it() -> None:
    for start, end in ((0, 24), (0, 31), (3, 20), (7, 15), (8, 8)):
        require_cover(hours(0, 8, 16, 24), START + HOUR_MS * start, START + HOUR_MS * end)
    for times, start, end, first, last in (
        ((8, 16), 0, 24, "16:00", "00:00"),  # the one at the end is due
        ((8, 24), 0, 24, "08:00", "00:00"),
        ((16, 24), 0, 24, "00:00", "16:00"),
        ((0, 8), 12, 23, "12:00", "23:00"),
    ):
        with pytest.raises(ConfigError, match=rf"no rate between \S+T{first}\S* and \S+T{last}"):
            require_cover(hours(*times), START + HOUR_MS * start, START + HOUR_MS * end)


def test_the_message_names_the_period() -> None:
    end = int(datetime(2024, 8, 1, tzinfo=UTC).timestamp() * 1000)
    with pytest.raises(ConfigError, match="from 2024-07-01T00:00Z to 2024-08-01T00:00Z; extend the series"):
        require_cover(hours(0, 8), START, end)
