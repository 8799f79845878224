"""Decisions as columns of arrays, against decisions one by one."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from btcbt.config import WindowsConfig
from btcbt.records import Candles, Holding, IntArray
from btcbt.strategies import Params, Strategy
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward.decisions import decide_all
from btcbt.walkforward.many_decisions import Stream, decide_in_columns, holding_before
from btcbt.windows import Windows, make_windows


@pytest.fixture
def walk(make_history: Callable[..., Candles]) -> Windows:
    candles = make_history(700)
    start, end = (datetime.fromtimestamp(int(candles.open_time[row]) / 1000, UTC) for row in (60, -1))
    return make_windows(candles, WindowsConfig(start=start, end=end, context=48, horizon=2))


@pytest.fixture
def closed(walk: Windows, rng: np.random.Generator) -> IntArray:
    """Positions closed before a tenth of the origins, some in a row, half an hour before each."""
    times = np.where(rng.random(len(walk)) < 0.1, walk.origins - walk.candles.interval_ms // 2, 0)
    times[[0, -1]] = 0, times[-1]
    return times


class Recorded(Strategy):
    """Decides what it is given, and keeps the holdings that it was asked with."""

    uses_forecast = False

    def __init__(self, params: Params | None = None) -> None:
        super().__init__(params)
        self.targets: list[float] = []
        self.asked: list[Holding] = []

    def decide(self, forecast, holding):
        self.asked.append(holding)
        return self.targets[len(self.asked) - 1]


def test_a_holding_is_rebuilt_from_the_targets_and_closings_before(walk, closed, rng):
    strategy = Recorded()
    strategy.targets = rng.choice([-0.5, 0.0, 0.0, 0.3, 1.0], len(walk)).tolist()
    targets = decide_all(strategy, Stream(walk).singly(), closed=closed)
    assert np.count_nonzero(closed) > 30
    assert [holding_before(targets, row, walk, closed) for row in range(len(walk))] == strategy.asked


@pytest.mark.parametrize("closings", [True, False])
def test_columns_are_what_each_configuration_decides_alone(walk, closed, closings):
    many = [
        load_strategy("momentum", {"lookback": lookback, "threshold_bps": bps})
        for lookback in (6, 24)
        for bps in (0, 80)
    ]
    closed = closed if closings else None
    columns = decide_in_columns(many, Stream(walk), "momentum", closed)
    alone = [decide_all(one, Stream(walk).singly(), closed=closed) for one in many]
    np.testing.assert_array_equal(columns, np.column_stack(alone))
    assert 0.1 < columns.mean() < 0.9
