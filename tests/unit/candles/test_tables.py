"""Foreign tables: columns by name, times in every unit, and the refusals."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from btcbt.candles import tables
from btcbt.candles.rows import UNKNOWN
from btcbt.candles.tables import parse_csv, parse_json, parse_parquet
from btcbt.errors import CandleError
from btcbt.records import CHANNELS
from tests.unit.candles.archive_server import HOUR, kline_csv, walk

START = 1_735_682_400_000  # 2024-12-31T22:00Z
N = 4
TIMES = START + HOUR * np.arange(N)
UNITS = {"s": 1 / 1000, "ms": 1, "us": 1000, "ns": 1_000_000}


@pytest.fixture
def values(rng):
    return walk(rng, N)


def plain(values, stamps, header="timestamp,open,high,low,close,volume,amount") -> bytes:
    lines = [header] if header else []
    lines += [",".join([str(at), *map(repr, row)]) for at, row in zip(stamps, values.tolist(), strict=True)]
    return ("\n".join(lines) + "\n").encode()


def check(rows, values, closes=False):
    np.testing.assert_array_equal(rows.open_us, TIMES * 1000)
    np.testing.assert_array_equal(rows.values, values)
    assert (rows.close_us == UNKNOWN).all() != closes


def refused(call, *arguments, **options) -> str:
    with pytest.raises(CandleError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("candles x: ")
    assert len(message) < 600
    return message


@pytest.mark.parametrize("unit", UNITS)
def test_counts_are_read_in_the_unit_that_their_size_tells(values, unit):
    stamps = [int(at * UNITS[unit]) for at in TIMES]
    check(parse_csv(plain(values, stamps), "x"), values)
    check(parse_csv(plain(values, stamps, header=""), "x"), values)


@pytest.mark.parametrize(
    "form",
    ["{}", "{}Z", "{}.000Z", "{}.000000+00:00", "{}+0000", "{} UTC", "{}UTC"],
)
@pytest.mark.parametrize("letter", ["T", " "])
def test_iso_times_are_utc_unless_they_say_otherwise(values, form, letter):
    stamps = [form.format(str(np.datetime64(int(at), "s")).replace("T", letter)) for at in TIMES // 1000]
    check(parse_csv(plain(values, stamps), "x"), values)


def test_iso_times_with_an_offset_are_converted(values):
    stamps = [f"{np.datetime64(int(at) + 2 * HOUR, 'ms')}+02:00" for at in TIMES]
    check(parse_csv(plain(values, stamps), "x"), values)


def test_fractions_of_a_microsecond_have_no_place(values):
    stamps = ["2024-12-31T22:00:00.0000001Z"] * N
    assert "expected a count since 1970 or ISO 8601" in refused(parse_csv, plain(values, stamps), "x")
    stamps = [int(at) * 1_000_000 + 1 for at in TIMES]
    assert "is not a whole microsecond" in refused(parse_csv, plain(values, stamps), "x")


@pytest.mark.parametrize(
    "stamp", ["now", "today", "yesterday", "2024-13-01", "2024-12-31T25:00", "x", "1e12", "9" * 30]
)
def test_words_and_impossible_dates_are_no_times(values, stamp):
    refused(parse_csv, plain(values, [f"2024-12-31T2{i}:00" for i in range(3)] + [stamp]), "x")


@pytest.mark.parametrize("micro", [False, True])
def test_the_archives_columns_are_read_by_place(values, micro):
    table = kline_csv(values, START, micro=micro).encode()
    check(parse_csv(table, "x"), values, closes=True)
    check(parse_csv(b"\xef\xbb\xbf" + table.replace(b"\n", b"\r\n"), "x", columns=12), values, closes=True)


def test_the_archives_columns_are_read_by_name_in_any_order(values):
    titles = "Open time,Open,High,Low,Close,Volume,Close time,Quote asset volume,Number of trades,a,b,Ignore"
    table = kline_csv(values, START, title=titles)
    turned = "\n".join(",".join(reversed(line.split(","))) for line in table.splitlines())
    check(parse_csv(table.encode(), "x"), values, closes=True)
    check(parse_csv(turned.encode(), "x"), values, closes=True)


def test_a_table_without_amounts_has_them_missing(values):
    values[:, 5] = np.nan
    six = [row.rsplit(b",", 1)[0] for row in plain(values, TIMES, header="").splitlines()]
    check(parse_csv(b"\n".join(six), "x"), values)
    check(parse_csv(plain(values, TIMES).replace(b"nan", b""), "x"), values)


def test_upstreams_names_are_known(values):
    check(parse_csv(plain(values, TIMES, header="timestamps,open,high,low,close,volume,amount"), "x"), values)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("timestamp,open,high,low,volume,amount,x", "no column 'close'"),
        ("when,open,high,low,close,volume,amount", "no column 'open_time'"),
        ("timestamp,date,high,low,close,volume,open", "'timestamp', 'date' are all 'open_time'"),
        ("timestamp,open,high,low,close,volume,Volume", "'volume', 'Volume' are all 'volume'"),
    ],
)
def test_a_header_that_misses_or_repeats_a_column_is_refused(values, header, says):
    assert says in refused(parse_csv, plain(values, TIMES, header=header), "x")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n\n\r\n", "is empty"),
        (b"1,2,3\n", "3 columns and no header"),
        (b"timestamp,open,high,low,close,volume\n", "0 rows"),
        (b"1735682400000,1,1,1,1,1\n1735686000000,1,1,1\n", "Expected 6 columns, got 4"),
        (b"1735682400000,1,1,1,one,1\n", "invalid value 'one'"),
        (b"1735682400000,1,1,1,1,1\n\xff\xfe,1,1,1,1,1\n", "invalid UTF8"),
        (b"1735682400000,1,1,1,1,1\n,1,1,1,1,1\n", "row 1 has no open_time"),
        (b"\x00\x01\x02", "open_time"),
        (b"timestamp," * 3000, "are all 'open_time'"),
    ],
)
def test_what_is_no_table_is_refused(content, says):
    assert says in refused(parse_csv, content, "x")


def test_tables_of_too_many_rows_are_refused(values, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROWS", N - 1)
    lists = [[int(at), *row] for at, row in zip(TIMES, values.tolist(), strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"time": TIMES} | {name: values[:, c] for c, name in enumerate(CHANNELS)}), sink)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_: pytest.fail("it was read"))
    for call in (
        lambda: parse_csv(plain(values, TIMES), "x"),
        lambda: parse_json(json.dumps(lists).encode(), "x"),
        lambda: parse_parquet(bytes(sink.getvalue()), "x"),
    ):
        assert "4 rows, expected 1 to 3" in refused(call)


def objects(values) -> list[dict]:
    names = ("timestamp", *CHANNELS)
    return [dict(zip(names, (int(at), *row), strict=True)) for at, row in zip(TIMES, values.tolist(), strict=True)]


def test_json_is_read_as_objects_lists_columns_or_lines(values):
    rows = objects(values)
    as_lists = [list(row.values()) for row in rows]
    as_columns = {name: [row[name] for row in rows] for name in rows[0]}
    for tree in (rows, as_lists, as_columns):
        check(parse_json(json.dumps(tree).encode(), "x"), values)
    lines = "\n\n".join(map(json.dumps, rows)) + "\n"
    check(parse_json(lines.encode(), "x", lines=True), values)


def test_an_answer_of_the_exchanges_api_is_read(values):
    """Twelve columns, numbers as text."""
    rows = [line.split(",") for line in kline_csv(values, START).splitlines()]
    tree = [[int(row[0]), *row[1:6], int(row[6]), row[7], 9, *row[9:]] for row in rows]
    check(parse_json(json.dumps(tree).encode(), "x"), values, closes=True)


def test_json_times_may_be_text_or_whole_floats(values):
    rows = objects(values)
    for row in rows:
        row["timestamp"] = f"{np.datetime64(row['timestamp'], 'ms')}Z"
    check(parse_json(json.dumps(rows).encode(), "x"), values)
    rows = [row | {"timestamp": float(at)} for row, at in zip(rows, TIMES, strict=True)]
    check(parse_json(json.dumps(rows).encode(), "x"), values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not readable JSON"),
        ("{", "not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        ("[]", "expected a list of candles"),
        ("7", "expected a list of candles"),
        ('"text"', "expected a list of candles"),
        ("{}", "no column 'open_time'"),
        ("[7]", "row 0 is '7'"),
        ("[[1, 2]]", "2 columns and no header"),
        ("[[1,1,1,1,1,1],[1,1,1]]", "row 1 has other columns"),
        ('[{"time":1,"open":1,"high":1,"low":1,"close":1,"volume":1},7]', "row 1 has other columns"),
        ('{"time":1,"open":1,"high":1,"low":1,"close":1,"volume":1}', "columns are not lists"),
        ('{"time":[1],"open":[1],"high":[1],"low":[1],"close":[1],"volume":[]}', "differ in length"),
        ("[[1,1,1,1,1,true]]", "row 0 has volume 'True'"),
        ('[[1,1,1,1,1,{"a":1}]]', "row 0 has volume 'a dict of 1'"),
        ("[[1,1,1,1,1,1" + "0" * 400 + "]]", "row 0 has volume 'a number with too many digits'"),
        ("[[1,1,1,1,1,1" + "0" * 5000 + "]]", "not readable JSON"),
        ("[[true,1,1,1,1,1]]", "row 0 has open_time 'True'"),
        ("[[null,1,1,1,1,1]]", "row 0 has open_time 'None'"),
        ("[[1.5,1,1,1,1,1]]", "row 0 has open_time '1.5'"),
        ('[["\\ud800",1,1,1,1,1]]', "row 0 has open_time"),
        ('[[1,1,1,1,1,"one"]]', "row 0 has volume 'one'"),
        ("[[123456789012345678901234567890,1,1,1,1,1]]", "expected a count since 1970"),
    ],
)
def test_what_is_no_json_of_candles_is_refused(text, says):
    assert says in refused(parse_json, text.encode(), "x")


def test_json_above_its_bound_is_refused_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr(tables, "MAX_JSON_BYTES", 10)
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("it was parsed"))
    assert "11 bytes of JSON, expected at most 10" in refused(parse_json, b"[1,2,3,4,5]", "x")


def parquet(values, times: pa.Array, **more: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"Date": times} | {n.upper(): values[:, c] for c, n in enumerate(CHANNELS)} | more), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_parquet_times_of_any_unit_and_zone_are_instants(values, unit, zone):
    stamps = pa.array([int(at * UNITS[unit]) for at in TIMES]).cast(pa.timestamp(unit, tz=zone))
    check(parse_parquet(parquet(values, stamps), "x"), values)


def test_parquet_times_may_be_counts_and_numbers_of_any_type(values):
    values = np.round(values).clip(1)
    check(parse_parquet(parquet(values, pa.array(TIMES)), "x"), values)
    check(parse_parquet(parquet(values.astype(np.int32), pa.array(TIMES)), "x"), values)
    check(parse_parquet(parquet(values.astype(np.float32), pa.array(TIMES), junk=pa.array(["x"] * N)), "x"), values)


def test_a_parquet_column_of_another_type_is_refused_before_it_is_read(values, monkeypatch):
    words = pa.array(["2024-12-31"] * N)
    content = parquet(values, words)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_: pytest.fail("it was read"))
    assert "column 'Date' is string, expected a timestamp or a whole number" in refused(parse_parquet, content, "x")


def test_what_is_no_parquet_is_refused(values):
    for content in (b"", b"PAR1", b"nonsense" * 100, parquet(values, pa.array(TIMES))[:-9]):
        assert "not readable Parquet" in refused(parse_parquet, content, "x")
    assert "row 1 has no open_time" in refused(parse_parquet, parquet(values, pa.array([1, None, 3, 4])), "x")
    ticks = pa.array(TIMES * 1_000_000 + 1).cast(pa.timestamp("ns", tz="UTC"))
    assert "not a whole microsecond" in refused(parse_parquet, parquet(values, ticks), "x")


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("tick", [2**63 - 1, -(2**63) + 1, 2**53])
def test_times_beyond_every_calendar_do_not_wrap_around(unit, tick):
    stamps = pa.chunked_array([pa.array([tick] * N).cast(pa.timestamp(unit, tz="UTC"))])
    times = tables._times(stamps, "open_time", "x")
    assert (np.sign(times) == np.sign(tick)).all()
    assert (np.abs(times // 1000) > 7_258_118_400_000).all()
