import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btcbt.candles import fill_gaps, find_gaps, make_candles, read_candles, resample
from btcbt.errors import CandleError
from btcbt.records import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME, Candles

HOUR = 3_600_000
START = 1_546_300_800_000


def loop_resample(candles: Candles, step: int) -> tuple[list[int], list[list[float]]]:
    """The slow twin: bucket by bucket, row by row."""
    buckets: dict[int, list[int]] = {}
    for row, time in enumerate(candles.open_time.tolist()):
        buckets.setdefault(time - time % step, []).append(row)
    times, merged = [], []
    for label, rows in sorted(buckets.items()):
        if len(rows) != step // candles.interval_ms:
            continue
        parts = [candles.values[row].tolist() for row in rows]
        times.append(label)
        merged.append(
            [
                parts[0][OPEN],
                max(part[HIGH] for part in parts),
                min(part[LOW] for part in parts),
                parts[-1][CLOSE],
                sum(part[VOLUME] for part in parts),
                sum(part[AMOUNT] for part in parts),
            ]
        )
    return times, merged


def walk(seed: int, hours: np.ndarray) -> Candles:
    rng = np.random.default_rng(seed)
    n = len(hours)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, n)))
    opened = close * np.exp(rng.normal(0, 0.005, n))
    high = np.maximum(opened, close) * (1 + rng.uniform(0, 0.01, n))
    low = np.minimum(opened, close) * (1 - rng.uniform(0, 0.01, n))
    volume = rng.uniform(0, 50, n)
    values = np.stack([opened, high, low, close, volume, volume * close], axis=1)
    return make_candles(START + hours * HOUR, values, interval="1h")


@settings(deadline=None, max_examples=60)
@given(
    present=st.lists(st.booleans(), min_size=40, max_size=100),
    offset=st.integers(0, 30),
    interval=st.sampled_from(["2h", "4h", "12h", "1d"]),
    seed=st.integers(0, 99),
)
def test_resampling_equals_a_plain_loop(present, offset, interval, seed):
    step = {"2h": 2, "4h": 4, "12h": 12, "1d": 24}[interval] * HOUR
    # A full day beside random gaps: at least one bucket of every length is whole.
    hours = np.union1d(np.arange(24), 24 + offset + np.flatnonzero(present))
    candles = walk(seed, hours)
    merged = resample(candles, interval)
    times, expected = loop_resample(candles, step)
    assert merged.open_time.tolist() == times
    np.testing.assert_array_equal(merged.values[:, :4], np.array(expected)[:, :4])
    np.testing.assert_allclose(merged.values[:, 4:], np.array(expected)[:, 4:], rtol=1e-12)
    assert merged.interval_ms == step
    assert not merged.values.flags.writeable


def test_a_bucket_with_a_missing_part_is_a_gap(times, values):
    keep = np.delete(np.arange(48), 6)
    merged = resample(make_candles(times[keep], values[keep], interval="1h"), "4h")
    assert START + 4 * HOUR not in merged.open_time
    assert len(merged) == 11
    assert find_gaps(merged).tolist() == [[START + 4 * HOUR, 1]]


def test_buckets_stand_on_the_utc_grid_whatever_the_first_row(times, values):
    merged = resample(make_candles(times[3:], values[3:], interval="1h"), "4h")
    assert merged.open_time[0] == START + 4 * HOUR
    assert (merged.open_time % (4 * HOUR) == 0).all()


def test_resampling_to_the_same_interval_changes_nothing(times, values):
    candles = make_candles(times, values, interval="1h")
    assert resample(candles, "1h") is candles


def test_resampling_in_two_steps_equals_one(sample_candles):
    twice = resample(resample(sample_candles, "4h"), "1d")
    once = resample(sample_candles, "1d")
    np.testing.assert_array_equal(twice.open_time, once.open_time)
    np.testing.assert_allclose(twice.values, once.values, rtol=1e-12)


def test_a_resampled_history_has_a_digest_and_a_name_of_its_own(sample_candles):
    merged = resample(sample_candles, "4h")
    assert len(merged.sha256) == 64
    assert merged.sha256 != sample_candles.sha256
    assert merged.source == "bundled:BTCUSD_1h as 4h"


@pytest.mark.parametrize("interval", ["30m", "1m"])
def test_candles_cannot_be_made_shorter(sample_candles, interval):
    with pytest.raises(CandleError, match=f"1h candles cannot be merged into {interval}; give a multiple of 1h"):
        resample(sample_candles, interval)


def test_an_interval_that_is_no_multiple_is_refused(times, values):
    four = resample(make_candles(times, values, interval="1h"), "4h")
    two = make_candles(four.open_time, four.values, interval="4h")
    with pytest.raises(CandleError, match="4h candles cannot be merged into 30m"):
        resample(two, "30m")


def test_too_short_a_history_to_merge_is_refused(times, values):
    candles = make_candles(times[1:4], values[1:4], interval="1h")
    with pytest.raises(CandleError, match="no 4h candle has all of its 4 parts; give a longer history"):
        resample(candles, "4h")


def test_merged_hours_equal_the_exchanges_own_4h_candles(shared_data):
    hourly = read_candles(shared_data / "BTCUSDT_1h.parquet")
    own = read_candles(shared_data / "BTCUSDT_4h.parquet", "4h")
    merged = resample(hourly, "4h")
    assert np.isin(merged.open_time, own.open_time).all()
    rows = np.searchsorted(own.open_time, merged.open_time)
    differ = merged.values[:, :4] != own.values[rows, :4]
    # One open, in the outage of 2018-02, is a cent apart in the exchange's own files.
    assert differ.sum() == 1
    np.testing.assert_allclose(merged.values[:, :4], own.values[rows, :4], rtol=2e-6)
    # The volumes of 14 of the 18,299 differ in those files as well, around outages.
    unequal = ~np.isclose(merged.values[:, VOLUME], own.values[rows, VOLUME], rtol=1e-9, atol=0)
    assert unequal.sum() == 14
    # What the exchange published and we do not have are the candles of which an hour is missing.
    ours = np.isin(own.open_time, merged.open_time)
    hours = own.open_time[~ours, None] + HOUR * np.arange(4)
    assert not np.isin(hours, hourly.open_time).all(axis=1).any()


def test_gaps_are_found_as_a_loop_finds_them(rng):
    hours = np.flatnonzero(rng.random(500) > 0.2)
    candles = walk(3, hours)
    expected, present = [], set(hours.tolist())
    for hour in range(int(hours[0]), int(hours[-1])):
        if hour in present:
            continue
        if hour - 1 in present:
            expected.append([START + hour * HOUR, 0])
        expected[-1][1] += 1
    assert len(expected) > 20
    assert find_gaps(candles).tolist() == expected


def test_a_history_without_gaps_has_none(times, values):
    assert find_gaps(make_candles(times, values, interval="1h")).shape == (0, 2)
    assert find_gaps(make_candles(times[:1], values[:1], interval="1h")).shape == (0, 2)


def test_short_gaps_are_filled_with_flat_candles_that_are_marked_and_longer_ones_stay():
    candles = walk(5, np.array([0, 1, 4, 5, 9, 10]))
    filled = fill_gaps(candles, 2)
    assert ((filled.open_time - START) // HOUR).tolist() == [0, 1, 2, 3, 4, 5, 9, 10]
    assert filled.filled.tolist() == [False, False, True, True, False, False, False, False]
    last = candles.values[1, CLOSE]
    assert filled.values[filled.filled].tolist() == [[last, last, last, last, 0.0, 0.0]] * 2
    assert filled.sha256 == candles.sha256
    assert not filled.values.flags.writeable
    assert find_gaps(fill_gaps(candles, 3)).tolist() == []


def test_without_the_filled_candles_a_history_is_what_it_was(rng):
    candles = walk(3, np.flatnonzero(rng.random(500) > 0.2))
    filled = fill_gaps(candles, 2)
    assert filled.filled.sum() > 50
    observed = filled.observed
    assert observed.filled is None
    assert np.array_equal(observed.open_time, candles.open_time)
    assert observed.values.tobytes() == candles.values.tobytes()
    assert fill_gaps(candles, 0) is candles
    assert fill_gaps(filled, 2) is filled


def test_what_fills_a_gap_depends_on_the_past_of_the_candle_after_it_alone(rng):
    candles = walk(4, np.flatnonzero(rng.random(120) > 0.3))
    whole = fill_gaps(candles, 3)
    for stop in range(1, len(candles) + 1):
        part = Candles(candles.open_time[:stop], candles.values[:stop], HOUR)
        known = fill_gaps(part, 3)
        assert known.values.tobytes() == whole.values[: len(known)].tobytes()
        assert known.open_time[-1] == candles.open_time[stop - 1]
