"""Gaps in the candles: who decides when, what is filled, and what a run says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from btcbt.config import RunConfig
from btcbt.errors import StrategyError
from btcbt.records import Candles, Forecast, Holding, Window
from btcbt.report.summary import summary
from btcbt.storage.runs import Run
from btcbt.strategies import Strategy
from btcbt.walkforward import traders
from btcbt.walkforward.decisions import decide_all
from btcbt.walkforward.runner import run
from btcbt.walkforward.stamp import decisions_of_run

HOUR = 3_600_000
GAP = 1_562_846_400_000
"""2019-07-11T12:00Z: two candles are missing from here on in the bundled sample."""
ACCOUNTS = ("momentum", "threshold@walk", "buy_and_hold", "flat")


def config(root: Path, **changes: Any) -> RunConfig:
    tree = {
        "name": "gaps",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 20, "horizon": 3, "start": "2019-07-11", "end": "2019-07-13"},
        "forecasters": {"walk": {"kind": "random_walk", "n_paths": 2}},
        "strategies": {
            "momentum": {"use": "momentum", "params": {"lookback": 5}},
            "threshold": {"use": "threshold", "params": {"entry_bps": 0.0, "exit_bps": -9000.0}},
            "buy_and_hold": {"use": "buy_and_hold"},
            "flat": {"use": "flat"},
        },
        "portfolio": {"on_gap": "flat"},
        "store": {"root": str(root)},
    }
    return RunConfig.model_validate_json(json.dumps(tree | changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The same experiment with and without filled gaps, on one store."""
    root = tmp_path_factory.mktemp("runs")
    filled = {"path": "bundled:BTCUSD_1h", "fill_gaps": 2}
    return {"bare": run(config(root)), "filled": run(config(root, candles=filled))}


def undecided(one: Run) -> list[float]:
    return [one.metrics[f"strategy.{account}.undecided"] for account in ACCOUNTS]


def hours_decided(one: Run, account: str) -> list[int]:
    """Hours after the gap began at which an account decided."""
    decided = one.targets()[account].dropna().index.as_unit("ms").asi8
    return [int(hour) for hour in (decided - GAP) // HOUR if hour >= 0]


def words(one: Run, tmp_path: Path) -> str:
    console = Console(width=300, record=True, file=(tmp_path / "out").open("w"))
    console.print(summary(one))
    return console.export_text()


def test_each_account_decides_again_once_it_has_the_candles_that_it_needs(made: dict[str, Run]) -> None:
    bare = made["bare"]
    # The candles of hours 0 and 1 are missing. The decision of hour 0 is filled at the open of hour 2.
    assert hours_decided(bare, "buy_and_hold")[:3] == [0, 3, 4]
    assert hours_decided(bare, "momentum")[:3] == [0, 8, 9]
    assert hours_decided(bare, "threshold@walk")[:3] == [0, 22, 23]
    assert undecided(bare) == [5, 19, 0, 0]


def test_a_filled_gap_leaves_no_hour_without_a_decision(made: dict[str, Run]) -> None:
    filled = made["filled"]
    assert undecided(filled) == [0, 0, 0, 0]
    for account in ACCOUNTS:
        assert hours_decided(filled, account)[:3] == [0, 3, 4]
    assert filled.manifest["candles"]["filled"] == 2
    assert filled.manifest["candles"]["rows"] == made["bare"].manifest["candles"]["rows"]
    assert filled.candles()["filled"].sum() == 2
    assert GAP not in filled.equity().index.as_unit("ms").asi8


def test_no_outcome_with_a_filled_candle_is_scored(made: dict[str, Run]) -> None:
    origins = made["filled"].origins()
    after = ((origins.index.as_unit("ms").asi8 - GAP) // HOUR).tolist()
    unscored = [hour for hour, known in zip(after, origins["scored"], strict=True) if not known]
    assert unscored == [-2, -1, 0]  # three hours ahead of each is hour 0 or 1
    assert made["filled"].metrics["origins.scored"] == made["bare"].metrics["origins.scored"] + 19


def test_forecasts_from_filled_contexts_are_stored_beside_the_others(made: dict[str, Run]) -> None:
    bare, filled = made["bare"], made["filled"]
    assert bare.directory != filled.directory
    assert filled.manifest["forecasters"]["walk"]["computed"] == 19  # those whose windows have a filled candle
    both = bare.digests().join(filled.digests(), rsuffix=".filled", how="inner")
    assert (both["window.20"] == both["window.20.filled"]).all()
    paths = {origin: one.tobytes() for origin, one in zip(*_stored(filled), strict=True)}
    for origin, one in zip(*_stored(bare), strict=True):
        assert paths[origin] == one.tobytes()


def _stored(one: Run) -> tuple[list[int], np.ndarray]:
    stored = one.forecasts("walk")
    return stored.origins.tolist(), stored.paths()


def test_positions_without_a_decision_are_closed_if_the_portfolio_says_so(made: dict[str, Run]) -> None:
    bare, filled = made["bare"], made["filled"]
    assert bare.targets()["threshold@walk"].loc["2019-07-11T12:00Z"] == 1.0
    closed, *_ = bare.orders().query("strategy == 'threshold@walk' and time > '2019-07-11T12:00Z'").itertuples()
    assert (closed.time.isoformat(), closed.target) == ("2019-07-11T15:00:00+00:00", 0.0)
    # Buy and hold has a decision for every candle that there is.
    for one in (bare, filled):
        assert len(one.orders().query("strategy == 'buy_and_hold'")) == 1


def test_the_summary_says_for_how_long_accounts_stood_without_a_decision(made: dict[str, Run], tmp_path: Path) -> None:
    bare, filled = (words(made[name], tmp_path) for name in ("bare", "filled"))
    assert "Hours of 46 without a decision (and the return in those with one): 0 (flat +0.0%, buy_and_hold" in bare
    made_by = 100 * made["bare"].metrics["strategy.momentum.decided_return"]
    assert f"), 5 (momentum {made_by:+.1f}%), 19 (threshold " in bare
    assert "missing candles filled" not in bare
    assert "Every account had a decision in each of its 46 hours." in filled
    assert "2 missing candles filled (gaps of at most 2); none of them is scored" in filled


def test_a_strategy_gets_the_candles_that_it_needs_and_is_told_when_its_position_was_closed(
    make_history: Callable[..., Candles],
) -> None:
    seen: list[tuple[int, Holding]] = []

    class Held(Strategy):
        context = 3

        def decide(self, forecast: Forecast, holding: Holding) -> float:
            seen.append((len(forecast.window.values), holding))
            assert forecast.window.values.base is None
            return 0.5

    candles = make_history(30)
    windows = [Window(candles.open_time[i : i + 8], candles.values[i : i + 8], HOUR) for i in (0, 1, 2, 9)]
    forecasts = [Forecast(window, np.empty((0, 1, 6), dtype=np.float32)) for window in windows]
    origins = np.array([window.origin for window in windows])
    closed = np.array([0, 0, 0, origins[2] + HOUR])
    targets = decide_all(Held(), forecasts, closed=closed)
    assert {count for count, _ in seen} == {3}
    holdings = [holding for _, holding in seen]
    assert holdings == [Holding(0.0, 0), Holding(0.5, 1), Holding(0.5, 2), Holding(0.0, 6)]
    read = decisions_of_run("held", origins, targets, HOUR, origins, closed)
    assert [Holding(one["weight"], one["candles_held"]) for one in read] == holdings


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("21", "strategy 'own' needs a context of 21 candles, got 20; raise windows.context"),
        ("0", "strategy 'own': its context is 0 (int); expected a number of candles, at least 1, or None"),
        ("-3", "its context is -3 (int); expected a number of candles"),
        ("True", "its context is True (bool); expected a number of candles"),
        ("2.5", "its context is 2.5 (float); expected a number of candles"),
        ("'all'", "its context is 'all' (str); expected a number of candles"),
    ],
)
def test_a_context_that_no_strategy_can_have_is_refused_in_one_line(
    tmp_path: Path, context: str, expected: str
) -> None:
    source = "from btcbt.strategies import Strategy\n\n\nclass Own(Strategy):\n"
    source += f"    uses_forecast = False\n    context = {context}\n\n    def decide(self, forecast, holding):\n"
    (tmp_path / "own.py").write_text(source + "        return 0.0\n")
    strategies = {"own": {"use": f"{tmp_path / 'own.py'}:Own"}}
    with pytest.raises(StrategyError) as caught:
        traders.make_traders(config(tmp_path, strategies=strategies))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
