"""Figures, accounts, provenance and progress."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from btcbt import progress
from btcbt.config import BUY_AND_HOLD, PortfolioConfig
from btcbt.portfolio import simulate
from btcbt.records import CLOSE, Candles, Window
from btcbt.report import figures
from btcbt.walkforward import provenance
from btcbt.walkforward.accounts import account_numbers, account_trials

MakeWindows = Callable[..., list[Window]]


def lines(figure: figures.Figure, panel: int, label: str) -> list[np.ndarray]:
    """What a figure's panel draws under a label."""
    axes = figure.axes[panel]
    return [np.asarray(line.get_ydata()) for line in axes.lines if str(line.get_label()).startswith(label)]


def test_a_fan_shows_the_median_and_the_outcome(make_windows: MakeWindows, rng: np.random.Generator) -> None:
    window = make_windows(1, 100)[0]
    paths = (window.last_close * np.exp(rng.normal(0, 0.01, (20, 8, 6)))).astype(np.float32)
    outcome = window.last_close + np.arange(48.0).reshape(8, 6)
    figure = figures.fan_chart(window, {"kronos": paths, "random_walk": paths[:5]}, outcome)
    median = np.concatenate([[window.last_close], np.median(paths[:, :, CLOSE], axis=0)])
    np.testing.assert_allclose(lines(figure, 0, "median")[0], median, rtol=1e-6)
    np.testing.assert_array_equal(lines(figure, 0, "actual")[0], outcome[:, CLOSE])
    np.testing.assert_array_equal(lines(figure, 0, "known")[0], window.values[-72:, CLOSE])
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["kronos, 20 paths", "random_walk, 5 paths"]
    assert figure.axes[0].get_ylabel() == "Close (quote currency)"
    assert figure.axes[2].get_xlabel() == "Time (UTC)"


def test_a_fan_without_an_outcome_shows_none(make_windows: MakeWindows) -> None:
    window = make_windows(1, 10)[0]
    paths = np.full((3, 2, 6), 4000, dtype=np.float32)
    assert lines(figures.fan_chart(window, {"x": paths}, None), 0, "actual") == []


def test_errors_are_drawn_step_by_step() -> None:
    metrics = {f"forecast.a.crps_bps.close.h{h}": float(h) for h in range(1, 13)}
    metrics |= {f"forecast.a.coverage90.close.h{h}": 90.0 - h for h in range(1, 13)}
    figure = figures.error_by_step(metrics, {"a": "a (anchored)"})
    np.testing.assert_array_equal(lines(figure, 0, "a")[0], np.arange(1.0, 13))
    np.testing.assert_array_equal(lines(figure, 1, "a")[0], 90 - np.arange(1.0, 13))
    assert "bps" in figure.axes[0].get_ylabel()


def test_equity_and_drawdown_are_in_percent_of_the_start() -> None:
    index = pd.date_range("2019-06-01", periods=4, freq="h", tz="UTC")
    equity = pd.DataFrame({"buy_and_hold": [110.0, 90, 99, 120], "other@b": [100.0] * 4}, index=index)
    figure = figures.equity_chart(equity, 100.0, ["buy_and_hold"])
    np.testing.assert_allclose(lines(figure, 0, "buy_and_hold")[0], [10, -10, -1, 20])
    drawdown = np.asarray(figure.axes[1].lines[0].get_ydata())
    np.testing.assert_allclose(drawdown, [0, -100 * 20 / 110, -10, 0])
    assert len(lines(figure, 0, "others")) == 1


def test_a_first_loss_is_a_drawdown_from_the_initial_cash() -> None:
    index = pd.date_range("2019-06-01", periods=2, freq="h", tz="UTC")
    figure = figures.equity_chart(pd.DataFrame({"a": [90.0, 95.0]}, index=index), 100.0, ["a"])
    np.testing.assert_allclose(np.asarray(figure.axes[1].lines[0].get_ydata()), [-10, -5])


def test_accounts_on_one_forecaster_are_told_apart() -> None:
    columns = ["a@x", "a@y", "momentum", BUY_AND_HOLD]
    assert figures.highlighted(columns, "y") == ["a@y", "momentum", BUY_AND_HOLD]


def test_figures_leave_matplotlibs_global_state_alone(make_windows: MakeWindows) -> None:
    from matplotlib import _pylab_helpers

    figures.fan_chart(make_windows(1, 10)[0], {"x": np.ones((3, 2, 6), dtype=np.float32)}, None)
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []


def test_costs_and_turnover_of_an_account_are_those_of_its_orders(make_history: Callable[..., Candles]) -> None:
    candles = make_history(80)
    origins = candles.open_time[10:60] + candles.interval_ms
    targets = np.column_stack([np.arange(50) % 2, np.ones(50)]).astype(float)
    config = PortfolioConfig(fee_bps=20.0, slippage_bps=5.0)
    simulation = simulate(candles, origins, targets, ["flip", BUY_AND_HOLD], config)
    trials = account_trials(simulation, candles, "x", {name: {"what": name} for name in simulation.names})
    numbers = account_numbers(simulation, 6, trials)
    assert numbers["strategy.flip.fees"] == pytest.approx(simulation.orders.query("strategy == 'flip'")["fee"].sum())
    # 49 orders of all there is, at 25 bps each.
    assert numbers["strategy.flip.costs"] == pytest.approx(49 * 25e-4, rel=0.02)
    assert numbers[f"strategy.{BUY_AND_HOLD}.costs"] == pytest.approx(25e-4, rel=0.01)
    total = simulation.equity[-1, 0] / simulation.initial_cash - 1
    assert numbers["strategy.flip.total_return"] == pytest.approx(total)
    assert numbers["strategy.flip.excess.total_return"] == pytest.approx(
        total - (simulation.equity[-1, 1] / simulation.initial_cash - 1)
    )
    assert numbers["strategy.flip.trials"] == 2


def test_a_trial_holds_the_moments_of_the_account_and_is_known_by_its_content(
    make_history: Callable[..., Candles],
) -> None:
    candles = make_history(80)
    origins = candles.open_time[10:60] + candles.interval_ms
    targets = np.column_stack([np.arange(50) % 2, np.zeros(50)]).astype(float)
    simulation = simulate(candles, origins, targets, ["flip", "idle"], PortfolioConfig())
    flip, idle = account_trials(simulation, candles, "x", {"flip": {"a": 1}, "idle": {"a": 2}})
    returns = np.diff(simulation.equity[:, 0], prepend=simulation.initial_cash)
    returns /= np.concatenate([[simulation.initial_cash], simulation.equity[:-1, 0]])
    centred = returns - returns.mean()
    assert flip.n == len(returns) == 50
    assert flip.sharpe == pytest.approx(returns.mean() / returns.std(ddof=1))
    assert flip.skew == pytest.approx((centred**3).mean() / (centred**2).mean() ** 1.5)
    assert flip.kurtosis == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2)
    assert np.isnan([idle.sharpe, idle.skew, idle.kurtosis]).all()
    assert flip.id != idle.id
    assert (flip.start, flip.end) == (origins[0], origins[-1] + candles.interval_ms)
    again = account_trials(simulation, candles, "renamed", {"flip": {"a": 1}})[0]
    assert again.id == flip.id
    other = make_history(80)  # other prices
    assert account_trials(simulation, other, "x", {"flip": {"a": 1}})[0].id != flip.id


def test_the_commit_is_that_of_the_checkout() -> None:
    root = Path(provenance.__file__).parents[2]
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    commit = provenance.git_commit()
    if done.returncode:
        assert commit is None
    else:
        assert commit is not None
        assert len(commit.removesuffix("-dirty")) == 40


def test_no_git_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() is None


def test_versions_of_unknown_packages_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    versions = provenance.package_versions()
    assert versions["numpy"] == np.__version__
    assert versions["no-such-package"] == "unknown"


def test_plain_progress_says_what_was_stored_and_how_fast_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 11.0, 12.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    plain = progress.PlainProgress(Console(file=out, width=200), every=10)
    with plain.stage("forecast x", 100, done=20) as advance:
        advance(10)
        advance(45)
        advance(25)
    assert out.getvalue().splitlines() == [
        "forecast x: 20 of 100 origins already stored",
        "forecast x: 75 of 100 origins, 5.0/s, 5 s left",
        "forecast x: 100 origins in 20.0 s (4/s)",
    ]


def test_plain_progress_of_what_is_all_stored_says_only_that() -> None:
    out = io.StringIO()
    with progress.PlainProgress(Console(file=out, width=200)).stage("forecast x", 5, done=5):
        pass
    assert out.getvalue() == "forecast x: 5 of 5 origins already stored\n"


def test_bars_show_the_stage_the_count_and_the_rate() -> None:
    out = io.StringIO()
    bars = progress.BarProgress(Console(file=out, force_terminal=True, width=140, color_system=None))
    bars.note("[stopping] after the shard in hand")
    with bars.stage("forecast x", 1000, done=200) as advance:
        advance(800)
    text = out.getvalue()
    assert "[stopping] after the shard in hand" in text
    assert "forecast x" in text
    assert "1000/1000" in text
    assert "origins/s" in text


def test_silent_progress_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    silent = progress.Progress()
    silent.note("anything")
    with silent.stage("x", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_a_figure_is_the_same_each_time(make_windows: MakeWindows, tmp_path: Path) -> None:
    window = make_windows(1, 10)[0]
    digests = set()
    for name in ("a.png", "b.png"):
        figures.fan_chart(window, {"x": np.ones((3, 2, 6), dtype=np.float32)}, None).savefig(tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
