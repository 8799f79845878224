"""Origins: which there are, what each may see, and how clean each is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from btcbt.candles import fill_gaps
from btcbt.config import RefitConfig, WindowsConfig
from btcbt.errors import CandleError
from btcbt.forecasters.fitted import FitSchedule, plan_fits
from btcbt.records import Candles, DataRange, Window
from btcbt.windows import GAP, NO_CANDLE, SHORT, Windows, contamination, decision_windows, make_windows, plan_refits

HOUR = 3_600_000
START = 1_546_300_800_000  # 2019-01-01T00:00Z
History = Callable[..., Candles]


def config(first: int, last: int, *, context: int = 5, horizon: int = 3, stride: int = 1) -> WindowsConfig:
    """Origins from hour `first` (included) to hour `last` (not included)."""
    start, end = (datetime.fromtimestamp((START + HOUR * hour) / 1000, UTC) for hour in (first, last))
    return WindowsConfig(context=context, horizon=horizon, start=start, end=end, stride=stride)


def hours(windows: Windows) -> list[int]:
    return [int(hour) for hour in (windows.origins - START) // HOUR]


def test_without_gaps_every_hour_is_an_origin(make_history: History) -> None:
    windows = make_windows(make_history(40), config(10, 20))
    assert hours(windows) == list(range(10, 20))
    assert windows.skipped == {}
    assert windows.scored.all()


def test_a_window_ends_with_the_candle_that_closes_at_its_origin(make_history: History) -> None:
    candles = make_history(40)
    windows = make_windows(candles, config(10, 20))
    window = windows[3]
    assert window.origin == windows.origins[3] == START + 13 * HOUR
    assert window.open_time[-1] + HOUR == window.origin
    np.testing.assert_array_equal(window.values, candles.values[8:13])
    assert [w.origin for w in windows[2:4]] == [START + 12 * HOUR, START + 13 * HOUR]
    assert len(list(windows)) == len(windows) == 10
    assert windows[-1].origin == START + 19 * HOUR


def test_a_window_is_a_read_only_view_and_not_a_copy(make_history: History) -> None:
    candles = make_history(40)
    window = make_windows(candles, config(10, 20))[0]
    assert np.shares_memory(window.values, candles.values)
    with pytest.raises(ValueError, match="read-only"):
        window.values[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        window.open_time[0] = 1


def test_a_window_has_no_field_that_holds_the_future() -> None:
    assert set(Window.__slots__) == {"open_time", "values", "interval_ms"}


def test_a_gap_inside_a_window_makes_the_origin_ineligible(make_history: History) -> None:
    windows = make_windows(make_history(40, missing=[12]), config(10, 25))
    # The candle of hour 12 closes at 13: nothing closes then, and windows up to 17 would span the hole.
    assert hours(windows) == [10, 11, 12, 18, 19, 20, 21, 22, 23, 24]
    assert windows.skipped == {NO_CANDLE: 1, GAP: 4}


def test_a_filled_gap_is_context_but_no_origin_ends_in_it_and_nothing_is_scored_on_it(make_history: History) -> None:
    candles = make_history(40, missing=[12, 13])
    bare, filled = (make_windows(one, config(10, 25)) for one in (candles, fill_gaps(candles, 2)))
    assert hours(bare) == [10, 11, 12, *range(19, 25)]
    assert hours(filled) == [10, 11, 12, *range(15, 25)]
    assert filled.skipped == {NO_CANDLE: 2}
    # Origins 10 to 12 would be scored on the hours 12 and 13.
    for windows in (bare, filled):
        assert [hour for hour, known in zip(hours(windows), windows.scored, strict=True) if not known] == [10, 11, 12]
    window = filled[hours(filled).index(16)]
    assert np.diff(window.open_time).tolist() == [HOUR] * 4
    assert window.values[1].tolist() == [candles.values[11, 3]] * 4 + [0.0, 0.0]
    np.testing.assert_array_equal(bare[hours(bare).index(20)].values, filled[hours(filled).index(20)].values)


def test_a_strategy_that_needs_few_candles_decides_soon_after_a_gap(make_history: History) -> None:
    asked = config(10, 25)
    candles = make_history(40, missing=[12])
    windows = make_windows(candles, asked)
    decided = decision_windows(candles, asked, int(windows.origins[0]))
    assert hours(decided) == [10, 11, 12, *range(14, 25)]
    assert hours(decided.needing(3)) == [10, 11, 12, *range(16, 25)]
    assert hours(decided.needing(5)) == hours(windows)
    for window in decided.needing(3):
        assert len(window.values) == 3
        assert np.diff(window.open_time).tolist() == [HOUR] * 2
    np.testing.assert_array_equal(decided.needing(5)[4].values, windows[4].values)


def test_no_account_begins_before_the_first_forecast(make_history: History) -> None:
    asked = config(0, 10)
    windows = make_windows(make_history(40), asked)
    assert (
        hours(decision_windows(make_history(40), asked, int(windows.origins[0]))) == hours(windows) == [5, 6, 7, 8, 9]
    )


def test_nothing_is_fitted_on_filled_candles(make_history: History) -> None:
    candles = make_history(60, missing=[20, 21])
    filled = fill_gaps(candles, 2)
    refit = RefitConfig(every="5h", train_window="20h", select_window="5h", embargo="0h", steps=1)
    first = START + 30 * HOUR
    for one, other in zip(
        [
            *plan_refits(candles, config(30, 50), refit),
            *plan_fits(candles, first, first + HOUR, FitSchedule(None, 20 * HOUR)),
        ],
        [
            *plan_refits(filled, config(30, 50), refit),
            *plan_fits(filled, first, first + HOUR, FitSchedule(None, 20 * HOUR)),
        ],
        strict=True,
    ):
        assert other.candles.open_time.tolist() == one.candles.open_time.tolist()
        assert other.candles.values.tobytes() == one.candles.values.tobytes()


def test_history_that_is_too_short_is_told_apart_from_a_gap(make_history: History) -> None:
    windows = make_windows(make_history(40), config(0, 10))
    assert hours(windows) == [5, 6, 7, 8, 9]
    assert windows.skipped == {NO_CANDLE: 1, SHORT: 4}


def test_an_origin_without_its_whole_outcome_is_forecast_but_not_scored(make_history: History) -> None:
    windows = make_windows(make_history(40, missing=[22]), config(15, 41))
    scored = dict(zip(hours(windows), windows.scored.tolist(), strict=True))
    assert [hour for hour, known in scored.items() if not known] == [20, 21, 22, 38, 39, 40]
    assert scored[19]


def test_the_last_close_can_be_an_origin(make_history: History) -> None:
    assert hours(make_windows(make_history(40), config(39, 41))) == [39, 40]


def test_outcomes_and_contexts_are_the_candles_on_either_side(make_history: History) -> None:
    candles = make_history(40)
    windows = make_windows(candles, config(10, 20))
    rows = np.array([0, 4])
    np.testing.assert_array_equal(windows.outcomes(rows)[1], candles.values[14:17])
    np.testing.assert_array_equal(windows.contexts(rows)[1], candles.values[9:14])
    np.testing.assert_array_equal(windows.contexts(slice(4, 5))[0], windows[4].values)
    assert windows.outcomes(rows).shape == (2, 3, 6)


def test_an_unknown_outcome_cannot_be_asked_for(make_history: History) -> None:
    windows = make_windows(make_history(40), config(35, 41))
    with pytest.raises(ValueError, match="outcome is incomplete"):
        windows.outcomes(np.arange(len(windows)))


def test_the_grid_of_a_stride_does_not_depend_on_the_range(make_history: History) -> None:
    candles = make_history(60)
    short, long = (make_windows(candles, config(first, 50, stride=4)) for first in (21, 10))
    assert hours(short) == [24, 28, 32, 36, 40, 44, 48]
    assert set(hours(short)) < set(hours(long))


def test_eligibility_is_that_of_a_slow_twin(make_history: History, rng: np.random.Generator) -> None:
    missing = rng.choice(np.arange(1, 299), size=25, replace=False)
    candles = make_history(300, missing=missing)
    asked = config(3, 290, context=7, horizon=4, stride=2)
    windows = make_windows(candles, asked)
    there = set(((candles.open_time - START) // HOUR).tolist())
    expected, known, reasons = [], [], {NO_CANDLE: 0, GAP: 0, SHORT: 0}
    for hour in range(3 + (3 % 2), 290, 2):
        if all(hour - 1 - back in there for back in range(7)):
            expected.append(hour)
            known.append(all(hour + step in there for step in range(4)))
        elif hour - 1 not in there:
            reasons[NO_CANDLE] += 1
        elif all(before in there for before in range(hour)):
            reasons[SHORT] += 1
        else:
            reasons[GAP] += 1
    assert hours(windows) == expected
    assert windows.scored.tolist() == known
    assert windows.skipped == {reason: count for reason, count in reasons.items() if count}


def test_candles_after_an_origin_never_decide_on_it(make_history: History, rng: np.random.Generator) -> None:
    missing = rng.choice(np.arange(1, 199), size=12, replace=False)
    whole = make_history(200, missing=missing)
    full = make_windows(whole, config(10, 190))
    for cut in (60, 101, 150):
        keep = whole.open_time < START + HOUR * cut
        part = Candles(whole.open_time[keep], whole.values[keep], HOUR)
        last = int((part.open_time[-1] - START) // HOUR) + 1
        early = make_windows(part, config(10, last + 1))
        assert hours(early) == [hour for hour in hours(full) if hour <= last]


@pytest.mark.parametrize(("first", "last"), [(-1, 20), (10, 42), (100, 200), (-200, -100)])
def test_a_range_outside_the_candles_is_told_with_both_ranges(make_history: History, first: int, last: int) -> None:
    with pytest.raises(CandleError) as caught:
        make_windows(make_history(40), config(first, last))
    assert "simulated: history spans 2019-01-01T00:00Z .. 2019-01-02T16:00Z, but windows.start" in str(caught.value)


def test_no_eligible_origin_is_an_error_with_its_reasons(make_history: History) -> None:
    with pytest.raises(CandleError, match=r"30 contiguous candles before it \(gap in the window: 5\)"):
        make_windows(make_history(40, missing=[20]), config(25, 30, context=30))


def test_an_empty_history_is_an_error() -> None:
    none = Candles(np.empty(0, dtype=np.int64), np.empty((0, 6)), HOUR, "empty")
    with pytest.raises(CandleError, match="no candles"):
        make_windows(none, config(0, 5))


def label(origin: int, *ranges: tuple[str, int, int]) -> str:
    found = contamination(np.array([origin]), [DataRange(*each) for each in ranges])
    return str(found[0])


def test_nothing_fitted_is_clean_and_nothing_known_is_unknown() -> None:
    origins = np.arange(5)
    assert set(contamination(origins, ())) == {"clean"}
    assert set(contamination(origins, None)) == {"unknown"}


@pytest.mark.parametrize("use", ["pretraining", "finetuning", "fit"])
def test_an_origin_is_clean_from_the_end_of_the_fitted_range(use: str) -> None:
    assert label(99, (use, 0, 100)) == "seen"
    assert label(100, (use, 0, 100)) == "clean"


def test_an_origin_before_the_training_range_has_been_seen_through_its_future() -> None:
    assert label(10, ("pretraining", 50, 100)) == "seen"


def test_selection_is_told_apart_from_fitting_and_the_worse_label_wins() -> None:
    ranges = (("pretraining", 0, 100), ("selection", 100, 150))
    assert label(149, *ranges) == "selected-on"
    assert label(150, *ranges) == "clean"
    assert label(99, *ranges) == "seen"
    assert label(120, ("selection", 0, 200), ("finetuning", 110, 130)) == "seen"


def test_a_choice_made_with_scores_in_sight_is_a_selection() -> None:
    assert label(149, ("fit", 0, 50), ("looked_at", 100, 150)) == "selected-on"
    assert label(150, ("fit", 0, 50), ("looked_at", 100, 150)) == "clean"


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="'selection': its end 100 is before its start 150"):
        DataRange("selection", 150, 100)


def test_an_origin_must_suit_the_forecaster_that_looks_back_farthest(make_history: History) -> None:
    candles = make_history(40, missing=[9])
    windows = make_windows(candles, config(13, 25), context=8)
    assert hours(windows) == list(range(18, 25))
    assert windows.context == 5
    assert windows.skipped == {GAP: 5}
    longer = windows.with_context(8)
    assert hours(longer) == hours(windows)
    np.testing.assert_array_equal(longer[0].values[3:], windows[0].values)
    assert len(longer[0].values) == 8
    assert hours(make_windows(candles, config(13, 25), context=2)) == list(range(15, 25))


def test_windows_cannot_reach_before_the_history(make_history: History) -> None:
    windows = make_windows(make_history(40), config(10, 20))
    assert len(windows.with_context(10)[0].values) == 10
    with pytest.raises(ValueError, match="10 candles before it, not 11"):
        windows.with_context(11)
