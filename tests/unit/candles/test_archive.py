"""The archive's layout: names, plans, checksums, and zips that are not what they should be."""

import io
import itertools
import struct
import zipfile
from datetime import date

import numpy as np
import pytest

from btcbt.candles import archive
from btcbt.candles.archive import (
    ArchiveFile,
    check_symbol,
    parse_checksum,
    parse_span,
    plan_files,
    read_archive_file,
    unzip_table,
)
from btcbt.errors import CandleError
from tests.unit.candles.archive_server import HOUR, kline_csv, midnight_ms, walk, zipped

TODAY = date(2025, 3, 10)
DECEMBER = ArchiveFile("BTCUSDT", "1h", date(2024, 12, 1), date(2025, 1, 1))
FIRST_OF_JANUARY = ArchiveFile("BTCUSDT", "1h", date(2025, 1, 1), date(2025, 1, 2))


def refused(call, *arguments) -> str:
    with pytest.raises(CandleError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def packed(*members: tuple[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", packing) as package:
        for name, content in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # past ZipInfo's own cleaning, as a hostile writer would
            package.writestr(info, content, packing)
    return sink.getvalue()


def test_files_are_where_the_archive_keeps_them():
    assert DECEMBER.path == "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-12.zip"
    assert FIRST_OF_JANUARY.path == "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2025-01-01.zip"
    assert DECEMBER.span_ms == (midnight_ms(date(2024, 12, 1)), midnight_ms(date(2025, 1, 1)))


def test_whole_months_are_months_and_the_rest_days():
    files = plan_files("BTCUSDT", "1h", date(2024, 11, 29), date(2025, 3, 3), TODAY)
    names = [file.stem.removeprefix("BTCUSDT-1h-") for file in files]
    assert names == [
        *("2024-11-29", "2024-11-30", "2024-12", "2025-01", "2025-02", "2025-03-01", "2025-03-02"),
    ]
    assert [file.monthly for file in files] == [False, False, True, True, True, False, False]


def test_a_month_that_is_not_over_is_asked_by_day_up_to_yesterday():
    files = plan_files("BTCUSDT", "1h", date(2025, 3, 1), date(2025, 4, 1), TODAY)
    assert [file.first for file in files] == [date(2025, 3, day) for day in range(1, 10)]


@pytest.mark.parametrize("first", [date(2017, 8, 1), date(2024, 2, 10), date(2024, 12, 31)])
def test_a_plan_covers_every_day_once(first):
    files = plan_files("BTCUSDT", "4h", first, TODAY, TODAY)
    assert files[0].first == first
    assert files[-1].end == TODAY
    assert all(one.end == other.first for one, other in itertools.pairwise(files))


@pytest.mark.parametrize(
    ("start", "end", "days"),
    [
        ("2017-08", "2017-08", (date(2017, 8, 1), date(2017, 9, 1))),
        ("2024-12-30", "2024-12-31", (date(2024, 12, 30), date(2025, 1, 1))),
        ("2024-12", None, (date(2024, 12, 1), TODAY)),
        ("2024-12", "2025-12", (date(2024, 12, 1), TODAY)),
    ],
)
def test_start_and_end_are_both_inclusive(start, end, days):
    assert parse_span(start, end, TODAY) == days


@pytest.mark.parametrize(
    ("start", "end"),
    [
        *(("2016-01", None), ("2025-03-10", None), ("2024-12", "2024-11"), ("2024-13", None), ("2024-02-30", None)),
        *(
            ("24-01", None),
            ("2024-1", None),
            ("../..", None),
            ("2024-12", "9999-12-x"),
            ("", None),
            ("2024-12\n", None),
        ),
    ],
)
def test_a_span_that_is_none_is_refused(start, end):
    assert refused(parse_span, start, end, TODAY).startswith("candles: ")


@pytest.mark.parametrize(
    "symbol",
    ["", "B", "btcusdt", "../../etc", "BTC/USDT", "BTC\\USDT", "BTCUSDT\n", "BTC USDT", "A" * 31, "BTCÜSDT", "%2e"],
)
def test_a_symbol_that_would_leave_the_folder_is_refused(symbol):
    assert "symbol" in refused(check_symbol, symbol)
    assert "symbol" in refused(plan_files, symbol, "1h", date(2024, 1, 1), date(2024, 2, 1), TODAY)


def test_an_interval_that_would_leave_the_folder_is_refused():
    assert "interval" in refused(plan_files, "BTCUSDT", "../1h", date(2024, 1, 1), date(2024, 2, 1), TODAY)


def test_a_checksum_is_a_digest_and_the_name():
    digest = "0123456789abcdef" * 4
    assert parse_checksum(f"{digest.upper()} *{DECEMBER.name}\n".encode(), DECEMBER.name) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc  NAME",
        "{digest}",
        "{digest}  other.zip",
        "{digest}x  NAME",
        "{digest}  NAME\n{digest}  NAME",
        "\xff\xfe",
    ],
)
def test_a_checksum_of_something_else_is_refused(text):
    content = text.format(digest="0" * 64).replace("NAME", DECEMBER.name).encode("latin-1")
    assert DECEMBER.name in refused(parse_checksum, content, DECEMBER.name)


@pytest.mark.parametrize(
    "title", ["", "open_time,open,high,low,close,volume,close_time,quote_volume,count,tb,tq,ignore"]
)
@pytest.mark.parametrize("micro", [False, True])
def test_a_month_is_read_in_either_unit_with_or_without_a_header(rng, title, micro):
    first, end = DECEMBER.span_ms
    values = walk(rng, (end - first) // HOUR)
    content = zipped(f"{DECEMBER.stem}.csv", kline_csv(values, first, micro=micro, title=title))
    rows = read_archive_file(content, DECEMBER)
    np.testing.assert_array_equal(rows.open_us, np.arange(first, end, HOUR) * 1000)
    np.testing.assert_array_equal(rows.values, values)
    last_moment = HOUR * 1000 - (1 if micro else 1000)
    np.testing.assert_array_equal(rows.close_us - rows.open_us, np.full(len(rows), last_moment))


def test_rows_of_another_month_are_refused(rng):
    first, _ = DECEMBER.span_ms
    content = zipped(f"{DECEMBER.stem}.csv", kline_csv(walk(rng, 3), first - HOUR))
    assert "row 0 (2024-11-30T23:00:00Z) is outside the file's period" in refused(read_archive_file, content, DECEMBER)


def test_a_table_of_other_columns_is_refused():
    content = zipped(f"{DECEMBER.stem}.csv", "1733011200000,1,1,1,1,1,1\n")
    assert "7 columns, expected 12" in refused(read_archive_file, content, DECEMBER)


ESCAPES = [
    *("../escape.csv", "/etc/escape.csv", "..\\escape.csv", "C:\\escape.csv", "C:escape.csv", "sub/escape.csv"),
    *(
        "sub/",
        "..",
        ".",
        f"../../{DECEMBER.stem}.csv",
        f"./{DECEMBER.stem}.csv",
        f"{DECEMBER.stem}.csv\x00/../../x.csv",
    ),
]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("beside", [False, True])
def test_a_member_that_would_escape_the_folder_is_refused(name, beside, tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    members = [(f"{DECEMBER.stem}.csv", b"1\n")] if beside else []
    content = packed(*members, (name, b"escaped"))
    refused(unzip_table, content, DECEMBER.name, f"{DECEMBER.stem}.csv")
    refused(unzip_table, content, DECEMBER.name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "members", [[], [("other.csv", b"1")], [(f"{DECEMBER.stem}.csv", b"1"), ("more.csv", b"2")], [("a.txt", b"1")]]
)
def test_a_zip_of_other_members_is_refused(members):
    assert "expected one file" in refused(unzip_table, packed(*members), DECEMBER.name, f"{DECEMBER.stem}.csv")


def test_a_member_in_another_packing_is_refused():
    content = packed((f"{DECEMBER.stem}.csv", b"1\n" * 99), packing=zipfile.ZIP_LZMA)
    assert "unsupported compression" in refused(unzip_table, content, DECEMBER.name)


def test_an_encrypted_member_is_refused():
    content = bytearray(packed(("a.csv", b"1\n")))
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1  # the flag in the central directory
    assert "encrypted" in refused(unzip_table, bytes(content), DECEMBER.name)


def test_a_bomb_that_tells_its_size_is_refused_before_it_is_unpacked(monkeypatch):
    content = packed(("a.csv", b"0" * 1001))
    monkeypatch.setattr(archive, "MAX_CSV_BYTES", 1000)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    assert "declares 1,001 bytes, expected at most 1,000" in refused(unzip_table, content, DECEMBER.name)


def test_a_bomb_that_lies_about_its_size_is_unpacked_no_further_than_the_bound(monkeypatch):
    monkeypatch.setattr(archive, "MAX_CSV_BYTES", 1000)
    content = bytearray(packed(("a.csv", b"0" * 100_000)))
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(signature) + at
        assert struct.unpack_from("<I", content, place) == (100_000,)
        struct.pack_into("<I", content, place, 900)
    message = refused(unzip_table, bytes(content), DECEMBER.name)
    assert "Bad CRC" in message or "1,000" in message


def test_a_month_of_one_minute_candles_stays_below_the_bounds(rng):
    table = kline_csv(walk(rng, 1000), midnight_ms(date(2024, 12, 1)), step_ms=60_000).encode()
    month = len(table) * 31 * 24 * 60 / 1000
    assert month * 10 < archive.MAX_CSV_BYTES
    assert len(zipped("a.csv", table)) * 31 * 24 * 60 / 1000 * 10 < archive.MAX_ZIP_BYTES


def test_no_damage_to_a_zip_escapes_as_another_error(rng):
    good = zipped(f"{FIRST_OF_JANUARY.stem}.csv", kline_csv(walk(rng, 24), FIRST_OF_JANUARY.span_ms[0], micro=True))
    whole = read_archive_file(good, FIRST_OF_JANUARY)
    outcomes = set()
    for at in rng.integers(0, len(good), 400):
        damaged = bytearray(good)
        damaged[at] ^= 1 << int(rng.integers(8))
        try:
            rows = read_archive_file(bytes(damaged), FIRST_OF_JANUARY)
        except CandleError as error:
            outcomes.add(f"refused on {len(str(error).splitlines())} line")
        else:
            np.testing.assert_array_equal(rows.values, whole.values)
            outcomes.add("the same")
    assert outcomes == {"refused on 1 line", "the same"}
