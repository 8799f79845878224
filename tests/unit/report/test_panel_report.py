"""What is made of a run on several symbols: its page, figures, class for notebooks, comparison and check."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from typer.testing import CliRunner

import btcbt
from btcbt.cli.main import app
from btcbt.errors import ConfigError, StoreError
from btcbt.metrics.inference import mean_test
from btcbt.metrics.moving import moving_mean
from btcbt.report.page import panel_numbers, write_page
from btcbt.report.page.fans import Closes, read_fans, read_quantiles
from btcbt.report.panel import verdict
from btcbt.report.run.panel import PanelRun
from btcbt.storage.panel_runs import load_panel_run
from btcbt.storage.runs import load_run
from btcbt.workflows.compare import compare


@pytest.fixture(scope="module")
def copied(panel: PanelRun) -> PanelRun:
    """The same run under another name."""
    folder = panel.directory.parent.parent / "copied" / panel.directory.name
    shutil.copytree(panel.directory, folder)
    return btcbt.load_run(folder)  # type: ignore[return-value]


def blob(text: str, name: str) -> bytes:
    found = re.search(rf'id="blob-{name}">([^<]*)<', text)
    assert found is not None, name
    return gzip.decompress(base64.b64decode(found[1]))


def test_a_panel_writes_a_page_that_loads_nothing_and_two_figures(panel: PanelRun) -> None:
    text = (panel.directory / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""\s(?:src|action)\s*=|\shref\s*=\s*["']?[^#"']|@import|url\(|https?://""", text)
    assert "default-src 'none'" in text
    assert verdict(panel).plain.replace("'", "&#39;") in text
    assert {file.name for file in (panel.directory / "figures").iterdir()} == {"forest.png", "rank_ic.png"}
    meta = json.loads(blob(text, "meta"))
    diamond = [one for one in meta["forest"] if one["symbol"] is None and one["step"] == 6]
    assert [one["difference"] for one in diamond] == [
        round(float(panel.pooled().loc[("ewma", 6), "difference_pct"]), 4)
    ]
    assert {one["symbol"] for one in meta["forest"]} == {*panel.symbols, None}
    weights = np.frombuffer(blob(text, "targets"), dtype="<f4").reshape(3, len(meta["decided"]["names"]), -1)
    stored = panel.targets()["top_k@ewma/ETH"].to_numpy(dtype="<f4")
    np.testing.assert_array_equal(weights[1, meta["decided"]["names"].index("top_k@ewma")], stored)


def test_a_full_page_shares_out_its_origins(panel: PanelRun, copied: PanelRun, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (panel.directory / "report.html").read_text(encoding="utf-8")
    whole = [json.loads(blob(text, f"book-{k}"))["origins"] for k in range(3)]
    packed = {name: len(found) for name, found in re.findall(r'id="blob-([^"]+)">([^<]*)<', text)}
    fans = sum(size for name, size in packed.items() if name.startswith("quantiles"))
    monkeypatch.setattr(panel_numbers, "MOST_CHARACTERS", sum(packed.values()) - fans // 3)
    thin = write_page(copied).read_text(encoding="utf-8")
    said = re.search(r"one origin in (\d+), for the size", thin)
    assert said is not None
    every = int(said[1])
    assert every > 1
    for k in range(3):
        book = json.loads(blob(thin, f"book-{k}"))
        assert book["origins"] == whole[k][::every]
        assert len(blob(thin, f"quantiles0-{k}")) == 2 * 6 * 7 * len(book["origins"])
    assert sum(len(found) for found in re.findall(r'id="blob-[^"]+">([^<]*)<', thin)) <= panel_numbers.MOST_CHARACTERS


def test_quantiles_of_some_origins_are_those_of_all(panel: PanelRun) -> None:
    single = panel.symbol("ETH")
    closes = Closes.of(single)
    some, _ = read_quantiles(single, "ewma", closes, 5, fine=True)
    np.testing.assert_array_equal(some, read_fans(single, "ewma", closes, fine=True).quantiles[::5])


def test_a_panel_run_is_a_class_for_notebooks(panel: PanelRun) -> None:
    shown = btcbt.load_run(panel.directory.parent)
    assert isinstance(shown, btcbt.PanelRun)
    assert "BTC, ETH, LTC" in repr(shown)
    assert "over 3 symbols" in shown._repr_html_()
    assert isinstance(shown.symbol("LTC"), btcbt.Run)
    key = "forecast.ewma.cross_section.rank_ic.h6.mean"
    assert shown.cross_section().loc[("ewma", 6, "rank_ic"), "mean"] == shown.metrics[key]
    assert set(shown.by_symbol().index.get_level_values("symbol")) == set(shown.symbols)
    figure, axes = plt.subplots(1, 2)
    assert shown.plot.forest(ax=axes[0]) is axes[0]
    assert [text.get_text() for text in axes[0].get_yticklabels()] == [*shown.symbols, "all symbols"]
    middle = shown.by_symbol().loc[("ewma", 6, "BTC"), "difference_pct"]
    assert any(np.array_equal(np.ravel(drawn.get_xdata()), [middle]) for drawn in axes[0].lines)
    shown.plot.rank_ic("random_walk", 1, ax=axes[1])
    plt.close(figure)
    assert shown.plot.browse().html == (shown.directory / "report.html").read_text(encoding="utf-8")
    with pytest.raises(StoreError, match="no compared step '3'; it has 1, 6"):
        shown.plot.rank_ic(step=3)
    with pytest.raises(StoreError, match="no forecaster beside the opponent 'random_walk'"):
        shown.plot.forest("random_walk")


def test_one_command_writes_the_page_again(copied: PanelRun) -> None:
    (copied.directory / "report.html").unlink(missing_ok=True)
    assert CliRunner().invoke(app, ["report", str(copied.directory)]).exit_code == 0
    assert (copied.directory / "report.html").stat().st_size > 20_000


def test_a_moving_mean_is_that_of_each_window(rng: np.random.Generator) -> None:
    series = rng.normal(size=200)
    series[::7] = np.nan
    found = moving_mean(series, 6, points=20)
    known = pd.Series(series).dropna()
    np.testing.assert_allclose(found.mean, known.rolling(found.window).mean().loc[found.last], atol=1e-12)
    window = known.loc[: found.last[3]].tail(found.window)
    assert (found.low[3], found.high[3]) == pytest.approx(mean_test(window, 6).interval())
    assert found.last[-1] == known.index[-1]
    assert not len(moving_mean(series[:20], 6).last)


def test_comparing_panels_gives_the_pooled_table_of_a_run(panel: PanelRun, copied: PanelRun) -> None:
    found = compare(panel, copied, against="random_walk")
    own = found.differences[found.differences["run"] == "A"].set_index("step")
    pooled = panel.pooled().loc["ewma"]
    for column in ("difference_pct", "low_pct", "high_pct", "detectable_pct", "p_value", "effective_symbols"):
        np.testing.assert_allclose(own[column], pooled.loc[own.index, column], rtol=1e-9)
    ranked = found.rankings.set_index(["run", "forecaster", "step"])
    assert ranked.loc[("B", "ewma", 6), "rank_ic"] == pytest.approx(
        panel.metrics["forecast.ewma.cross_section.rank_ic.h6.mean"]
    )
    assert ranked.loc[("B", "random_walk", 6), "difference"] == 0.0
    text = str(found)
    assert "all symbols pooled" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_a_panel_is_not_compared_with_a_run_on_one_symbol(panel: PanelRun) -> None:
    with pytest.raises(ConfigError, match=r"a run on one symbol, and .* is on several; compare runs of one kind"):
        compare(panel, panel.symbol("BTC"))
    with pytest.raises(StoreError, match=r"a run on several symbols; name the run of one of them, such as .*panel-BTC"):
        load_run(panel.directory)


def test_a_check_of_a_panel_fails_where_it_got_worse(panel: PanelRun, copied: PanelRun, tmp_path: Path) -> None:
    check = ["check", str(copied.directory), "--baseline"]
    assert CliRunner().invoke(app, [*check, str(panel.directory)]).exit_code == 0
    baseline = tmp_path / "baseline.json"
    assert CliRunner().invoke(app, [*check, str(baseline), "--update"]).exit_code == 0
    numbers = json.loads(baseline.read_text())
    key = "forecast.ewma.pooled.crps_bps.close.h6.difference_pct"
    numbers[key] -= 100.0
    baseline.write_text(json.dumps(numbers))
    failed = CliRunner().invoke(app, [*check, str(baseline)])
    assert failed.exit_code == 1
    assert "1 worse" in failed.output
    single = CliRunner().invoke(app, [*check, str(panel.symbol("BTC").directory)])
    assert single.exit_code == 2
    assert "not comparable" in single.output


def test_a_panel_without_pages_of_its_symbols_is_one_error(copied: PanelRun, tmp_path: Path) -> None:
    folder = tmp_path / "alone" / copied.directory.name
    shutil.copytree(copied.directory, folder)
    with pytest.raises(StoreError, match="not a run"):
        write_page(load_panel_run(folder))
