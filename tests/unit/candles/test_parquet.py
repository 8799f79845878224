import contextlib
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from btcbt.candles import make_candles, parquet, read_candles, write_candles
from btcbt.errors import CandleError
from btcbt.records import AMOUNT, CHANNELS, VOLUME, Candles

HOUR = 3_600_000
NO_DEADLINE = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refusal(path, interval="1h") -> str:
    with pytest.raises(CandleError) as caught:
        read_candles(path, interval)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"candles {Path(path).name}: ")
    return message


@st.composite
def histories(draw) -> Candles:
    """Any valid history: gaps anywhere, prices and volumes over many orders of magnitude, amounts or none."""
    n = draw(st.integers(1, 20))
    hours = draw(st.lists(st.integers(0, 40), min_size=n, max_size=n, unique=True))
    # Two neighbours, so that the interval shows.
    hours = sorted({*hours, hours[0] + 1})
    n = len(hours)
    numbers = st.floats(1e-8, 1e8)
    prices = np.sort(draw(hnp.arrays(np.float64, (n, 4), elements=numbers)), axis=1)
    swap = draw(hnp.arrays(np.bool_, n))
    low, inner, outer, high = prices.T
    opened, close = np.where(swap, outer, inner), np.where(swap, inner, outer)
    volume = draw(hnp.arrays(np.float64, n, elements=st.floats(0, 1e12)))
    amount = draw(hnp.arrays(np.float64, n, elements=st.one_of(st.just(np.nan), st.floats(0, 1e18))))
    values = np.stack([opened, high, low, close, volume, amount], axis=1)
    return make_candles(np.array(hours) * HOUR, values, interval="1h")


@NO_DEADLINE
@given(histories())
def test_a_written_history_is_read_back_exactly(tmp_path, candles):
    path = tmp_path / "history.parquet"
    digest = write_candles(candles, path)
    again = read_candles(path)
    np.testing.assert_array_equal(again.open_time, candles.open_time)
    np.testing.assert_array_equal(again.values, candles.values)
    assert digest == again.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (again.source, again.interval_ms) == ("history.parquet", HOUR)


def _negate(values, row):
    values[row, VOLUME] = -1.0


def _blank(values, row):
    values[row, 3] = np.nan


def _invert(values, row):
    values[row, 1] = values[row, 2] / 2


def _zero(values, row):
    values[row, :4] = 0.0


@NO_DEADLINE
@given(st.data(), st.sampled_from([_negate, _blank, _invert, _zero]))
def test_a_corrupt_value_is_named_with_its_row_and_time(tmp_path, data, corrupt):
    good = data.draw(histories())
    row = data.draw(st.integers(0, len(good) - 1))
    values = good.values.copy()
    corrupt(values, row)
    path = tmp_path / "history.parquet"
    pq.write_table(_table(good.open_time, values), path)
    time = np.datetime_as_string(np.datetime64(int(good.open_time[row]), "ms"), unit="s")
    assert f"row {row} ({time}Z) has " in refusal(path)


@NO_DEADLINE
@given(st.data())
def test_a_corrupt_time_is_named_with_its_row(tmp_path, data):
    good = data.draw(histories())
    row = data.draw(st.integers(1, len(good) - 1))
    times = good.open_time.copy()
    wrong = data.draw(st.sampled_from(["off the grid", "repeated", "earlier"]))
    times[row] = {
        "off the grid": times[row] + 1,
        "repeated": times[row - 1],
        "earlier": times[row - 1] - HOUR if times[row - 1] >= HOUR else times[row - 1],
    }[wrong]
    path = tmp_path / "history.parquet"
    pq.write_table(_table(times, good.values), path)
    assert f"row {row} (" in refusal(path)


def _table(times, values) -> pa.Table:
    opened = pa.array(times).cast(pa.timestamp("ms", tz="UTC"))
    return pa.table({"open_time": opened} | {name: values[:, c] for c, name in enumerate(CHANNELS)})


@NO_DEADLINE
@given(st.data())
def test_damaged_bytes_never_pass_for_other_candles(tmp_path, data):
    times = 1_546_300_800_000 + HOUR * np.arange(6)
    values = np.tile([100.0, 102.0, 99.0, 101.0, 5.0, 503.0], (6, 1)) + np.arange(6)[:, None]
    path = tmp_path / "history.parquet"
    write_candles(make_candles(times, values, interval="1h"), path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with contextlib.suppress(CandleError):
        survived = read_candles(path)
        np.testing.assert_array_equal(survived.values, values)
        np.testing.assert_array_equal(survived.open_time, times)


def test_a_flipped_bit_in_a_stored_volume_is_found_out(tmp_path, times, values):
    """Any volume is plausible, so that only the page's checksum can tell."""
    path = tmp_path / "history.parquet"
    write_candles(make_candles(times, values, interval="1h"), path)
    stored = pq.read_metadata(path).row_group(0).column(1 + VOLUME)
    start, content = stored.data_page_offset, path.read_bytes()
    # Past the page's header of some 60 bytes lie the values.
    for at in range(start + 100, start + stored.total_compressed_size, 16):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert "not a readable Parquet file" in refusal(path)


@pytest.mark.parametrize("name", ["open_time", "open", "high", "low", "close", "volume"])
def test_a_missing_column_is_named(columns, save, name):
    del columns[name]
    message = refusal(save(columns))
    assert f"column '{name}' is missing, got " in message
    assert message.endswith("rename or add the column")


def test_a_file_without_amount_gets_the_estimate(columns, save, values):
    del columns["amount"]
    candles = read_candles(save(columns))
    np.testing.assert_allclose(candles.values[:, AMOUNT], values[:, VOLUME] * values[:, :4].sum(axis=1) / 4, rtol=1e-15)


@pytest.mark.parametrize("kind", ["null", "some nulls", "nan"])
def test_rows_without_amount_get_the_estimate(columns, save, values, kind):
    amount = [None, *values[1:, AMOUNT].tolist()]
    columns["amount"] = {
        "null": pa.nulls(48),
        "some nulls": pa.array(amount, pa.float64()),
        "nan": pa.array([np.nan, *amount[1:]], from_pandas=False),
    }[kind]
    candles = read_candles(save(columns))
    assert candles.values[0, AMOUNT] == pytest.approx(values[0, VOLUME] * values[0, :4].mean(), rel=1e-15)
    if kind != "null":
        np.testing.assert_array_equal(candles.values[1:, AMOUNT], values[1:, AMOUNT])


def test_a_null_price_is_named(columns, save, values):
    columns["close"] = pa.array([*values[:5, 3].tolist(), None, *values[6:, 3].tolist()])
    assert "row 5 (2019-01-01T05:00:00Z) has close nan, expected a finite number" in refusal(save(columns))


@pytest.mark.parametrize("kind", [pa.float32(), pa.int64(), pa.string(), pa.decimal128(38, 18)])
@pytest.mark.parametrize("name", ["open", "volume", "amount"])
def test_a_number_of_another_type_is_refused(columns, save, kind, name):
    columns[name] = pa.array([1] * 48).cast(kind)
    assert f"column '{name}' is {kind}, expected float64; cast it" in refusal(save(columns))


def test_a_column_that_appears_twice_is_refused(columns, tmp_path):
    names = [*columns, "close"]
    path = tmp_path / "history.parquet"
    pq.write_table(pa.Table.from_arrays([*columns.values(), columns["open"]], names=names), path)
    assert "column 'close' appears 2 times; keep one" in refusal(path)


def test_other_columns_are_ignored(columns, save, values):
    columns["trades"] = pa.array(range(48))
    np.testing.assert_array_equal(read_candles(save(columns)).values, values)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Etc/UTC", "+00:00"])
def test_utc_times_of_any_unit_are_taken_exactly(columns, save, times, unit, zone):
    columns["open_time"] = columns["open_time"].cast(pa.timestamp(unit, tz=zone))
    np.testing.assert_array_equal(read_candles(save(columns)).open_time, times)


@pytest.mark.parametrize(("unit", "per_ms"), [("us", 1_000), ("ns", 1_000_000)])
def test_a_time_between_milliseconds_is_named(columns, save, times, unit, per_ms):
    ticks = times * per_ms
    ticks[3] += 1
    columns["open_time"] = pa.array(ticks).cast(pa.timestamp(unit, tz="UTC"))
    message = refusal(save(columns))
    assert "row 3 (2019-01-01T03:00:00.000" in message
    assert "is not on a whole millisecond" in message


def test_times_without_a_timezone_are_refused(columns, save):
    columns["open_time"] = columns["open_time"].cast(pa.timestamp("ms"))
    assert "column 'open_time' has no timezone, expected timestamp[ms, tz=UTC]" in refusal(save(columns))


def test_times_of_another_timezone_are_refused(columns, save):
    columns["open_time"] = columns["open_time"].cast(pa.timestamp("ms", tz="Europe/London"))
    assert "column 'open_time' is in Europe/London, expected" in refusal(save(columns))


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_times_that_are_no_timestamps_are_refused(columns, save, kind):
    columns["open_time"] = columns["open_time"].cast(pa.int64()).cast(kind)
    assert f"column 'open_time' is {kind}, expected timestamp[ms, tz=UTC]" in refusal(save(columns))


def test_a_null_time_is_named(columns, save):
    columns["open_time"] = pa.array(
        [*columns["open_time"][:4].to_pylist(), None, *columns["open_time"][5:].to_pylist()]
    )
    columns["open_time"] = columns["open_time"].cast(pa.timestamp("ms", tz="UTC"))
    assert "row 4 has no open_time; drop the row" in refusal(save(columns))


def test_seconds_beyond_any_calendar_are_refused_without_overflow(columns, tmp_path, monkeypatch):
    columns["open_time"] = pa.array([2**62] * 48).cast(pa.timestamp("s", tz="UTC"))
    monkeypatch.setattr(parquet, "_read_table", lambda content, source: pa.table(columns))
    path = tmp_path / "history.parquet"
    path.write_bytes(b"not looked at")
    assert "row 0 " in refusal(path)
    assert "is outside 1970 .. 2200" in refusal(path)


def test_a_file_without_rows_is_refused(columns, save):
    assert "has no rows" in refusal(save({name: column[:0] for name, column in columns.items()}))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"open_time,open\n1,2\n", b"PAR1" + bytes(64) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(tmp_path, content):
    path = tmp_path / "history.parquet"
    path.write_bytes(content)
    assert "not a readable Parquet file (" in refusal(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    missing = refusal(tmp_path / "nowhere.parquet")
    assert f"{tmp_path / 'nowhere.parquet'} does not exist; give a Parquet file or bundled:NAME" in missing
    (tmp_path / "folder.parquet").mkdir()
    assert "is not a file" in refusal(str(tmp_path / "folder.parquet"))


def test_a_file_that_cannot_be_opened_is_named(columns, save, monkeypatch):
    path = save(columns)

    def denied(_path, _limit):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(parquet, "read_file", denied)
    assert "cannot be read (Permission denied)" in refusal(path)


def test_oversized_files_are_refused_before_they_are_read(columns, save, monkeypatch):
    path = save(columns)
    monkeypatch.setattr(parquet, "MAX_ROWS", 47)
    assert "48 rows, expected at most 47" in refusal(path)
    monkeypatch.setattr(parquet, "MAX_FILE_BYTES", 100)
    assert "cannot be read (larger than 100 bytes); check it, or split" in refusal(path)


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path):
    with pytest.raises(CandleError) as caught:
        read_candles(tmp_path / "two\nlines.parquet")
    assert "\n" not in str(caught.value)


def test_a_history_without_amount_can_be_written_without_it(tmp_path, times, values):
    values[:, AMOUNT] = np.nan
    candles = make_candles(times, values, interval="1h")
    path = tmp_path / "history.parquet"
    write_candles(candles, path, amount=False)
    assert "amount" not in pq.read_schema(path).names
    np.testing.assert_array_equal(read_candles(path).values, candles.values)


def test_the_written_types_are_those_of_the_contract(tmp_path, times, values):
    path = tmp_path / "history.parquet"
    write_candles(make_candles(times, values, interval="1h"), path)
    schema = pq.read_schema(path)
    assert schema.names == ["open_time", *CHANNELS]
    assert schema.field("open_time").type == pa.timestamp("ms", tz="UTC")
    assert all(schema.field(name).type == pa.float64() for name in CHANNELS)


def test_invalid_candles_are_not_written(tmp_path, times, values):
    values[3, 0] = -1.0
    path = tmp_path / "history.parquet"
    with pytest.raises(CandleError, match=r"row 3 .* has open -1.0"):
        write_candles(Candles(times, values, HOUR), path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, times, values, monkeypatch):
    path = tmp_path / "history.parquet"
    path.write_bytes(b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("btcbt.files.os.fsync", full)
    with pytest.raises(CandleError, match=r"cannot be written to .* \(No space left on device\)"):
        write_candles(make_candles(times, values, interval="1h"), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_a_missing_folder_is_named(tmp_path, times, values):
    with pytest.raises(CandleError, match=r"cannot be written to .*; give a writable folder"):
        write_candles(make_candles(times, values, interval="1h"), tmp_path / "no" / "history.parquet")


def test_importing_candles_imports_no_pandas_torch_or_vectorbt():
    code = "import sys, btcbt.candles; print(sorted({'pandas', 'torch', 'vectorbt'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_4h_history_read_as_hours_is_found_out(shared_data):
    message = refusal(shared_data / "BTCUSDT_4h.parquet", "1h")
    assert message.endswith("set the interval to 4h or use a 1h history")


@pytest.mark.parametrize(
    ("name", "interval", "rows", "gaps", "missing"),
    [
        ("BTCUSDT_1h", "1h", 73_285, 28, 127),
        ("ETHUSDT_1h", "1h", 73_285, 28, 127),
        ("BTCUSDT_4h", "4h", 18_337, 8, 16),
    ],
)
def test_real_histories_are_read_whole(shared_data, name, interval, rows, gaps, missing):
    path = shared_data / f"{name}.parquet"
    candles = read_candles(path, interval)
    jumps = np.diff(candles.open_time) // candles.interval_ms
    assert (len(candles), int((jumps > 1).sum()), int((jumps - 1).sum())) == (rows, gaps, missing)
    assert candles.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.isfinite(candles.values).all()
    stored = pq.read_table(path)
    for channel, column in enumerate(CHANNELS):
        expected = stored.column(column).to_numpy()
        known = np.isfinite(expected)
        np.testing.assert_array_equal(candles.values[known, channel], expected[known])


def test_every_shared_parquet_file_can_be_read(shared_data):
    files = sorted(shared_data.glob("*.parquet"))
    assert files
    for path in files:
        interval = path.stem.split("_")[-1]
        assert len(read_candles(path, interval)) == pq.read_metadata(path).num_rows


def test_the_estimated_amount_of_real_candles_is_near_the_true_one(shared_data):
    candles = read_candles(shared_data / "BTCUSDT_1h.parquet")
    traded = candles.values[:, VOLUME] > 0
    estimate = candles.values[traded, VOLUME] * candles.values[traded, :4].mean(axis=1)
    error = np.abs(estimate / candles.values[traded, AMOUNT] - 1)
    assert np.quantile(error, 0.99) < 0.02
