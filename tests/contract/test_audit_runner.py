"""`run` itself: the same experiment on a changed future stores the same past, bit for bit.

This holds the whole of a run, store and executors included, to the standard of the audit.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from btcbt.audit.changes import change_future
from btcbt.candles import write_candles
from btcbt.config import RunConfig
from btcbt.walkforward.runner import run

HOUR_MS = 3_600_000
START_MS = 1_546_300_800_000
FORECASTERS = ("random_walk", "ewma_volatility", "calibrated")


@pytest.fixture
def runs(make_history, tmp_path):
    """The run on the true history, and one on another future; and the origin after which they differ."""
    candles = make_history(400, missing=[230])
    origin = START_MS + 300 * HOUR_MS
    done = []
    for name, history in (("true", candles), ("other", change_future(candles, origin, "noise", seed=2))):
        write_candles(history, tmp_path / f"{name}.parquet")
        tree = {
            "name": name,
            "candles": {"path": str(tmp_path / f"{name}.parquet")},
            "windows": {"context": 48, "horizon": 4, "start": "2019-01-05", "end": "2019-01-16"},
            "forecasters": {
                "random_walk": {"kind": "random_walk", "n_paths": 4},
                "ewma_volatility": {"kind": "ewma_volatility", "n_paths": 4},
                "calibrated": {"kind": "calibrated", "base": "random_walk"},
            },
            "strategies": {
                "threshold": {"use": "threshold", "params": {"entry_bps": 5.0}},
                "momentum": {"use": "momentum"},
            },
            "store": {"root": str(tmp_path / "runs"), "shard_size": 50},
        }
        done.append(run(RunConfig.model_validate_json(json.dumps(tree))))
    return (*done, origin)


def until(frame, origin):
    times = frame.index.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    return frame[times <= origin], frame[times > origin]


def test_a_run_on_another_future_stores_the_same_past(runs):
    true, other, origin = runs
    for name in FORECASTERS:
        a, b = true.forecasts(name), other.forecasts(name)
        known, later = a.origins <= origin, a.origins > origin
        assert np.array_equal(a.origins[known], b.origins[b.origins <= origin])
        assert known.sum() > 150
        assert a.paths()[known].tobytes() == b.paths()[b.origins <= origin].tobytes()
        assert a.paths()[later].tobytes() != b.paths()[b.origins > origin].tobytes()
    for column in true.targets():
        (a, a_later), (b, b_later) = (until(one.targets()[column], origin) for one in (true, other))
        assert a.to_numpy().tobytes() == b.to_numpy().tobytes()
    assert (a_later.to_numpy() != b_later.to_numpy()).any()
    # A row of equity is known at the close of its candle, a fill at the open: that of the origin is of the next.
    for column in true.equity():
        a, b = (until(one.equity()[column], origin - HOUR_MS)[0] for one in (true, other))
        assert a.to_numpy().tobytes() == b.to_numpy().tobytes()
        assert len(a) > 150
    filled = [one.orders().set_index("time") for one in (true, other)]
    a, b = (until(one, origin - HOUR_MS)[0] for one in filled)
    assert len(a) > 10
    for column in ("strategy", "side"):
        assert a[column].tolist() == b[column].tolist()
    for column in ("size", "price", "fee", "target"):
        assert np.array_equal(a[column], b[column])
