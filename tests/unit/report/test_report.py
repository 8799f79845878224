"""Figures."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from btcbt.candles import write_candles
from btcbt.config import BUY_AND_HOLD, RunConfig
from btcbt.records import CLOSE, Candles, Window
from btcbt.report import figures
from btcbt.report.colours import COLOURS, colours_of
from btcbt.storage.runs import Run, load_run
from btcbt.storage.runs import write_candles as write_candles_of_run
from btcbt.walkforward import runner

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
    scores = pd.DataFrame({"forecaster": "a", "channel": "close", "step": range(12, -1, -1), "group": "all"})
    parts = [
        scores.assign(metric="crps_bps", value=scores["step"].astype(float)),
        scores.assign(metric="coverage90", value=90.0 - scores["step"]),
        scores.assign(metric="crps_bps", group="month=2019-06", value=7.0),
        scores.assign(metric="crps_bps", channel="open", value=7.0),
    ]
    figure = figures.error_by_step(pd.concat(parts), {"a": "a (anchored)"})
    np.testing.assert_array_equal(lines(figure, 0, "a")[0], np.arange(1.0, 13))
    np.testing.assert_array_equal(lines(figure, 1, "a")[0], 90 - np.arange(1.0, 13))
    assert "bps" in figure.axes[0].get_ylabel()


def test_errors_are_drawn_in_percent_of_the_opponents_with_intervals() -> None:
    steps = pd.DataFrame({"channel": "close", "step": [1, 2, 3], "group": "all", "metric": "crps_bps"})
    ends = pd.DataFrame({"forecaster": "a", "channel": "close", "step": [1, 3], "group": "opponent=b"})
    parts = [
        steps.assign(forecaster="a", value=[9.0, 10.0, 12.0]),
        steps.assign(forecaster="b", value=10.0),
        ends.assign(metric="crps_bps.low_pct", value=[-15.0, 5.0]),
        ends.assign(metric="crps_bps.high_pct", value=[-5.0, 35.0]),
    ]
    figure = figures.error_by_step(pd.concat(parts), {"a": "a", "b": "b"}, "b")
    np.testing.assert_allclose(lines(figure, 0, "a")[0], [-10, 0, 20])
    assert not lines(figure, 0, "b")
    bars = [segment[:, 1].tolist() for segment in figure.axes[0].collections[0].get_segments()]
    assert bars == [[-15, -5], [5, 35]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["a"]


def test_fifty_strategies_leave_few_lines_whose_names_are_apart() -> None:
    index = pd.date_range("2019-06-01", periods=5, freq="h", tz="UTC")
    names = [f"s{k:02d}@{forecaster}" for k in range(50) for forecaster in ("x", "y")]
    equity = pd.DataFrame({name: 100.0 + 0.1 * k * np.arange(5) for k, name in enumerate(names)}, index=index)
    equity[BUY_AND_HOLD] = 100.0
    named = figures.notable(equity, "x")
    assert named == [BUY_AND_HOLD, "s49@y", "s00@x", "s49@x", "s48@x", "s47@x", "s46@x", "s45@x"]
    figure = figures.equity_chart(equity, 100.0, named, colours={"x": "red", "y": "green"}, targets=equity * 0 + 1)
    assert [str(line.get_label()) for line in figure.axes[0].lines[:-1]] == named
    looks = {
        name: (line.get_color(), line.get_linestyle()) for name, line in zip(named, figure.axes[0].lines, strict=False)
    }
    assert looks["s49@y"][0] == "green"
    assert looks["s49@x"][0] == looks["s48@x"][0] == "red"
    assert looks["s49@x"][1] != looks["s48@x"][1]
    figure.canvas.draw()
    # Of the text alone: an annotation's own extent covers its arrow, too.
    extents = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    boxes = sorted((box.y0, box.y1) for box in extents)
    assert len(boxes) == len(named)
    assert all(above[0] >= below[1] for below, above in pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 for box in extents)
    assert [text.get_text() for text in figure.axes[2].get_yticklabels()] == named


def test_names_of_any_length_leave_room_for_the_lines() -> None:
    index = pd.date_range("2019-06-01", periods=5, freq="h", tz="UTC")
    names = [f"s{k:02d}{'x' * 61}@{'y' * 64}" for k in range(50)]
    equity = pd.DataFrame({name: 100.0 + k * np.arange(5) for k, name in enumerate(names)}, index=index)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.equity_chart(equity, 100.0, figures.notable(equity, "y" * 64), targets=equity * 0 + 1)
        figure.canvas.draw()
    assert figure.axes[0].get_position().width > 0.5
    assert figures.short_name("a@b") == "a@b"
    assert figures.short_name(names[3]) == f"s03{'x' * 6}…{'x' * 10}@{'y' * 9}…{'y' * 10}"


def test_of_many_forecasters_only_the_first_has_a_band_of_coverage() -> None:
    names = [f"f{k}" for k in range(9)]
    rows = [
        (name, "close", step, "all", metric, value)
        for name in names
        for step in (1, 2)
        for metric, value in (
            ("crps_bps", 9.0),
            ("coverage90", 88.0),
            ("coverage90_low", 80.0),
            ("coverage90_high", 95.0),
        )
    ]
    scores = pd.DataFrame(rows, columns=["forecaster", "channel", "step", "group", "metric", "value"])
    colours = colours_of(names, "f4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.error_by_step(scores, {name: name for name in names}, "f0", "", colours)
        figure.canvas.draw()
    assert len(figure.axes[1].collections) == 2
    assert to_hex(figure.axes[1].collections[0].get_color()[0]) == colours["f4"].lower()
    assert len(lines(figure, 1, "f")) == 9


def test_the_main_forecaster_has_the_first_colour_and_no_two_of_twelve_share_one() -> None:
    names = [f"f{k}" for k in range(12)]
    found = colours_of(names, "f7")
    assert list(found) == names
    assert found["f7"] == COLOURS[0]
    assert found["f0"] == COLOURS[1]
    assert len(set(found.values())) == 12
    assert colours_of(names, "absent") == colours_of(names)


def test_a_title_names_experiment_candles_dates_and_costs(tmp_path: Path) -> None:
    windows = {"context": 10, "horizon": 4, "start": "2019-01-01", "end": "2019-01-02"}
    config = RunConfig.model_validate({"name": "x", "candles": {"path": "a/BTCUSDT_1h.parquet"}, "windows": windows})
    origins = {"first": "2019-01-01T00:00Z", "last": "2019-01-01T23:00Z"}
    run = Run(tmp_path, config, {"origins": origins, "candles": {"path": "a/BTCUSDT_1h.parquet", "interval": "1h"}}, {})
    assert figures.heading_of(run) == "x: BTCUSDT_1h, 2019-01-01 to 2019-01-01\n"
    assert figures.costs_of(run) == "after 10 bps fees and 2 bps slippage a side, and funding"


def test_a_fan_has_the_quantiles_that_are_scored(make_windows: MakeWindows) -> None:
    """The 90 % of 30 paths would otherwise be too narrow by what few paths cost."""
    window = make_windows(1, 10)[0]
    figure = figures.new_figure(4, 3)
    axes = figure.subplots()
    rises = np.arange(1.0, 40.0)
    paths = np.repeat((window.last_close + rises[:, None, None]).astype(np.float32), 6, axis=2)
    figures.draw_fan(axes, window.future_open_time(1), paths[:, :, CLOSE], window, window.last_close, "red")
    ends = [one.get_paths()[0].vertices[:, 1] - window.last_close for one in axes.collections]
    # Of 39 paths, a new one falls below the first with probability 1/40: that is the end of the central 95 %.
    assert [end.max() for end in ends] == pytest.approx([39, 36, 30], abs=1e-2)


def test_equity_and_drawdown_are_in_percent_of_the_start() -> None:
    index = pd.date_range("2019-06-01", periods=4, freq="h", tz="UTC")
    equity = pd.DataFrame({"buy_and_hold": [110.0, 90, 99, 120], "other@b": [100.0] * 4}, index=index)
    figure = figures.equity_chart(equity, 100.0, ["buy_and_hold"])
    np.testing.assert_allclose(lines(figure, 0, "buy_and_hold")[0], [10, -10, -1, 20])
    drawdown = np.asarray(figure.axes[1].lines[0].get_ydata())
    np.testing.assert_allclose(drawdown, [0, -100 * 20 / 110, -10, 0])
    assert [one.get_label() for one in figure.axes[0].collections] == ["the other account"]


def test_a_first_loss_is_a_drawdown_from_the_initial_cash() -> None:
    index = pd.date_range("2019-06-01", periods=2, freq="h", tz="UTC")
    figure = figures.equity_chart(pd.DataFrame({"a": [90.0, 95.0]}, index=index), 100.0, ["a"])
    np.testing.assert_allclose(np.asarray(figure.axes[1].lines[0].get_ydata()), [-10, -5])


def test_accounts_on_one_forecaster_have_a_colour_of_their_own() -> None:
    columns = ["a@x", "a@y", "momentum", BUY_AND_HOLD]
    assert figures.highlighted(columns, "y") == ["a@y", "momentum", BUY_AND_HOLD]


def test_figures_leave_matplotlibs_global_state_alone(make_windows: MakeWindows) -> None:
    from matplotlib import _pylab_helpers

    figures.fan_chart(make_windows(1, 10)[0], {"x": np.ones((3, 2, 6), dtype=np.float32)}, None)
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []


def test_figures_are_drawn_from_a_stored_run_alone(make_history: Callable[..., Candles], tmp_path: Path) -> None:
    source = tmp_path / "candles.parquet"
    write_candles(make_history(24 * 20), source)
    config = {
        "name": "small",
        "candles": {"path": str(source)},
        "windows": {"start": "2019-01-06", "end": "2019-01-10", "context": 100, "horizon": 5},
        "forecasters": {"drift": {"kind": "drift", "n_paths": 8}},
        "strategies": {"momentum": {"use": "momentum"}},
        "store": {"root": str(tmp_path / "runs")},
    }
    drawn = runner.run(RunConfig.model_validate_json(json.dumps(config))).directory
    copy = shutil.copytree(drawn, tmp_path / "copy")
    source.unlink()
    shutil.rmtree(tmp_path / "runs" / "store")
    pictures = {file.name: file.read_bytes() for file in (copy / "figures").iterdir()}
    shutil.rmtree(copy / "figures")
    files = figures.draw_figures(load_run(copy))
    assert {file.name: file.read_bytes() for file in files} == pictures
    assert set(pictures) == {"fan.png", "error_by_step.png", "equity.png"}


def test_a_fan_shows_the_candles_around_its_origin(make_history: Callable[..., Candles], tmp_path: Path) -> None:
    """Of a stored run, the context of each origin and its outcome are those of the history."""
    candles = make_history(60)
    start, interval = int(candles.open_time[0]), candles.interval_ms
    write_candles_of_run(tmp_path / "candles.parquet", candles, start, start + 60 * interval)
    windows = {"context": 10, "horizon": 4, "start": "2019-01-01", "end": "2019-01-02"}
    config = RunConfig.model_validate({"name": "x", "candles": {"path": "bundled:BTCUSD_1h"}, "windows": windows})
    run = Run(tmp_path, config, {}, {})
    window, outcome = figures.around(run, start + 30 * interval)
    assert window.origin == start + 30 * interval
    np.testing.assert_array_equal(window.values, candles.values[20:30])
    np.testing.assert_array_equal(outcome, candles.values[30:34])


def test_a_figure_is_the_same_each_time(make_windows: MakeWindows, tmp_path: Path) -> None:
    window = make_windows(1, 10)[0]
    digests = set()
    for name in ("a.png", "b.png"):
        figures.fan_chart(window, {"x": np.ones((3, 2, 6), dtype=np.float32)}, None).savefig(tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
