"""Accounts at other costs and with late fills, and how large they may be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from btcbt.config import PortfolioConfig, WindowsConfig
from btcbt.metrics import summarise_returns
from btcbt.metrics.returns import capacity
from btcbt.portfolio import Simulation, simulate
from btcbt.progress import Progress
from btcbt.records import AMOUNT, Candles, FloatArray, Forecast
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward import sensitivity
from btcbt.walkforward.decisions import decide_all
from btcbt.walkforward.scoring import Scores
from btcbt.windows import Windows, make_windows


def score(windows: Windows, targets: FloatArray, config: PortfolioConfig) -> tuple[Simulation, Scores]:
    names = [f"s{k}" for k in range(targets.shape[1])]
    real = simulate(windows.candles, windows.origins, targets, names, config)
    return real, sensitivity.score_sensitivity(real, windows, targets, config, None, Progress())


def numbers(scores: Scores, account: int) -> dict[tuple[str, str], float]:
    return {(row["group"], row["metric"]): row["value"] for row in scores.tables[account].to_pylist()}


@pytest.fixture
def windows(make_history: Callable[..., Candles]) -> Windows:
    candles = make_history(400)
    start, end = (datetime.fromtimestamp(int(candles.open_time[k]) / 1000, UTC) for k in (50, 350))
    return make_windows(candles, WindowsConfig(context=10, horizon=3, start=start, end=end))


def test_each_account_is_scored_at_other_costs_as_a_run_with_these_would(
    windows: Windows, rng: np.random.Generator
) -> None:
    config = PortfolioConfig(max_short=0.5)
    targets = rng.uniform(-1, 1, (len(windows), 3))
    real, scores = score(windows, targets, config)
    other = config.model_copy(update={"fee_bps": 5.0, "slippage_bps": 0.0})
    alone = simulate(windows.candles, windows.origins, targets, real.names, other)
    for k in range(3):
        found, expected = numbers(scores, k), summarise_returns(alone.equity[:, k], initial=real.initial_cash)
        for metric in ("total_return", "sharpe"):
            assert found["cost_bps=5", metric] == pytest.approx(expected[metric], rel=1e-12)
        totals = [found[f"cost_bps={bps}", "total_return"] for bps in (0, 2, 5, 10, 20)]
        assert totals == sorted(totals, reverse=True)
        assert np.isfinite(found["delay=1", "sharpe"])
        assert len(found) == 2 * 6 + 1


def test_simulating_a_few_accounts_at_once_changes_no_number(
    windows: Windows, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = rng.uniform(0, 1, (len(windows), 5))
    _, whole = score(windows, targets, PortfolioConfig())
    monkeypatch.setattr(sensitivity, "CELLS", 2 * 6 * len(windows))
    _, parts = score(windows, targets, PortfolioConfig())
    assert [table.to_pylist() for table in parts.tables] == [table.to_pylist() for table in whole.tables]


def test_an_account_of_its_capacity_has_one_order_in_twenty_above_one_percent_of_the_candle(
    windows: Windows, rng: np.random.Generator
) -> None:
    targets = np.column_stack([rng.uniform(0, 1, len(windows)), np.zeros(len(windows))])
    real, scores = score(windows, targets, PortfolioConfig())
    size = scores.headline["strategy.s0.capacity"]
    assert size == numbers(scores, 0)["all", "capacity"]
    assert np.isnan(scores.headline["strategy.s1.capacity"]), "it sends no order"
    large = simulate(
        windows.candles, windows.origins, targets[:, :1], ["large"], PortfolioConfig(initial_cash=size)
    ).orders
    times = large["time"].dt.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    amount = windows.candles.values[np.searchsorted(windows.candles.open_time, times), AMOUNT]
    share = (large["size"] * large["price"]).to_numpy() / amount
    assert len(share) == 300
    assert 0.04 < (share > 0.01 * (1 + 1e-9)).mean() <= 0.05
    assert real.initial_cash != size


def test_the_capacity_is_that_of_the_amounts_and_zero_where_nothing_is_traded() -> None:
    value = np.arange(1.0, 21.0)  # shares of 1 to 20 %: one of 20 orders may be larger than the bound
    assert capacity(value, np.full(20, 100.0), 1000.0) == pytest.approx(1000 * 0.01 / 0.20)
    assert capacity(np.append(value, 1.0), np.full(21, 100.0), 1000.0) == pytest.approx(1000 * 0.01 / 0.19)
    assert capacity([1.0, 1.0], [100.0, 0.0], 1000.0) == 0.0
    assert np.isnan(capacity([], [], 1000.0))


def test_on_real_hours_momentum_gains_before_costs_and_loses_at_them_or_a_candle_late(sample_candles: Candles) -> None:
    asked = WindowsConfig(
        context=240, horizon=24, start=datetime(2019, 6, 1, tzinfo=UTC), end=datetime(2019, 10, 1, tzinfo=UTC)
    )
    windows = make_windows(sample_candles, asked)
    blind = np.empty((0, 24, 6), dtype=np.float32)
    strategy = load_strategy("momentum", {"lookback": 24})
    decided = decide_all(strategy, [Forecast(window, blind) for window in windows], name="momentum")
    _, scores = score(windows, decided[:, None], PortfolioConfig())
    found = numbers(scores, 0)
    totals = {group: value for (group, metric), value in found.items() if metric == "total_return"}
    expected = {0: 0.1877, 2: 0.1364, 5: 0.0635, 10: -0.0478, 20: -0.2366}
    assert totals == pytest.approx({**{f"cost_bps={k}": v for k, v in expected.items()}, "delay=1": -0.0812}, abs=1e-4)
    # A thin market: a few thousand dollars are 1 % of a quiet hour on this exchange.
    assert 1_000 < found["all", "capacity"] < 10_000
