"""Runs on several symbols: each as its single run, and what is computed over all."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from btcbt.audit.panel import audit_panel
from btcbt.candles import make_candles, write_candles
from btcbt.config import RunConfig, load_experiment
from btcbt.errors import CandleError, ConfigError, StoreError
from btcbt.forecasters import fitted
from btcbt.progress import PlainProgress
from btcbt.report.panel import panel_summary
from btcbt.storage.panel_runs import load_panel_run
from btcbt.strategies import PanelStrategy
from btcbt.walkforward.panel.accounts import Books, equal_weights
from btcbt.walkforward.panel.finished import FILES, stored_panel
from btcbt.walkforward.runner import run
from tests.small_panel import SYMBOLS, TREE, panel_config


def test_each_symbols_forecasts_are_those_of_its_single_run_bit_for_bit(panel, tmp_path):
    tree = {**TREE, "candles": {"path": SYMBOLS["ETH"], "symbol": "ETH"}, "store": {"root": str(tmp_path)}}
    del tree["strategies"]["top_k"], tree["strategies"]["equal_weight"]
    single = run(RunConfig.model_validate(tree))
    own = panel.symbol("ETH")
    for name in ("random_walk", "ewma"):
        assert own.manifest["forecasters"][name]["key"] == single.manifest["forecasters"][name]["key"]
        np.testing.assert_array_equal(own.forecasts(name).paths(), single.forecasts(name).paths())
    pd.testing.assert_frame_equal(own.equity(), single.equity())


def test_symbols_have_random_numbers_of_their_own(panel):
    keys = {panel.symbol(symbol).manifest["forecasters"]["ewma"]["key"] for symbol in SYMBOLS}
    assert len(keys) == 3


def test_pooled_numbers_are_those_of_the_symbols_losses(panel):
    frames = {symbol: panel.symbol(symbol).losses() for symbol in SYMBOLS}
    column = "crps_bps.h6"
    ratios = [
        100 * (one[f"ewma.{column}"] - one[f"random_walk.{column}"]) / one[f"random_walk.{column}"].mean()
        for one in frames.values()
    ]
    expected = np.mean([one.to_numpy() for one in ratios])
    key = "forecast.ewma.pooled.crps_bps.close.h6"
    assert panel.metrics[f"{key}.difference_pct"] == pytest.approx(expected, rel=1e-9)
    assert panel.metrics[f"{key}.symbols"] == 3
    assert panel.metrics[f"{key}.low_pct"] < expected < panel.metrics[f"{key}.high_pct"]


def test_rank_ic_is_that_of_pandas(panel):
    origin = panel.rankings().index[10]
    forecast, outcome = {}, {}
    for symbol in SYMBOLS:
        own = panel.symbol(symbol)
        row = list(own.origins().index).index(origin)
        closes = own.candles()["close"]
        last = closes[origin - pd.Timedelta("1h")]
        forecast[symbol] = np.log(np.median(own.forecasts("ewma").paths(row, row + 1)[0, :, 5, 3]) / last)
        outcome[symbol] = np.log(closes[origin + pd.Timedelta("5h")] / last)
    expected = pd.Series(forecast).corr(pd.Series(outcome), method="spearman")
    assert panel.rankings()["ewma.h6"].iloc[10] == pytest.approx(expected, abs=1e-12)


def test_a_book_holds_the_single_accounts_decisions_in_equal_parts(panel):
    targets = panel.targets()
    for symbol in SYMBOLS:
        single = panel.symbol(symbol).targets()["threshold@ewma"].dropna()
        np.testing.assert_allclose(targets.loc[single.index, f"threshold@ewma/{symbol}"], single / 3)


def test_accounts_of_panel_strategies_hold_what_they_decided(panel):
    targets = panel.targets().filter(like="top_k@ewma/").dropna()
    assert (targets.sum(axis=1) == 1.0).all()
    assert set(panel.equity()) == {"threshold@ewma", "top_k@ewma", "equal_weight", "buy_and_hold"}
    assert set(panel.orders()["symbol"]) == set(SYMBOLS)
    scores = panel.scores()
    assert {"cost_bps=0", "delay=1"} <= set(scores.loc[scores["forecaster"] == "top_k@ewma", "group"])


def test_a_second_run_computes_no_forecast_and_changes_nothing(panel):
    said = io.StringIO()
    again = run(panel.config, progress=PlainProgress(Console(file=said, width=200)))
    assert again.directory == panel.directory
    assert said.getvalue().count("nothing is scored again") == len(SYMBOLS) + 1
    assert "score the panel" not in said.getvalue()
    assert again.manifest == panel.manifest
    forecasting = [line for line in said.getvalue().splitlines() if line.startswith("forecast ")]
    assert all(line.endswith("of 84 origins already stored") for line in forecasting)
    assert json.dumps(again.metrics) == json.dumps(panel.metrics)


def test_a_finished_panel_is_scored_again_where_it_is_damaged_or_decides_otherwise(panel, tmp_path):
    runs = {symbol: panel.symbol(symbol) for symbol in SYMBOLS}
    names = list(dict.fromkeys(column.rpartition("/")[0] for column in panel.targets()))
    targets = panel.targets().to_numpy().reshape(-1, len(names), len(SYMBOLS))
    books = Books(np.arange(len(targets)), tuple(names), targets, {})
    assert stored_panel(panel.directory, runs, books).directory == panel.directory
    other = replace(books, targets=np.where(np.arange(len(targets))[:, None, None] == 5, 0.25, targets))
    assert stored_panel(panel.directory, runs, other) is None
    newer = replace(runs["ETH"], manifest={**runs["ETH"].manifest, "started": "2031-01-01T00:00:00+00:00"})
    assert stored_panel(panel.directory, {**runs, "ETH": newer}, books) is None
    for file in FILES:
        copy = shutil.copytree(panel.directory, tmp_path / "copy", dirs_exist_ok=True)
        (copy / file).unlink()
        assert stored_panel(copy, runs, books) is None
    copy = shutil.copytree(panel.directory, copy, dirs_exist_ok=True)
    (copy / "trades.parquet").write_bytes(b"PAR1 cut off")
    assert stored_panel(copy, runs, books) is None


def test_the_summary_has_a_verdict_and_fits_the_terminal(panel):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(panel_summary(load_panel_run(panel.directory)))
    text = console.export_text()
    assert text.startswith("No edge")
    assert "over 3 symbols" in text
    assert max(map(len, text.splitlines())) <= 80


POOLED = {"har": {"kind": "har", "n_paths": 5, "pool": True, "fit": {"every": "72h", "window": "1440h"}}}
SHORT = {"start": "2019-06-01", "end": "2019-06-05", "context": 170, "horizon": 6, "stride": 12}


def test_a_pooled_fit_is_made_on_all_symbols_and_kept_apart(tmp_path):
    config = panel_config(tmp_path, forecasters=POOLED, windows=SHORT, strategies={})
    together = run(config)
    alone = run(
        panel_config(tmp_path, forecasters={"har": {**POOLED["har"], "pool": False}}, windows=SHORT, strategies={})
    )
    for symbol in SYMBOLS:
        one, other = together.symbol(symbol), alone.symbol(symbol)
        assert one.manifest["forecasters"]["har"]["key"] != other.manifest["forecasters"]["har"]["key"]
        assert one.manifest["forecasters"]["har"]["labels"] == {"clean": 8}
        assert not np.array_equal(one.forecasts("har").paths(), other.forecasts("har").paths())
    two = {symbol: SYMBOLS[symbol] for symbol in ("BTC", "ETH")}
    fewer = run(panel_config(tmp_path, candles={"symbols": two}, forecasters=POOLED, windows=SHORT, strategies={}))
    assert fewer.symbol("BTC").digests()["refit.har"].tolist() != together.symbol("BTC").digests()["refit.har"].tolist()


def test_a_pooled_fit_is_refused_outside_of_a_panel(tmp_path):
    tree = {**TREE, "candles": {"path": SYMBOLS["BTC"]}, "store": {"root": str(tmp_path)}, "windows": SHORT}
    with pytest.raises(ConfigError, match="kind 'har': pool is true, expected an experiment on several symbols"):
        run(RunConfig.model_validate({**tree, "strategies": {}, "forecasters": POOLED}))


def test_a_fit_that_sees_the_future_of_another_symbol_is_caught(tmp_path, monkeypatch):
    config = panel_config(
        tmp_path,
        candles={"symbols": {symbol: SYMBOLS[symbol] for symbol in ("BTC", "ETH")}},
        forecasters=POOLED,
        windows=SHORT,
        strategies={"equal_weight": {"use": "equal_weight"}},
    )
    clean = audit_panel(config, sample=2, fresh_process=False)
    assert clean.clean, clean.findings[:3]
    assert clean.comparisons["forecast"] > 0

    def late(periods, others):
        moved = [replace(one, open_time=one.open_time - 48 * 3_600_000) for one in others]
        return with_others(periods, moved)

    with_others = fitted.with_others
    monkeypatch.setattr(fitted, "with_others", late)
    leaky = audit_panel(config, sample=2, fresh_process=False)
    assert leaky.verdict == "looks ahead"
    assert {one.component for one in leaky.findings if one.stage == "forecast"} == {"BTC: har", "ETH: har"}


def test_the_audit_of_a_panel_is_clean_and_finds_a_leak_between_symbols(tmp_path):
    class Leak(PanelStrategy):
        """Buys BTC if ETH will rise in the next hour."""

        def __init__(self, candles):
            super().__init__()
            self.candles = candles

        def decide(self, forecasts, holdings):
            del holdings
            origin = forecasts["BTC"].origin
            rows = np.searchsorted(self.candles["ETH"].open_time, [origin - 3_600_000, origin])
            closes = self.candles["ETH"].values[np.minimum(rows, len(self.candles["ETH"]) - 1), 3]
            return {"BTC": float(closes[1] > closes[0])}

    config = panel_config(tmp_path, strategies={"top_k": {"use": "top_k", "forecasters": ["ewma"]}})
    clean = audit_panel(config, sample=2, fresh_process=False)
    assert clean.clean, clean.findings[:3]
    assert clean.comparisons["strategy"] > 0
    leaky = audit_panel(config, sample=4, fresh_process=False, strategies=lambda candles: {"leak": Leak(candles)})
    assert leaky.verdict == "looks ahead"
    assert {finding.component for finding in leaky.findings} == {"leak@random_walk", "leak@ewma"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"BTC": SYMBOLS["BTC"]}, "a panel has at least two"),
        ({"BTC": SYMBOLS["BTC"], "XBT": SYMBOLS["BTC"]}, "symbols 'BTC' and 'XBT' are the same file"),
        ("nowhere/*.parquet", "no file matches nowhere"),
    ],
)
def test_invalid_symbols_are_refused(tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        panel_config(tmp_path, candles={"symbols": changes})


def test_a_symbol_that_cannot_be_read_or_is_not_listed_is_named(tmp_path):
    with pytest.raises(CandleError, match=r"candles.symbols.NO: .*nowhere.parquet"):
        run(panel_config(tmp_path, candles={"symbols": {**SYMBOLS, "NO": "nowhere.parquet"}}))
    late = {**TREE["windows"], "start": "2030-01-01", "end": "2030-02-01"}
    with pytest.raises(CandleError, match=r"candles.symbols.BTC: history spans .*; remove the symbol"):
        run(panel_config(tmp_path, windows=late))
    assert not list(tmp_path.glob("panel*"))


def saved(folder, name, candles, rows):
    """Some rows of a history as a file."""
    place = folder / f"{name}.parquet"
    write_candles(make_candles(candles.open_time[rows], candles.values[rows], interval="1h", source=name), place)
    return str(place)


def test_symbols_of_different_intervals_are_refused(tmp_path, sample_candles):
    slow = saved(tmp_path, "slow", sample_candles, slice(14_000, 14_400, 4))
    candles = {"symbols": {"BTC": SYMBOLS["BTC"], "ETH": slow}}
    text = (
        r"candles.symbols.ETH: from 2019-05-\S+ on most candles are 4 intervals apart, expected 1h as for all symbols"
    )
    with pytest.raises(CandleError, match=text) as error:
        run(panel_config(tmp_path, candles=candles))
    assert "\n" not in str(error.value)
    with pytest.raises(CandleError, match=r"candles.symbols.BTC: .*4h"):
        run(panel_config(tmp_path, candles={**candles, "interval": "4h"}))


def test_symbols_with_no_origin_in_common_are_refused_before_any_forecast(tmp_path, sample_candles):
    start = int(np.searchsorted(sample_candles.open_time, 1_559_347_200_000))  # 2019-06-01
    files = {
        "ONE": saved(tmp_path, "one", sample_candles, slice(start - 100, start + 20)),
        "TWO": saved(tmp_path, "two", sample_candles, slice(start + 20, start + 160)),
    }
    text = r"no two symbols have an origin in common; theirs are ONE 2019-06-01T00:00Z .. 2019-06-01T20:00Z; TWO 2019"
    with pytest.raises(CandleError, match=text):
        run(panel_config(tmp_path, candles={"symbols": files}))
    assert not (tmp_path / "store").exists()


def test_a_symbol_listed_twice_is_refused(tmp_path, sample_candles):
    same = {name: saved(tmp_path, name, sample_candles, slice(14_000, 14_300)) for name in ("one", "two")}
    with pytest.raises(CandleError, match="'one' and 'two' have the same candles; remove one"):
        run(panel_config(tmp_path, candles={"symbols": same}))
    file = tmp_path / "twice.yaml"
    file.write_text("name: twice\ncandles:\n  symbols:\n    BTC: bundled:BTCUSD_1h\n    BTC: bundled:ETHUSD_1h\n")
    with pytest.raises(ConfigError, match=r"twice.yaml:5.*BTC"):
        load_experiment(file)


def test_a_pattern_names_symbols_by_their_files(tmp_path):
    for name in ("b/ETH_1h", "a/BTC_1h", "a/ETH_1h"):
        place = tmp_path / f"{name}.parquet"
        place.parent.mkdir(exist_ok=True)
        place.touch()
    (tmp_path / "a" / "notes.txt").touch()
    found = panel_config(tmp_path, candles={"symbols": f"{tmp_path}/a/*.parquet"})
    assert found.symbols == ("BTC_1h", "ETH_1h")
    assert found.candles.symbols["ETH_1h"] == f"{tmp_path}/a/ETH_1h.parquet"
    with pytest.raises(ValueError, match=r"matches several files named \['ETH_1h'\]; give names with files instead"):
        panel_config(tmp_path, candles={"symbols": f"{tmp_path}/*/*.parquet"})
    with pytest.raises(ValueError, match="a panel has at least two"):
        panel_config(tmp_path, candles={"symbols": f"{tmp_path}/b/*.parquet"})


def test_a_series_of_funding_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"funding rates.parquet is the series of one symbol.*funding_bps_per_hour"):
        panel_config(tmp_path, portfolio={"funding": "rates.parquet"})


def test_a_panel_strategy_needs_a_panel(tmp_path):
    tree = {**TREE, "candles": {"path": SYMBOLS["BTC"]}, "store": {"root": str(tmp_path)}}
    tree["strategies"] = {"top_k": {"use": "top_k"}}
    with pytest.raises(ConfigError, match=r"strategies.top_k: top_k trades several symbols; it needs candles.symbols"):
        run(RunConfig.model_validate(tree))


def test_a_damaged_panel_run_is_one_error(panel, tmp_path):
    with pytest.raises(StoreError, match="not a run"):
        load_panel_run(tmp_path)
    with pytest.raises(StoreError, match="no symbol 'XRP'; it has BTC, ETH, LTC"):
        panel.symbol("XRP")
    manifest = json.loads((panel.directory / "manifest.json").read_text())
    manifest["symbols"]["BTC"]["name"] = "../../elsewhere"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(StoreError, match="not named by a folder"):
        load_panel_run(tmp_path)


def test_equal_weights_count_symbols_from_their_first_decision_to_their_last():
    nan = np.nan
    targets = np.array([[1.0, nan, nan], [1.0, 1.0, nan], [1.0, nan, nan], [nan, 0.5, 1.0]])
    expected = np.array([[1.0, nan, nan], [0.5, 0.5, nan], [0.5, nan, nan], [nan, 0.25, 0.5]])
    np.testing.assert_array_equal(equal_weights(targets), expected)
