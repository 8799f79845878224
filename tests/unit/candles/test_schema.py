import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btcbt.candles.schema import check_interval, make_candles, name_interval, name_time, parse_interval
from btcbt.errors import CandleError
from btcbt.records import AMOUNT, CHANNELS, CLOSE, HIGH, LOW, OPEN, VOLUME

HOUR = 3_600_000


def refusal(times, values, interval="1h") -> str:
    """The message with which a history is refused: one line that names it."""
    with pytest.raises(CandleError) as caught:
        make_candles(times, values, interval=interval, source="history.parquet")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("candles history.parquet: ")
    return message


def test_a_correct_history_is_kept_as_it_is(times, values):
    candles = make_candles(times, values, interval="1h", source="here")
    np.testing.assert_array_equal(candles.open_time, times)
    np.testing.assert_array_equal(candles.values, values)
    assert (candles.interval_ms, candles.source, len(candles)) == (HOUR, "here", 48)


def test_the_arrays_are_read_only_copies(times, values):
    candles = make_candles(times, values, interval="1h")
    with pytest.raises(ValueError, match="read-only"):
        candles.values[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        candles.open_time[0] = 0
    before = candles.values[3, CLOSE]
    values[3, CLOSE] = 1.0
    assert candles.values[3, CLOSE] == before


def test_a_gap_stays_a_gap(times, values):
    keep = np.delete(np.arange(48), [7, 8])
    candles = make_candles(times[keep], values[keep], interval="1h")
    assert len(candles) == 46
    assert candles.open_time[7] - candles.open_time[6] == 3 * HOUR


def test_a_missing_amount_is_volume_times_the_mean_price(times, values):
    values[5, AMOUNT] = np.nan
    candles = make_candles(times, values, interval="1h")
    o, h, low, c, v = values[5, :5]
    assert candles.values[5, AMOUNT] == pytest.approx(v * (o + h + low + c) / 4, rel=1e-15)
    kept = np.delete(np.arange(48), 5)
    np.testing.assert_array_equal(candles.values[kept, AMOUNT], values[kept, AMOUNT])


@pytest.mark.parametrize("channel", [OPEN, HIGH, LOW, CLOSE, VOLUME])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_finite_number_is_named(times, values, channel, value):
    values[7, channel] = value
    message = refusal(times, values)
    assert f"row 7 (2019-01-01T07:00:00Z) has {CHANNELS[channel]} {value!r}, expected a finite number" in message


def test_an_infinite_amount_is_refused(times, values):
    values[7, AMOUNT] = np.inf
    assert "row 7 (2019-01-01T07:00:00Z) has amount inf" in refusal(times, values)


@pytest.mark.parametrize("channel", [OPEN, HIGH, LOW, CLOSE])
@pytest.mark.parametrize("price", [0.0, -3.5])
def test_a_price_that_is_not_positive_is_named(times, values, channel, price):
    values[9, channel] = price
    assert f"row 9 (2019-01-01T09:00:00Z) has {CHANNELS[channel]} {price}, expected a price above 0" in refusal(
        times, values
    )


@pytest.mark.parametrize("channel", [VOLUME, AMOUNT])
def test_a_negative_volume_or_amount_is_named(times, values, channel):
    values[2, channel] = -1e-9
    assert f"row 2 (2019-01-01T02:00:00Z) has {CHANNELS[channel]} -1e-09, expected 0 or more" in refusal(times, values)


def test_zero_volume_is_allowed(times, values):
    values[2, VOLUME:] = 0.0
    assert make_candles(times, values, interval="1h").values[2, VOLUME] == 0.0


@pytest.mark.parametrize("channel", [OPEN, CLOSE])
def test_a_price_outside_high_and_low_is_named(times, values, channel):
    above = values.copy()
    above[4, channel] = above[4, HIGH] * 1.001
    assert f"row 4 (2019-01-01T04:00:00Z) has {CHANNELS[channel]} {float(above[4, channel])!r} above its high" in (
        refusal(times, above)
    )
    below = values.copy()
    below[4, channel] = below[4, LOW] * 0.999
    assert f"row 4 (2019-01-01T04:00:00Z) has {CHANNELS[channel]} {float(below[4, channel])!r} below its low" in (
        refusal(times, below)
    )


def test_a_low_above_its_high_is_named(times, values):
    values[4] = [100.0, 100.0, 101.0, 100.0, 1.0, 100.0]
    assert "row 4 (2019-01-01T04:00:00Z) has low 101.0 above its high" in refusal(times, values)


def test_a_row_off_the_grid_is_named(times, values):
    times[10] += 28 * 60_000 + 14_000
    assert "row 10 (2019-01-01T10:28:14Z) is off the 1h grid" in refusal(times, values)
    times[10] += 5
    assert "row 10 (2019-01-01T10:28:14.005Z) is off the 1h grid" in refusal(times, values)


def test_a_repeated_open_time_is_named(times, values):
    times[11] = times[10]
    assert "row 11 (2019-01-01T10:00:00Z) repeats the open time of row 10" in refusal(times, values)


def test_rows_out_of_order_are_named(times, values):
    times[[20, 21]] = times[[21, 20]]
    assert "row 21 (2019-01-01T20:00:00Z) comes after 2019-01-01T21:00:00Z, expected increasing" in refusal(
        times, values
    )


def test_further_bad_rows_are_counted(times, values):
    values[[3, 8, 9], VOLUME] = -1.0
    message = refusal(times, values)
    assert "row 3 " in message
    assert message.endswith("(and 2 more such rows)")


@pytest.mark.parametrize("unit", [1000, 1_000_000])
def test_times_in_a_finer_unit_are_found_out(times, values, unit):
    assert "is outside 1970 .. 2200; check the unit of open_time" in refusal(times * unit, values)


def test_extreme_times_are_refused_without_overflow(times, values):
    times[0], times[-1] = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert "is outside 1970 .. 2200" in refusal(times, values)


@pytest.mark.parametrize(("rows", "length"), [(slice(0, None, 4), "4h"), ([0, 2, 6, 8], "2h"), ([0, 24], "1d")])
def test_longer_candles_than_the_interval_are_found_out(times, values, rows, length):
    candles = make_candles(times[rows], values[rows], interval="1h", source="history.parquet")
    with pytest.raises(CandleError) as caught:
        check_interval(candles)
    assert str(caught.value) == (
        f"candles history.parquet: all open times are on the {length} grid, expected 1h candles; "
        f"set the interval to {length} or use a 1h history"
    )


@pytest.mark.parametrize("rows", [[5], [0, 2, 5], [1, 3, 5], slice(None)])
def test_sparse_hours_are_not_taken_for_longer_candles(times, values, rows):
    check_interval(make_candles(times[rows], values[rows], interval="1h"))


def test_shorter_candles_than_the_interval_are_found_out(times, values):
    assert "row 1 (2019-01-01T01:00:00Z) is off the 4h grid" in refusal(times, values, "4h")


def test_a_history_without_rows_is_refused():
    assert "has no rows" in refusal(np.empty(0, dtype=np.int64), np.empty((0, 6)))


def test_an_unknown_interval_lists_the_known_ones():
    with pytest.raises(CandleError, match=r"interval '3h' is unknown; use one of 1m, 5m, 15m, 30m, 1h"):
        parse_interval("3h")


def test_an_amount_that_overflows_is_refused(times, values):
    values[1, VOLUME:] = [1e307, np.nan]
    assert "row 1 (2019-01-01T01:00:00Z) has volume 1e+307 whose value in quote units overflows" in refusal(
        times, values
    )


def test_arrays_of_the_wrong_shape_are_a_programming_error(times, values):
    with pytest.raises(ValueError, match="are not"):
        make_candles(times, values[:, :5], interval="1h")
    with pytest.raises(ValueError, match="float64"):
        make_candles(times.astype(float), values, interval="1h")


def test_without_a_file_the_digest_is_that_of_the_arrays(times, values):
    candles = make_candles(times, values, interval="1h")
    content = b"btcbt.candles 3600000\n" + times.astype("<i8").tobytes() + values.astype("<f8").tobytes()
    assert candles.sha256 == hashlib.sha256(content).hexdigest()
    values[0, VOLUME] += 1e-9
    assert make_candles(times, values, interval="1h").sha256 != candles.sha256
    assert make_candles(times, values, interval="1h", sha256="ab").sha256 == "ab"


@pytest.mark.parametrize(("length", "name"), [(60_000, "1m"), (14_400_000, "4h"), (86_400_000, "1d"), (1500, "1.5s")])
def test_lengths_have_short_names(length, name):
    assert name_interval(length) == name


@given(st.integers(0, 4_102_444_800_000))
def test_times_are_named_as_iso_8601(time_ms):
    text = name_time(time_ms)
    assert np.datetime64(text.removesuffix("Z"), "ms").astype(np.int64) == time_ms
    assert text.endswith("Z")
    assert ".000Z" not in text
