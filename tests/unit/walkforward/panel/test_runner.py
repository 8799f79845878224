"""Runs on several symbols: each as its single run, and what is computed over all."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from btcbt.audit.panel import audit_panel
from btcbt.config import RunConfig
from btcbt.errors import CandleError, ConfigError, StoreError
from btcbt.progress import PlainProgress
from btcbt.report.panel import panel_summary
from btcbt.storage.panel_runs import load_panel_run
from btcbt.strategies import PanelStrategy
from btcbt.walkforward.panel.accounts import equal_weights
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
    assert said.getvalue().count("nothing is scored again") == len(SYMBOLS)
    forecasting = [line for line in said.getvalue().splitlines() if line.startswith("forecast ")]
    assert all(line.endswith("of 84 origins already stored") for line in forecasting)
    assert json.dumps(again.metrics) == json.dumps(panel.metrics)


def test_the_summary_has_a_verdict_and_fits_the_terminal(panel):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(panel_summary(load_panel_run(panel.directory)))
    text = console.export_text()
    assert text.startswith("No edge")
    assert "over 3 symbols" in text
    assert max(map(len, text.splitlines())) <= 80


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
