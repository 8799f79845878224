"""Finished runs beside each other: what is paired, what is tested, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

import btcbt
from btcbt.cli.main import app
from btcbt.config import RunConfig
from btcbt.errors import ConfigError, StoreError
from btcbt.metrics.returns import equity_returns
from btcbt.metrics.sharpe import sharpe_difference_interval
from btcbt.metrics.versus import Losses, versus
from btcbt.report.compare_page import write_comparison
from btcbt.storage.runs import Run
from btcbt.walkforward.runner import run
from btcbt.workflows.compare import compare

OVERLAP = 3


def experiment(folder: Path, name: str, **changes: object) -> RunConfig:
    keys = {
        "name": name,
        "candles": {"path": "bundled:BTCUSD_1h", "interval": "1h"},
        "windows": {"start": "2019-06-01", "end": "2019-06-03", "context": 30, "horizon": OVERLAP},
        "forecasters": {kind: {"kind": kind, "n_paths": 6} for kind in ("random_walk", "drift")},
        "strategies": {"threshold": {"use": "threshold", "params": {"entry_bps": 5.0}}},
        "placebos": 0,
        "store": {"root": str(folder)},
        "seed": 3,
    }
    return RunConfig.model_validate_json(json.dumps(keys | changes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    later = {"start": "2019-06-01T12:00", "end": "2019-06-03", "context": 30, "horizon": OVERLAP}
    wide = {"random_walk": {"kind": "random_walk", "n_paths": 6}, "ewma": {"kind": "ewma_volatility", "n_paths": 6}}
    costs = {"fee_bps": 1.0, "slippage_bps": 1.0}
    apart = later | {"start": "2019-07-01", "end": "2019-07-02"}
    return {
        "first": run(experiment(folder, "first")),
        "second": run(experiment(folder, "second", windows=later, forecasters=wide, portfolio=costs, seed=4)),
        "apart": run(experiment(folder, "apart", windows=apart, strategies={})),
    }


def test_differences_are_those_of_the_packages_own_table(runs: dict[str, Run]) -> None:
    """The second run's forecasters beside one of the first, by `versus` on losses joined by hand."""
    first, second = runs["first"].losses(), runs["second"].losses()
    both = first.add_prefix("A.").join(second.add_prefix("B."), how="inner")
    known = {"A.random_walk", "A.drift", "B.random_walk", "B.ewma"}
    at = {("crps_bps", 1): ".crps_bps.h1", ("crps_bps", OVERLAP): ".crps_bps.h3", ("energy_bps", 0): ".energy_bps"}
    noise = np.full(len(both), np.nan)
    losses = {name: {key: Losses(both[name + end].to_numpy(), noise) for key, end in at.items()} for name in known}
    found = compare(runs["first"], runs["second"], against="drift")
    expected = {}
    for name, row in versus({name: losses[name] for name in sorted(losses)}, "A.drift", OVERLAP):
        expected[name, row.metric.partition(".")[0], row.step, row.metric.partition(".")[2]] = row.value
    assert len(found.origins) == len(both) == 36
    assert {f"{row.run}.{row.forecaster}" for row in found.table().itertuples()} == known - {"A.drift"}
    for row in found.table().to_dict("records"):
        key = (f"{row['run']}.{row['forecaster']}", "crps_bps" if row["step"] else "energy_bps", row["step"])
        for statistic in ("difference_pct", "low_pct", "high_pct", "detectable_bps", "p_value"):
            assert row[statistic] == pytest.approx(expected[*key, statistic], nan_ok=True), statistic
        # The joint draws depend on the order of the columns.
        assert row["adjusted_p"] == pytest.approx(expected[*key, "adjusted_p"], abs=0.03, nan_ok=True)


def test_namesakes_are_paired_and_others_meet_the_main_forecaster(runs: dict[str, Run]) -> None:
    table = compare(runs["first"].directory, runs["second"].directory).table()
    pairs = table[["run", "forecaster", "against"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["B", "random_walk", "random_walk"], ["B", "ewma", "random_walk"]]
    assert table["step"].tolist() == [1, 3, 0] * 2
    assert btcbt.compare is compare


def test_accounts_of_whole_runs_have_their_stored_numbers_and_a_paired_interval(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    first = runs["first"]
    copy = btcbt.load_run(shutil.copytree(first.directory, tmp_path / "copy"))
    found = compare(first, copy)
    accounts = found.accounts.set_index(["run", "account"])
    for name in first.equity().columns:
        for score in ("total_return", "sharpe", "max_drawdown", "turnover"):
            assert accounts.loc[("B", name), score] == pytest.approx(first.metrics[f"strategy.{name}.{score}"]), score
    assert (accounts.loc["B", "sharpe_difference"] == 0).all()
    assert (found.table()["difference_bps"] == 0).all()
    assert found.table()["adjusted_p"].isna().all()
    assert "have the same CRPS 3 candles ahead" in str(found)

    mixed = compare(first, runs["second"])
    cash = first.config.portfolio.initial_cash
    rows = {
        letter: pd.Series(equity_returns(one.equity()["threshold@random_walk"].to_numpy(), cash), one.equity().index)
        for letter, one in mixed.runs.items()
    }
    joined = pd.concat(rows, axis=1, join="inner")
    low, high = sharpe_difference_interval(joined["B"], joined["A"], OVERLAP)
    row = mixed.accounts.set_index(["run", "account"]).loc[("B", "threshold@random_walk")]
    assert [row["low"], row["high"]] == pytest.approx([low * 8766**0.5, high * 8766**0.5])
    assert row["total_return"] == pytest.approx((1 + joined["B"]).prod() - 1)


def test_keys_that_differ_and_limits_are_said(runs: dict[str, Run]) -> None:
    found = compare(runs["first"], runs["second"])
    settings = found.settings.set_index("key")
    assert settings.loc["seed"].tolist() == ["3", "4"]
    assert settings.loc["forecasters.ewma.kind"].tolist() == ["–", "ewma_volatility"]
    assert "windows.horizon" not in settings.index
    assert not any(key.startswith("store") for key in settings.index)
    text = str(compare(runs["second"], runs["first"]))
    assert all(len(line) <= 80 for line in text.splitlines())
    for said in ("36 common origins", "Romano-Wolf", "adj. p", "Accounts over", "keys that differ"):
        assert said in text


def test_what_cannot_be_compared_is_one_line(runs: dict[str, Run], tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        result: Result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        return line

    folder = runs["first"].directory
    assert "no common origin" in refused(folder, runs["apart"].directory)
    assert "given twice" in refused(folder, folder)
    assert "1 runs to compare; expected 2" in refused(folder)
    assert "not a run" in refused(folder, tmp_path)
    assert "no forecaster 'nobody'; it has random_walk, drift" in refused(
        folder, runs["second"].directory, "--against", "nobody"
    )
    assert "cannot be written" in refused(folder, runs["second"].directory, "--html", tmp_path)
    copy = shutil.copytree(runs["second"].directory, tmp_path / "revised")
    candles = pd.read_parquet(copy / "candles.parquet")
    candles.loc[40, "close"] += 1.0
    candles.to_parquet(copy / "candles.parquet", index=False)
    assert re.search(r"1 of \d+ closes are not those of .*8583.2 and 8582.2", refused(folder, copy))


def test_damaged_and_older_runs_are_named(runs: dict[str, Run], tmp_path: Path) -> None:
    first, copy = runs["first"], tmp_path / "copy"
    shutil.copytree(runs["second"].directory, copy)
    losses = pd.read_parquet(copy / "losses.parquet")
    losses.drop(columns="ewma.energy_bps").to_parquet(copy / "losses.parquet")
    with pytest.raises(StoreError, match=r"no column 'ewma\.energy_bps'"):
        compare(first, copy)
    losses.iloc[::-1].to_parquet(copy / "losses.parquet")
    with pytest.raises(StoreError, match="origins are not in order"):
        compare(first, copy)
    losses.drop(columns="origin").to_parquet(copy / "losses.parquet")
    with pytest.raises(StoreError, match="damaged"):
        compare(first, copy)
    (copy / "losses.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="cannot be read"):
        compare(first, copy)
    (copy / "losses.parquet").unlink()
    with pytest.raises(StoreError, match="older version"):
        compare(first, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["forecasters"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="has no 'forecasters'"):
        compare(first, copy)


def test_other_horizons_are_compared_where_they_meet(runs: dict[str, Run], tmp_path: Path) -> None:
    windows = {"start": "2019-06-01", "end": "2019-06-03", "context": 30, "horizon": 2}
    found = compare(runs["first"], run(experiment(tmp_path, "short", windows=windows, strategies={})))
    assert found.table()["step"].tolist() == [1, 1]
    assert any("horizons differ (A 3, B 2 candles)" in note for note in found.notes)
    assert any("accounts are not compared" in note for note in found.notes)


def test_the_page_loads_nothing_and_keeps_names_as_text(runs: dict[str, Run], tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    found = compare(runs["first"], runs["second"])
    found.settings.loc[0, "A"] = hostile
    text = write_comparison(found, tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert hostile not in text
    assert "&lt;/script&gt;&lt;img" in text
    written = text.replace("&lt;/script&gt;&lt;img src=", "")
    assert not re.search(r"""\s(?:src|action)\s*=|\shref\s*=\s*["']?[^#"']|@import|url\(|https?://""", written)
    assert "default-src 'none'" in text
    assert len(text) < 100_000


def test_a_check_refuses_other_hours_and_leaves_accounts_of_other_costs_out(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    def check(one: str, baseline: Path) -> Result:
        return CliRunner().invoke(app, ["check", str(runs[one].directory), "--baseline", str(baseline)])

    refused = check("apart", runs["first"].directory)
    assert refused.exit_code == 2
    assert (
        "origins 2019-07-01T00:00Z .. 2019-07-01T23:00Z, 24 scored, the baseline's 2019-06-01T00:00Z" in refused.stderr
    )
    cheap = shutil.copytree(runs["first"].directory, tmp_path / "cheap")
    manifest = json.loads((cheap / "manifest.json").read_text())
    manifest["config"]["portfolio"]["fee_bps"] = 1.0
    (cheap / "manifest.json").write_text(json.dumps(manifest))
    result = CliRunner().invoke(app, ["check", str(cheap), "--baseline", str(runs["first"].directory)])
    assert result.exit_code == 0, result.stdout
    assert "accounts are not compared: costs 1 + 2 bps, the baseline's 10 + 2 bps" in result.stdout
    file = tmp_path / "baseline.json"
    assert CliRunner().invoke(app, ["check", str(cheap), "--baseline", str(file), "--update"]).exit_code == 0
    assert check("first", file).exit_code == 0
    assert check("apart", file).exit_code == 2


def test_the_python_call_raises_what_the_command_prints(runs: dict[str, Run]) -> None:
    with pytest.raises(ConfigError, match="no common origin"):
        compare(runs["first"], runs["apart"])
