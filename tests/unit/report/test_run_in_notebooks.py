"""A run as people use it: short texts, a card, tidy tables, pictures, live accounts, and exports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import btcbt
from btcbt import Run
from btcbt.candles import make_candles
from btcbt.config import PortfolioConfig
from btcbt.errors import StoreError
from btcbt.metrics.distribution import sample_quantiles
from btcbt.portfolio import live_portfolio, simulate
from btcbt.records import CLOSE, Candles
from btcbt.report.colours import COLOURS

HOSTILE = "a-strategy.with_every-letter.that.a.name.may.have_0"
EXPERIMENT: dict[str, Any] = {
    "name": "shown",
    "candles": {"path": "bundled:BTCUSD_1h"},
    "windows": {"start": "2019-06-01T06:00", "end": "2019-06-03", "context": 30, "horizon": 3},
    "forecasters": {name: {"kind": name, "n_paths": 20} for name in ("random_walk", "drift")},
    "strategies": {
        "threshold": {"use": "threshold", "params": {"entry_bps": 1.0, "exit_bps": 0.0}},
        HOSTILE: {"use": "momentum", "params": {"lookback": 12}},
    },
    "portfolio": {"max_short": 1, "funding_bps_per_hour": 0.3, "borrow_bps_per_hour": 0.2, "on_gap": "flat"},
    "seed": 3,
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return btcbt.run(EXPERIMENT | {"store": {"root": str(tmp_path_factory.mktemp("shown"))}})


@pytest.fixture(autouse=True)
def _figures_are_closed() -> Any:
    with matplotlib.rc_context(), plt.ioff():
        matplotlib.use("agg")
        yield
        plt.close("all")


class Reader(HTMLParser):
    """Texts and tags of a piece of HTML; every tag that is opened must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# -- texts ---------------------------------------------------------------------------------------------------


def test_the_end_of_a_cell_shows_a_line_not_a_megabyte(shown: Run) -> None:
    assert type(btcbt.load_run(shown.directory)) is type(shown) is Run
    assert repr(btcbt.load_run(shown.directory)) == repr(shown)
    assert repr(shown) == f"<Run shown: 42 origins, 2 forecasters, 4 accounts; {shown.directory}>"
    span = "2019-06-01T06:00Z .. 2019-06-02T23:00Z"
    assert repr(shown.forecasts("drift")) == f"<Forecasts of drift: 42 origins, 20 paths, 3 steps, {span}>"
    assert repr(shown.forecasts("drift")) == str(shown.forecasts("drift"))


def test_the_card_has_verdict_forecasters_and_the_best_accounts(shown: Run) -> None:
    card = Reader(shown._repr_html_())
    text = " ".join(" ".join(card.texts).split())
    assert "No edge larger than" in text or "beats random_walk" in text or "Better than random_walk" in text
    assert "drift" in text
    final = shown.equity().iloc[-1].drop("buy_and_hold").sort_values(ascending=False)
    assert text.index(final.index[0]) < text.index(final.index[1]) < text.index("buy_and_hold")
    assert f"{100 * (final.iloc[0] / 10_000 - 1):+.1f} %" in text
    assert card.tags.count("polyline") == 4
    assert not {"script", "img", "link", "style", "iframe"} & set(card.tags)
    assert not [value for key, value in card.attributes if key in ("href", "src") or key.startswith("on")]


def test_a_sparkline_begins_at_no_change_and_ends_where_the_account_does(shown: Run) -> None:
    html = shown._repr_html_()
    lines = [
        [tuple(map(float, point.split(","))) for point in points.split()]
        for points in re.findall(r'points="([^"]+)"', html)
    ]
    names = re.findall(r'aria-label="Equity of ([^"]+)"', html)
    (zero,) = set(re.findall(r'y1="([\d.]+)"', html))
    growth = shown.equity() / 10_000 - 1
    shape = growth[names].to_numpy()
    low, high = min(shape.min(), 0), max(shape.max(), 0)
    for name, line in zip(names, lines, strict=True):
        expected = 2 + 24 * (high - growth[name].iloc[-1]) / (high - low)
        assert line[-1] == (179.0, pytest.approx(expected, abs=0.06))
        assert line[0][0] == 1.0
    assert float(zero) == pytest.approx(2 + 24 * high / (high - low), abs=0.06)


def test_names_in_the_card_are_text(shown: Run) -> None:
    manifest = json.loads(json.dumps(shown.manifest))
    manifest["candles"]["path"] = hostile = "<img src=x onerror=alert(1)>&'"
    card = Reader(Run(shown.directory, shown.config, manifest, shown.metrics)._repr_html_())
    assert "img" not in card.tags
    assert hostile in "".join(card.texts)


def test_opening_a_run_waits_for_no_numerical_library(shown: Run) -> None:
    slow = {"scipy", "pandas", "matplotlib", "torch", "vectorbt"}
    code = f"import sys, btcbt; print(btcbt.load_run(sys.argv[1]), {slow} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(shown.directory)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{shown!r} set()\n"


# -- tables --------------------------------------------------------------------------------------------------


def test_origins_are_readable(shown: Run) -> None:
    origins = shown.origins()
    assert list(origins.columns) == ["scored", "label.random_walk", "label.drift"]
    assert not [value for value in origins.to_numpy().ravel() if isinstance(value, bytes)]
    digests = shown.digests()
    assert digests.index.equals(origins.index)
    assert digests.map(len).eq(32).all(axis=None)
    assert list(digests.columns) == [shown.manifest["forecasters"]["drift"]["digests"]]


def test_quantiles_are_those_of_a_loop_over_the_paths(shown: Run) -> None:
    forecasts = shown.forecasts("drift")
    table, paths = forecasts.quantiles([0.1, 0.5, 0.9], "high", 3, 9), forecasts.paths(3, 9)
    assert list(table.columns) == [0.1, 0.5, 0.9]
    assert len(table) == 6 * 3
    for row in range(6):
        origin = pd.Timestamp(int(forecasts.origins[3 + row]), unit="ms", tz="UTC")
        for step in range(3):
            expected = sample_quantiles(np.sort(paths[row, :, step, 1]), [0.1, 0.5, 0.9])
            np.testing.assert_array_equal(table.loc[(origin, step + 1)], expected)
    assert forecasts.quantiles().shape == (42 * 3, 7)
    assert forecasts.quantiles(start=4, stop=4).shape == (0, 7)
    pd.testing.assert_frame_equal(
        pd.concat([forecasts.quantiles(stop=7), forecasts.quantiles(start=7)]), forecasts.quantiles()
    )


def test_the_frame_has_every_sampled_candle_in_its_row(shown: Run) -> None:
    forecasts = shown.forecasts("drift")
    frame, paths = forecasts.frame(2, 5), forecasts.paths(2, 5)
    assert len(frame) == 3 * 20 * 3
    for (b, s, h), row in zip(np.ndindex(3, 20, 3), frame.itertuples(index=False), strict=True):
        assert (row.path, row.step) == (s, h + 1)
        assert row.origin == pd.Timestamp(int(forecasts.origins[2 + b]), unit="ms", tz="UTC")
        assert row.time == row.origin + pd.Timedelta(hours=h)
        assert (row.open, row.close, row.amount) == tuple(paths[b, s, h, [0, CLOSE, 5]])
    assert forecasts.frame(4, 4).empty


def test_returns_compound_to_the_equity(shown: Run) -> None:
    returns, equity = shown.returns(), shown.equity()
    assert returns.index.equals(equity.index)
    np.testing.assert_allclose(10_000 * (1 + returns).cumprod(), equity, rtol=1e-12)


# -- live accounts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("account", ["threshold@random_walk", "threshold@drift", HOSTILE, "buy_and_hold"])
def test_a_live_portfolio_is_the_stored_account(shown: Run, account: str) -> None:
    portfolio = shown.portfolio(account)
    equity = shown.equity()[account]
    assert portfolio.wrapper.name == account
    assert portfolio.value().index.equals(pd.DatetimeIndex(equity.index))
    np.testing.assert_allclose(portfolio.value(), equity, rtol=1e-9)
    assert portfolio.total_return() == pytest.approx(shown.metrics[f"strategy.{account}.total_return"], abs=1e-9)
    orders = shown.orders()
    assert len(portfolio.orders.records) == (orders["strategy"] == account).sum()


def test_a_live_portfolio_ends_at_its_ruin(make_history: Callable[..., Candles]) -> None:
    history = make_history(40)
    risen = np.where(np.arange(40) < 20, 1.0, 2.5)[:, None]
    candles = make_candles(history.open_time, history.values * risen, interval="1h")
    origins, config = candles.open_time[1:30], PortfolioConfig(max_short=1.0)
    targets = np.full(len(origins), -1.0)
    known = simulate(candles, origins, targets[:, None], ["short"], config)
    assert known.ruined.all()
    again = live_portfolio(candles, origins, targets, "short", config)
    np.testing.assert_allclose(again.value(), known.equity[:, 0], rtol=1e-9, atol=1e-6)


def test_decisions_that_do_not_lead_to_the_stored_equity_are_told(shown: Run) -> None:
    config = shown.config.model_copy(update={"portfolio": PortfolioConfig(fee_bps=500.0, max_short=1.0)})
    with pytest.raises(StoreError, match="do not lead to its stored equity"):
        Run(shown.directory, config, shown.manifest, shown.metrics).portfolio("threshold@drift")


# -- exports -------------------------------------------------------------------------------------------------


def test_daily_returns_are_those_of_a_loop_over_days(shown: Run) -> None:
    days, equity = shown.to_quantstats(), shown.equity()
    assert days.index.tz is None
    assert [str(day.date()) for day in days.index] == ["2019-06-01", "2019-06-02"]
    for account in equity:
        before = 10_000.0
        for day, value in days[account].items():
            end = [e for time, e in equity[account].items() if time.date() == day.date()][-1]  # type: ignore[attr-defined]
            assert value == pytest.approx(end / before - 1, abs=1e-14)
            before = end
    one = shown.to_quantstats("buy_and_hold")
    assert isinstance(one, pd.Series)
    assert one.name == "buy_and_hold"
    assert (1 + one).prod() - 1 == pytest.approx(shown.metrics["strategy.buy_and_hold.total_return"])


def test_a_ruined_account_has_no_return_after_its_ruin(shown: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    times = pd.date_range("2019-06-01", periods=96, freq="h", tz="UTC")
    lost = pd.DataFrame({"short": np.where(np.arange(96) < 30, 12_000.0, 0.0)}, index=times)
    for equity in (lost, lost.drop(times[48:90])):  # a day without a candle, and one that begins late
        monkeypatch.setattr(Run, "equity", lambda self, equity=equity: equity)
        assert shown.to_quantstats("short").tolist() == [pytest.approx(0.2), -1.0, 0.0, 0.0]
        assert shown.returns()["short"].iloc[31:].eq(0).all()


def test_the_frame_of_nixtla_has_outcomes_beside_medians_and_intervals(shown: Run) -> None:
    frame = shown.to_nixtla((80,))
    names = ["random_walk", "random_walk-lo-80", "random_walk-hi-80", "drift", "drift-lo-80", "drift-hi-80"]
    assert list(frame.columns) == ["unique_id", "ds", "cutoff", "y", *names]
    assert set(frame["unique_id"]) == {"BTCUSD_1h"}
    close = shown.candles()["close"].tz_localize(None)
    quantiles = shown.forecasts("drift").quantiles([0.1, 0.5, 0.9])
    scored = shown.origins()["scored"]
    assert len(frame) == 3 * scored.sum()
    for number, row in frame.iterrows():
        step = number % 3 + 1  # type: ignore[operator]
        assert row["ds"] == row["cutoff"] + pd.Timedelta(hours=step)
        assert row["y"] == close[row["ds"]]
        origin = (row["cutoff"] + pd.Timedelta(hours=1)).tz_localize("UTC")
        assert scored[origin]
        expected = quantiles.loc[(origin, step)].to_list()
        assert row[["drift-lo-80", "drift", "drift-hi-80"]].to_list() == expected
    last = frame[2::3]  # of each origin
    mae = 1e4 * np.log(last["y"] / last["drift"]).abs().mean()
    assert mae == pytest.approx(shown.metrics["forecast.drift.mae_bps.close.h3"], rel=1e-6)


def test_a_task_of_fev_has_each_origin_as_an_item(shown: Run, tmp_path: Path) -> None:
    task, predictions = shown.to_fev(tmp_path / "fev", (0.1, 0.9))
    table = pq.read_table(task["dataset_path"]).to_pandas()
    close = shown.candles()["close"].tz_localize(None)
    quantiles = shown.forecasts("drift").quantiles([0.1, 0.5, 0.9]).to_numpy().reshape(-1, 3, 3)
    scored = shown.origins()["scored"].to_numpy()
    (window,) = predictions["drift"]
    assert len(window) == len(table) == scored.sum()
    assert (task["horizon"], task["quantile_levels"]) == (3, [0.1, 0.9])
    for item, row, expected in zip(window, table.itertuples(), quantiles[scored], strict=True):
        assert len(row.target) == 30 + 3
        assert row.target.tolist() == close[row.timestamp].to_list()
        assert pd.Timestamp(row.id) == row.timestamp[30]
        assert list(item) == ["predictions", "0.1", "0.9"]
        assert [item["0.1"], item["predictions"], item["0.9"]] == expected.T.tolist()


# -- pictures ------------------------------------------------------------------------------------------------


def test_the_picture_of_equity_draws_net_returns_in_the_colours_of_the_forecasters(shown: Run) -> None:
    axes = shown.plot.equity()
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    equity = shown.equity()
    for name in equity:
        np.testing.assert_allclose(lines[name].get_ydata(), 100 * (equity[name] / 10_000 - 1))
    assert lines["threshold@drift"].get_color() == COLOURS[1]
    assert lines["threshold@random_walk"].get_color() == COLOURS[0]
    assert "after 10 bps fees" in axes.get_title(loc="left")


def test_a_picture_is_drawn_where_it_is_told(shown: Run) -> None:
    figure, panels = plt.subplots(1, 3)
    before = plt.get_fignums()
    assert shown.plot.equity(["buy_and_hold"], ax=panels[0]) is panels[0]
    assert shown.plot.fan(0, ax=panels[1]) is panels[1]
    assert shown.plot.skill(ax=panels[2]) is panels[2]
    assert plt.get_fignums() == before
    assert {text.get_text().split()[0] for text in panels[0].texts} == {"buy_and_hold"}
    figure.canvas.draw()


def test_a_fan_shows_forecast_and_outcome_of_its_origin(shown: Run) -> None:
    def labelled(axes: Axes) -> dict[str, Any]:
        return {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.get_lines()}

    forecasts, close = shown.forecasts("drift"), shown.candles()["close"]
    axes = shown.plot.fan("2019-06-01T10:00", "drift")
    paths = forecasts.paths(4, 5)[0, :, :, CLOSE]
    origin = pd.Timestamp("2019-06-01T10:00Z")
    lines = labelled(axes)
    np.testing.assert_allclose(lines["median"][1:], np.median(paths, axis=0))
    np.testing.assert_array_equal(lines["actual"], close[origin : origin + pd.Timedelta(hours=2)])  # type: ignore[misc]
    assert lines["known"][-1] == close[origin - pd.Timedelta(hours=1)]
    assert to_hex(axes.collections[0].get_facecolor()[0]) == COLOURS[1].lower()  # type: ignore[index]
    for same in (4, -38, datetime(2019, 6, 1, 10, tzinfo=UTC), pd.Timestamp("2019-06-01T12:00+02:00")):
        again = labelled(shown.plot.fan(same, "drift"))
        assert {key: value.tolist() for key, value in again.items() if key != "_child5"}.keys() == lines.keys()
        np.testing.assert_array_equal(again["median"], lines["median"])


def test_the_picture_of_skill_is_relative_to_the_opponent(shown: Run) -> None:
    axes = shown.plot.skill()
    (line,) = [line for line in axes.get_lines() if line.get_label() == "drift"]
    crps = [
        [shown.metrics[f"forecast.{name}.crps_bps.close.h{h}"] for h in (1, 3)] for name in ("drift", "random_walk")
    ]
    expected = 100 * (np.divide(*crps) - 1)
    np.testing.assert_allclose(np.asarray(line.get_ydata())[[0, 2]], expected)


def test_the_page_is_shown_in_a_frame_that_reaches_nothing(shown: Run) -> None:
    page = shown.plot.browse(height=500)
    frame = Reader(page._repr_html_())
    attributes = dict(frame.attributes)
    assert frame.tags == ["iframe"]
    assert attributes["srcdoc"] == (shown.directory / "report.html").read_text(encoding="utf-8")
    assert attributes["sandbox"] == "allow-scripts"
    assert "height:500px" in attributes["style"]
    assert len(repr(page)) < 80


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda run: run.forecasts("drifd"),
            r"no forecaster 'drifd' \(did you mean 'drift'\?\); it has random",
        ),
        (lambda run: run.forecasts("drift").quantiles(channel="price"), "no channel 'price'; it has open, high"),
        (lambda run: run.portfolio("threshold@drif"), "no account 'threshold@drif' .*did you mean 'threshold@drift'"),
        (lambda run: run.to_quantstats("none"), "no account 'none'"),
        (lambda run: run.to_nixtla((0.5, 180)), "central intervals in percent"),
        (lambda run: run.to_nixtla(channel="price"), "no channel 'price'"),
        (lambda run: run.plot.equity(["none"]), "no account 'none'"),
        (
            lambda run: run.plot.fan("2019-06-01T10:30"),
            "no forecast was made then; .* of 2019-06-01T10:00Z",
        ),
        (lambda run: run.plot.fan("1019-06-01"), "origin '1019-06-01'"),
        (lambda run: run.plot.fan("soon"), "not a time"),
        (lambda run: run.plot.fan(42), "origin 42: the run has 42 origins, 0 to 41"),
        (lambda run: run.plot.fan(0, "none"), "no forecaster 'none'"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(shown: Run, use: Callable[[Run], object], message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        use(shown)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_page_says_how_to_write_it(shown: Run, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="btcbt report"):
        replace(shown, directory=tmp_path).plot.browse()


def test_a_run_without_outcomes_is_shown_without_scores(tmp_path: Path) -> None:
    windows = EXPERIMENT["windows"] | {"start": "2019-09-30T22:00", "end": "2019-10-01T01:00"}
    run = btcbt.run(EXPERIMENT | {"windows": windows, "strategies": {}, "store": {"root": str(tmp_path)}})
    assert not run.origins()["scored"].any()
    assert "0 accounts" in repr(run)
    assert "No origin is scored" in "".join(Reader(run._repr_html_()).texts)
    for use in (run.plot.skill, run.to_nixtla, lambda: run.to_fev(tmp_path / "fev")):
        with pytest.raises(StoreError, match="no origin has a known outcome"):
            use()  # type: ignore[operator]
    assert "actual" not in [line.get_label() for line in run.plot.fan(-1).get_lines()]
