"""What `data check` finds and what a repair drops."""

import numpy as np
import pytest

from btcbt.candles import find_gaps
from btcbt.candles.check import PLACEHOLDERS, inspect_rows, repair_rows
from btcbt.candles.importers import read_rows
from btcbt.candles.rows import UNKNOWN, Rows, join_rows
from btcbt.errors import CandleError
from btcbt.records import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME
from tests.unit.candles.archive_server import HOUR, walk

START = 1_546_300_800_000  # 2019-01-01T00:00Z
N = 24


def rows_of(values, first=START, step=HOUR) -> Rows:
    opened = (first + step * np.arange(len(values), dtype=np.int64)) * 1000
    return Rows(opened, opened + step * 1000 - 1000, values, "history")


@pytest.fixture
def rows(rng):
    return rows_of(walk(rng, N))


def kinds(inspection, problem=True) -> dict[str, int]:
    return {issue.kind: issue.count for issue in inspection.issues if issue.problem is problem}


def test_a_clean_history_has_nothing_to_report(rows):
    found = inspect_rows(rows, "1h")
    assert (found.issues, found.missing, found.coverage, found.usable) == ((), 0, 1.0, N)
    assert found.lines() == [
        "history: 24 candles of 1h, 2019-01-01T00:00:00Z .. 2019-01-01T23:00:00Z, coverage 100.0000%"
    ]
    kept, dropped = repair_rows(rows, "1h")
    assert dropped == {}
    np.testing.assert_array_equal(kept.values, rows.values)


def _shift(rows, i):
    rows.open_us[i] += 1


def _reverse(rows, i):
    rows.close_us[i] = rows.open_us[i] - 1


def _set(channel, value):
    def change(rows, i):
        rows.values[i, channel] = value

    return change


def _zero_price(rows, i):
    rows.values[i, : CLOSE + 1] = 0.0


def _overflow(rows, i):
    rows.values[i] = [1e300, 1e300, 1e300, 1e300, 1e300, np.nan]


def _ancient(rows, i):
    rows.open_us[i] = -HOUR * 1000


BREAKS = {
    "open times off the 1h grid": _shift,
    "close times before the open time": _reverse,
    "times outside 1970 .. 2200": _ancient,
    "values that are missing or infinite": _set(VOLUME, np.nan),
    "prices that are not above 0": _zero_price,
    "negative volumes or amounts": _set(VOLUME, -1.0),
    "prices outside low .. high": _set(HIGH, 1e-3),
    "volumes whose value in quote units overflows": _overflow,
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_row_that_breaks_the_contract_is_counted_named_and_dropped(rows, kind):
    for i in (5, 9):
        BREAKS[kind](rows, i)
    found = inspect_rows(rows, "1h")
    assert kinds(found)[kind] == 2
    issue = next(issue for issue in found.problems if issue.kind == kind)
    assert issue.example.startswith("row 5, ")
    assert found.usable == N - 2
    kept, dropped = repair_rows(rows, "1h")
    assert sum(dropped.values()) == 2
    candles = kept.to_candles("1h")
    np.testing.assert_array_equal(candles.open_time, np.delete(rows_of(rows.values).open_ms, [5, 9]))
    np.testing.assert_array_equal(found.gaps, find_gaps(candles))
    assert inspect_rows(kept, "1h").problems == ()


@pytest.mark.parametrize("kind", BREAKS)
def test_what_is_called_a_problem_is_what_candles_refuse(rows, kind):
    if kind != "close times before the open time":  # Candles have no close times
        BREAKS[kind](rows, 5)
        with pytest.raises(CandleError):
            rows.to_candles("1h")


def test_every_channel_and_every_order_of_prices_is_looked_at(rows):
    for channel in (OPEN, HIGH, LOW, CLOSE, VOLUME):
        spoilt = Rows(rows.open_us, rows.close_us, rows.values.copy(), "history")
        spoilt.values[3, channel] = np.inf
        assert kinds(inspect_rows(spoilt, "1h"))["values that are missing or infinite"] == 1
    for channel in (OPEN, CLOSE):
        for factor in (0.5, 2.0):
            spoilt = Rows(rows.open_us, rows.close_us, rows.values.copy(), "history")
            spoilt.values[3, channel] *= factor
            assert kinds(inspect_rows(spoilt, "1h")) == {"prices outside low .. high": 1}


def test_repeats_are_told_from_conflicts_and_the_last_row_stays(rows):
    again = rows.take(np.array([2, 7]))
    again.values[1, VOLUME] = 3.0
    both = join_rows([rows, again], "history")
    assert kinds(inspect_rows(both, "1h")) == {
        "rows that repeat an open time with equal values": 1,
        "rows that repeat an open time with other values": 1,
        "rows that come after a later one": 2,
    }
    kept, dropped = repair_rows(both, "1h")
    assert dropped == {"repeats of an open time": 2}
    assert kept.values[7, VOLUME] == 3.0
    assert (np.diff(kept.open_us) == HOUR * 1000).all()


def test_a_broken_row_does_not_displace_a_good_one(rows):
    again = rows.take(np.array([7]))
    again.values[0, VOLUME] = np.nan
    kept, dropped = repair_rows(join_rows([rows, again], "history"), "1h")
    assert dropped == {"values that are missing or infinite": 1}
    np.testing.assert_array_equal(kept.values, rows.values)


def test_a_month_that_is_there_twice_is_named(rng):
    history = rows_of(walk(rng, 59 * 24))  # January and February 2019
    january = history.take(np.arange(31 * 24))
    found = inspect_rows(join_rows([history, january], "history"), "1h")
    month = next(issue for issue in found.problems if issue.kind == "months that appear twice")
    assert (month.count, month.example) == (1, "2019-01")
    part = history.take(np.arange(10 * 24))
    assert "months that appear twice" not in kinds(inspect_rows(join_rows([history, part], "history"), "1h"))


def test_a_day_twice_is_no_month(rows):
    assert "months that appear twice" not in kinds(inspect_rows(join_rows([rows, rows], "history"), "1h"))


def test_rows_out_of_order_are_sorted(rows, rng):
    order = rng.permutation(N)
    shuffled = rows.take(order)
    assert "rows that come after a later one" in kinds(inspect_rows(shuffled, "1h"))
    kept, dropped = repair_rows(shuffled, "1h")
    assert dropped == {}
    np.testing.assert_array_equal(kept.values, rows.values)


def test_placeholders_short_candles_and_missing_amounts_are_notes(rows):
    rows.values[4, : CLOSE + 1] = rows.values[4, OPEN]
    rows.values[4, VOLUME] = 0.0
    rows.values[6, VOLUME] = 0.0  # its prices moved, so it is no placeholder
    rows.values[8, AMOUNT] = np.nan
    rows.close_us[10] -= 1
    rows.close_us[11] += 999  # the last microsecond, as since 2025
    rows.close_us[12] += 1000
    rows.close_us[13] = UNKNOWN
    found = inspect_rows(rows, "1h")
    assert found.problems == ()
    assert kinds(found, problem=False) == {
        PLACEHOLDERS: 1,
        "candles shorter or longer than their interval": 2,
        "amounts missing, to be estimated from volume and price": 1,
    }
    assert repair_rows(rows, "1h")[1] == {}
    kept, dropped = repair_rows(rows, "1h", drop_placeholders=True)
    assert dropped == {PLACEHOLDERS: 1}
    np.testing.assert_array_equal(kept.open_us, np.delete(rows.open_us, 4))


def test_gaps_are_counted_over_the_rows_that_are_usable(rows):
    _shift(rows, 3)
    thin = rows.take(np.delete(np.arange(N), [10, 11, 12]))
    found = inspect_rows(thin, "1h")
    assert found.gaps.tolist() == [[START + 3 * HOUR, 1], [START + 10 * HOUR, 3]]
    assert (found.missing, found.coverage) == (4, 20 / 24)
    assert (
        "gaps: 2, candles missing: 4 (longest: 2019-01-01T10:00:00Z x3, 2019-01-01T03:00:00Z x1)" in found.lines()[-1]
    )


def test_rows_of_another_interval_leave_nothing(rng):
    minutes = rows_of(walk(rng, 59), first=START + 60_000, step=60_000)
    found = inspect_rows(minutes, "1h")
    assert (found.usable, found.coverage, found.first_ms) == (0, 0.0, 0)
    assert "none usable as 1h candles" in found.lines()[0]
    with pytest.raises(CandleError, match="no row is a valid 1h candle"):
        repair_rows(minutes, "1h")


def test_longer_candles_are_not_taken_for_shorter_ones(rng):
    with pytest.raises(CandleError, match="4h grid"):
        rows_of(walk(rng, 9), step=4 * HOUR).to_candles("1h")


def test_a_time_off_the_millisecond_is_a_problem(rows):
    rows.open_us[3] += 1
    assert kinds(inspect_rows(rows, "1h")) == {"open times off the 1h grid": 1}
    with pytest.raises(CandleError, match=r"row 3 \(2019-01-01T03:00:00.000001Z\) is not on a whole ms"):
        rows.to_candles("1h")


@pytest.mark.parametrize("extreme", [np.iinfo(np.int64).max, np.iinfo(np.int64).min + 1])
def test_the_ends_of_the_number_range_are_survived(rows, extreme):
    rows.open_us[0 if extreme < 0 else -1] = extreme
    found = inspect_rows(rows, "1h")
    assert "times outside 1970 .. 2200" in kinds(found)
    assert found.usable == N - 1
    assert all("\n" not in line for line in found.lines())


def test_a_repair_equals_a_loop_over_rows(rng):
    """The masks agree with a row by row reading of the contract on histories that are broken at random."""
    for _ in range(30):
        rows = rows_of(walk(rng, N)).take(rng.integers(0, N, 2 * N))
        for change in rng.choice(list(BREAKS.values()), 4):
            change(rows, int(rng.integers(2 * N)))
        kept, _ = repair_rows(rows, "1h")
        expected: dict[int, list[float]] = {}
        for opened, closed, row in zip(
            rows.open_us.tolist(), rows.close_us.tolist(), rows.values.tolist(), strict=True
        ):
            o, h, low, c, volume, amount = row
            good = opened % (HOUR * 1000) == 0 and opened >= 0 and closed >= opened
            good = good and all(np.isfinite([o, h, low, c, volume])) and not np.isinf(amount)
            good = good and 0 < low <= min(o, c) and h >= max(o, c) and volume >= 0 and not amount < 0
            if good and (not np.isnan(amount) or np.isfinite(volume * ((o + h + low + c) / 4))):
                expected[opened] = row
        assert kept.open_us.tolist() == sorted(expected)
        np.testing.assert_array_equal(kept.values, [expected[at] for at in sorted(expected)])


@pytest.mark.parametrize(
    ("name", "problems", "notes"),
    [
        (
            "2018-02",
            {"open times off the 1h grid": 43},
            {"candles shorter or longer than their interval": 2},
        ),
        ("2020-12", {"close times before the open time": 1}, {PLACEHOLDERS: 1}),
        ("2023-03", {}, {PLACEHOLDERS: 1, "candles shorter or longer than their interval": 1}),
        ("2024-12", {}, {}),
        ("2025-01", {}, {}),
    ],
)
def test_the_known_faults_of_real_months_are_found(shared_data, name, problems, notes):
    found = inspect_rows(read_rows(shared_data / "raw" / f"BTCUSDT-1h-{name}.csv"), "1h")
    assert (kinds(found), kinds(found, problem=False)) == (problems, notes)
