"""Changed futures keep the past bit for bit and change everything after it."""

from __future__ import annotations

import numpy as np
import pytest

from btcbt.audit.changes import CHANGES, change_future, known_at
from btcbt.candles import make_candles
from btcbt.records import HIGH, LOW, VOLUME, Candles

HOUR_MS = 3_600_000


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_known_keeps_its_bits_and_what_was_not_changes(change, make_history):
    candles = make_history(120, missing=[40, 90])
    origin = int(candles.open_time[70]) + HOUR_MS
    changed = change_future(candles, origin, change, seed=3)
    known = changed.open_time + HOUR_MS <= origin
    assert changed.open_time[known].tobytes() == candles.open_time[:71].tobytes()
    assert changed.values[known].tobytes() == candles.values[:71].tobytes()
    after = dict(zip(candles.open_time[71:].tolist(), candles.values[71:], strict=True))
    for time, values in zip(changed.open_time[~known].tolist(), changed.values[~known], strict=True):
        assert change == "gaps" or (values[:4] != after[time][:4]).all()
    if change in ("gaps", "truncate"):
        assert (~known).sum() < len(after)
    assert changed.sha256 != candles.sha256
    assert not changed.values.flags.writeable


@pytest.mark.parametrize("change", ["noise", "flip", "scale", "gaps", "truncate"])
def test_a_changed_history_is_still_a_valid_one(change, make_history):
    candles = make_history(100)
    changed = change_future(candles, int(candles.open_time[60]), change, seed=1)
    make_candles(changed.open_time, changed.values, interval="1h")
    assert (changed.values[:, HIGH] >= changed.values[:, LOW]).all()


def test_a_flip_turns_every_rise_from_the_last_price_into_a_fall(make_history):
    candles = make_history(50)
    changed = change_future(candles, int(candles.open_time[20]), "flip", seed=1)
    last = candles.values[19, 3]
    for channel, mirror in ((0, 0), (3, 3), (1, 2), (2, 1)):
        np.testing.assert_allclose(
            np.log(changed.values[20:, channel] / last), -np.log(candles.values[20:, mirror] / last), atol=1e-12
        )


def test_shocks_depend_on_seed_and_origin_alone(make_history):
    candles = make_history(80)
    first, other = int(candles.open_time[30]), int(candles.open_time[31])
    again = [change_future(candles, first, "noise", seed=5).values for _ in range(2)]
    assert again[0].tobytes() == again[1].tobytes()
    assert (again[0][40:, :VOLUME] != change_future(candles, first, "noise", seed=6).values[40:, :VOLUME]).all()
    assert (again[0][40:, :VOLUME] != change_future(candles, other, "noise", seed=5).values[40:, :VOLUME]).all()


def test_a_row_that_comes_after_a_later_candle_was_not_known_before_it(make_history):
    candles = make_history(10)
    order = [0, 1, 2, 3, 4, 5, 2, 6, 7]
    feed = Candles(candles.open_time[order], candles.values[order], HOUR_MS)
    expected = [candles.open_time[max(order[: i + 1])] + HOUR_MS for i in range(len(order))]
    assert known_at(feed).tolist() == expected
    changed = change_future(feed, int(candles.open_time[4]) + HOUR_MS, "noise", seed=0)
    same = (changed.values == feed.values).all(axis=1)
    assert same.tolist() == [True] * 5 + [False] * 4
