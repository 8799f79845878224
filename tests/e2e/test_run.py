"""The main job from the experiment's file to the run's directory."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result

import btcbt
from btcbt.candles import read_candles
from btcbt.errors import StoreError
from btcbt.records import CLOSE

Write = Callable[..., Path]
Invoke = Callable[[Path], Result]
TABLES = ("scores", "losses", "candles", "targets", "equity", "trades", "orders", "origins")
RESULTS = ("metrics.json", *(f"{table}.parquet" for table in TABLES))
ACCOUNTS = ["threshold@random_walk", "threshold@ewma", "momentum"]


def start(file: Path) -> subprocess.Popen[str]:
    """``python -m btcbt run FILE`` in a process of its own."""
    command = [sys.executable, "-m", "btcbt", "run", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_shards(process: subprocess.Popen[str], root: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(root.glob("store/*/[0-9]*.parquet"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_same_results(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_run_leaves_its_directory_and_a_summary(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke(write())
    assert result.exit_code == 0, result.stderr
    directory = (tmp_path / "runs" / "small" / "latest").resolve()
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [*RESULTS, "manifest.json", "report.html", "figures", "forecasts"]
    )
    assert sorted(path.name for path in (directory / "figures").iterdir()) == [
        "equity.png",
        "error_by_step.png",
        "fan.png",
    ]
    assert len(list((directory / "forecasts" / "ewma").glob("*.parquet"))) == 4  # 72 origins, 20 a shard
    assert [path.name for path in directory.parent.iterdir() if path.name.startswith(".")] == []

    out = result.stdout
    assert "72 origins forecast, 72 with a known outcome; all of the range" in out
    assert "Every forecast is out-of-sample" in out
    for word in ("random_walk", "ewma", "threshold", "momentum", "buy_and_hold", "CRPS", "Sharpe", str(directory)):
        assert word in out, word
    assert "forecast ewma: 72 origins" in result.stderr


def test_what_a_run_says_agrees_with_what_it_stored(write: Write) -> None:
    run = btcbt.run(write())
    candles = read_candles("bundled:BTCUSD_1h")
    targets, equity = run.targets(), run.equity()
    assert list(targets.columns) == ACCOUNTS
    assert list(equity.columns) == [*ACCOUNTS, "buy_and_hold"]
    assert len(targets) == 72
    assert targets.index[0] == pd.Timestamp("2019-06-01", tz="UTC")
    assert equity.index[0] == pd.Timestamp("2019-06-01", tz="UTC")

    # Buy and hold: bought at the first open after the first origin, costs paid once.
    first = np.searchsorted(candles.open_time, 1_559_347_200_000)
    bought = candles.values[first, 0] * (1 + 2e-4)
    coins = 10_000 / (bought * (1 + 10e-4))
    np.testing.assert_allclose(equity["buy_and_hold"], coins * candles.values[first : first + 72, CLOSE], rtol=1e-12)
    expected = equity["buy_and_hold"].iloc[-1] / 10_000 - 1
    assert run.metrics["strategy.buy_and_hold.total_return"] == pytest.approx(expected, rel=1e-9)

    # Momentum: long after a rise over 24 hours.
    close = candles.values[:, CLOSE]
    rise = close[first - 1 : first + 71] > close[first - 25 : first + 47]
    np.testing.assert_array_equal(targets["momentum"], rise.astype(float))

    # The forecasts that are stored are those that were scored and traded.
    paths = run.forecasts("ewma").paths()
    assert paths.shape == (72, 8, 6, 6)
    returns = paths[:, :, -1, CLOSE].astype(float).mean(axis=1) / close[first - 1 : first + 71] - 1
    entered = targets["threshold@ewma"].to_numpy() > 0
    assert (entered | (returns <= 10e-4)).all()
    median = np.median(paths[:, :, 0, CLOSE].astype(float), axis=1)
    error = np.abs(median - close[first : first + 72]).mean()
    assert run.metrics["forecast.ewma.mae.close.h1"] == pytest.approx(error, rel=1e-5)


def test_the_manifest_says_where_the_numbers_came_from(write: Write) -> None:
    file = write()
    run = btcbt.run(file)
    manifest = run.manifest
    assert manifest["config_digest"] == btcbt.load_run(run.directory).config.digest()
    assert manifest["candles"]["sha256"] == read_candles("bundled:BTCUSD_1h").sha256
    assert manifest["origins"] == {
        "eligible": 72,
        "scored": 72,
        "skipped": {},
        "first": "2019-06-01T00:00Z",
        "last": "2019-06-03T23:00Z",
    }
    ewma = manifest["forecasters"]["ewma"]
    assert ewma["labels"] == {"clean": 72}
    assert (ewma["computed"], ewma["reused"]) == (72, 0)
    assert ewma["identity"]["decay"] == 0.97
    assert ewma["provenance"]["forecaster"] == "ewma_volatility"
    assert manifest["seed"] == 3
    assert manifest["strategies"]["momentum"]["source_sha256"] == ""  # it ships with the package, which has a version
    assert manifest["strategies"]["momentum"]["forecaster"] is None
    assert manifest["strategies"]["threshold@ewma"]["params"] == {"entry_bps": 10.0}
    assert {"numpy", "torch", "vectorbt", "python"} <= set(manifest["packages"])
    assert manifest["seconds"]["total"] >= manifest["seconds"]["score"] > 0
    assert manifest["code"]["version"] == "0.1.0"


def test_metrics_are_flat_and_dotted_and_have_null_where_there_is_no_number(write: Write) -> None:
    run = btcbt.run(write())
    stored = json.loads((run.directory / "metrics.json").read_text())
    assert all("." in key for key in stored)
    assert all(value is None or isinstance(value, float) for value in stored.values())
    assert None in stored.values()
    assert stored["forecast.ewma.origins"] == 72
    assert "forecast.ewma.versus.crps_bps.close.h6.dm_p" in stored
    assert {key for key, value in run.metrics.items() if math.isnan(value)} == {
        key for key, value in stored.items() if value is None
    }


def test_the_random_walk_is_always_in_the_table(write: Write) -> None:
    run = btcbt.run(write(("  random_walk: {kind: random_walk, n_paths: 8}\n", "")))
    assert list(run.manifest["forecasters"]) == ["random_walk", "ewma"]
    assert not run.manifest["forecasters"]["random_walk"]["traded"]
    assert list(run.targets().columns) == ["threshold@ewma", "momentum"]
    assert math.isfinite(run.metrics["forecast.ewma.versus.crps_bps.close.h6.skill"])


def test_a_second_run_computes_no_forecast_again(write: Write, invoke: Invoke) -> None:
    first = btcbt.run(write())
    results = {name: (first.directory / name).read_bytes() for name in RESULTS}
    result = invoke(write())
    assert result.exit_code == 0
    assert "forecast ewma: 72 of 72 origins already stored" in result.stderr
    assert "nothing is scored again" in result.stderr
    again = btcbt.run(write(), force=True)
    assert again.directory == first.directory
    assert again.manifest["forecasters"]["ewma"]["computed"] == 0
    assert {name: (again.directory / name).read_bytes() for name in RESULTS} == results


def test_a_longer_range_reuses_the_forecasts_of_a_shorter_one(write: Write) -> None:
    short = btcbt.run(write())
    long = btcbt.run(write(("start: 2019-06-01", "start: 2019-05-30"), ("end: 2019-06-04", "end: 2019-06-05")))
    assert long.directory != short.directory
    assert long.directory.parent == short.directory.parent
    assert long.manifest["forecasters"]["ewma"]["computed"] == 72
    assert long.manifest["forecasters"]["ewma"]["reused"] == 72
    np.testing.assert_array_equal(long.forecasts("ewma").paths(48, 120), short.forecasts("ewma").paths())
    assert btcbt.load_run(short.directory.parent).directory == long.directory


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_and_shards_change_no_number(write: Write, size: int) -> None:
    expected = btcbt.run(write(root="usual")).directory
    changed = write(
        ("ewma_volatility, n_paths: 8", f"ewma_volatility, n_paths: 8, batch_size: {size}"),
        ("shard_size: 20", f"shard_size: {size}"),
        root="changed",
    )
    assert_same_results(btcbt.run(changed).directory, expected)


def test_damaged_forecasts_are_named_and_computed_again(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    first = btcbt.run(write())
    results = {name: (first.directory / name).read_bytes() for name in RESULTS}
    shards = sorted(tmp_path.glob("runs/store/*/[0-9]*.parquet"))
    truncated, flipped = shards[0], shards[-1]
    truncated.write_bytes(truncated.read_bytes()[:-100])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 4
    flipped.write_bytes(content)
    with pytest.raises(StoreError, match="missing or damaged"):
        [first.forecasts(name) for name in ("random_walk", "ewma")]
    result = invoke(write())
    assert result.exit_code == 0
    for shard in (truncated, flipped):
        assert f"warning: {shard} is damaged" in result.stderr
    again = btcbt.load_run(first.directory)
    assert {name: (again.directory / name).read_bytes() for name in RESULTS} == results
    assert sum(entry["computed"] for entry in again.manifest["forecasters"].values()) in (24, 32, 40)


SLOW = (
    ("ewma: {kind: ewma_volatility, n_paths: 8}", "ewma: {kind: garch, n_paths: 8}"),
    ("context: 60", "context: 300"),
    ("shard_size: 20", "shard_size: 4"),
)


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(write: Write, tmp_path: Path) -> None:
    process = start(write(*SLOW))
    wait_for_shards(process, tmp_path / "runs", 18 + 5)  # 18 of the random walk, 5 of the slow one
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "runs" / "small").exists()
    resumed = btcbt.run(write(*SLOW))
    assert 0 < resumed.manifest["forecasters"]["ewma"]["computed"] <= 72 - 5 * 4
    whole = btcbt.run(write(*SLOW, root="whole"))
    assert_same_results(resumed.directory, whole.directory)
    assert resumed.directory.name == whole.directory.name


@pytest.mark.parametrize("days", ["2019-06-04", "2019-06-12"])  # one process, and several
def test_ctrl_c_ends_the_shard_in_hand_and_says_how_to_go_on(write: Write, tmp_path: Path, days: str) -> None:
    file = write(*SLOW, ("end: 2019-06-04", f"end: {days}"))
    process = start(file)
    shards_of_walk = -(-72 // 4) if days == "2019-06-04" else -(-264 // 4)
    wait_for_shards(process, tmp_path / "runs", shards_of_walk + 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping after the current shard" in err
    assert f"interrupted; finished shards are kept; resume with: python -m btcbt run {file}" in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "runs" / "small").exists()
    assert not list(tmp_path.glob("runs/store/*/.*.tmp"))


def test_two_processes_on_one_run_do_no_harm(write: Write, tmp_path: Path) -> None:
    file = write(*SLOW)
    both = [start(file), start(file)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    shared = btcbt.load_run(tmp_path / "runs" / "small")
    alone = btcbt.run(write(*SLOW, root="alone"))
    assert_same_results(shared.directory, alone.directory)
    assert not list(tmp_path.glob("runs/small/.*"))


def test_a_strategy_in_a_file_of_the_users_own_plugs_in(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "contrarian.py").write_text(
        """
from btcbt.strategies import Strategy

class Contrarian(Strategy):
    def decide(self, forecast, holding):
        assert forecast.paths.shape == (8, 6, 6)
        return 0.5 if forecast.returns().mean() < 0 else holding.weight
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    change = ("threshold\n    params: {entry_bps: 10.0}", "contrarian:Contrarian")
    run = btcbt.run(write(change))
    assert set(run.targets()["threshold@ewma"].unique()) <= {0.0, 0.5}
    assert run.targets()["threshold@ewma"].iloc[-1] == 0.5


def test_a_changed_strategy_file_makes_another_run(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "mine.py"
    text = (
        "from btcbt.strategies.base import Strategy\nclass Mine(Strategy):\n    def decide(self, forecast, holding):\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    change = ("threshold\n    params: {entry_bps: 10.0}", "mine:Mine")
    directories = []
    for answer in ("0.25", "0.123456789"):
        source.write_text(f"{text}        return {answer}\n")
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        run = btcbt.run(write(change))
        directories.append(run.directory)
        assert (run.targets()["threshold@ewma"] == float(answer)).all()
    assert directories[0] != directories[1]
    assert all(directory.exists() for directory in directories)


def test_an_experiment_without_strategies_scores_forecasts_alone(write: Write, invoke: Invoke, tmp_path: Path) -> None:
    file = write()
    text = file.read_text()
    begin, end = text.index("strategies:"), text.index("store:")
    file.write_text(text[:begin] + text[end:])
    result = invoke(file)
    assert result.exit_code == 0
    run = btcbt.load_run(tmp_path / "runs" / "small")
    assert not (run.directory / "equity.parquet").exists()
    assert not any(key.startswith("strategy.") for key in run.metrics)
    assert "Net results" not in result.stdout


def test_origins_at_the_end_of_the_candles_are_traded_but_not_scored(write: Write, invoke: Invoke) -> None:
    change = (("start: 2019-06-01", "start: 2019-09-30"), ("end: 2019-06-04", "end: 2019-10-01T01:00:00Z"))
    result = invoke(write(*change))
    assert result.exit_code == 0
    assert "25 origins forecast, 19 with a known outcome" in result.stdout


def test_forecasts_of_tomorrow_alone_have_no_score(write: Write, invoke: Invoke) -> None:
    change = (("start: 2019-06-01", "start: 2019-09-30T20:00:00Z"), ("end: 2019-06-04", "end: 2019-10-01T01:00:00Z"))
    result = invoke(write(*change))
    assert result.exit_code == 0, result.stderr
    assert "no origin has a known outcome yet" in result.stderr
    assert "Forecast errors" not in result.stdout


def test_an_origin_that_nothing_follows_cannot_be_traded(write: Write, invoke: Invoke) -> None:
    change = (("start: 2019-06-01", "start: 2019-10-01"), ("end: 2019-06-04", "end: 2019-10-01T01:00:00Z"))
    result = invoke(write(*change))
    assert result.exit_code == 2
    assert "no candle follows the first origin, 2019-10-01T00:00Z, so nothing trades" in result.stderr
