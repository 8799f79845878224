"""Wrong input: exit 2, one line that says what and where, and nothing half-written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from btcbt.cli.main import app

Write = Callable[..., Path]
Invoke = Callable[[Path], Result]


def left_behind(root: Path) -> list[str]:
    """What there is under the folder of runs, but for the store of whole forecasts."""
    if not root.exists():
        return []
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.relative_to(root).parts[0] != "store")


def refused(invoke: Invoke, file: Path) -> str:
    """The one line on stderr that a bad experiment ends with."""
    result = invoke(file)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.stderr
    assert left_behind(file.parent / "runs") == []
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "seed: 3",
            "sead: 3",
            "experiment.yaml:22: unknown key 'sead' (did you mean 'seed'?); remove it or correct its spelling",
        ),
        ("context: 60", "context: sixty", "experiment.yaml:7: 'windows.context': input should be a valid integer"),
        ("horizon: 6", "horizon: 0", "experiment.yaml:8: 'windows.horizon': input should be greater than"),
        ("horizon: 6", "horizon: -6", "got -6"),
        ("end: 2019-06-04", "end: 2019-06-01", "is not after start"),
        ("kind: random_walk, n", "kind: oracle, n", "'forecasters.random_walk': unknown kind 'oracle'"),
        ("end: 2019-06-04", "end: 2029-06-04", "spans 2017-10-01T00:00Z .. 2019-10-01T00:00Z, but windows.start"),
        ("start: 2019-06-01", "start: 2009-06-01", "choose a range inside it"),
        ("context: 60", "context: 90000", "has 90000 contiguous candles before it"),
        ("bundled:BTCUSD_1h", "bundled:DOGEUSD_1h", "DOGEUSD_1h"),
        ("bundled:BTCUSD_1h", "nowhere/candles.parquet", "nowhere/candles.parquet"),
        ("use: threshold", "use: strategies.nothing:Threshold", "no module 'strategies.nothing'"),
        ("use: threshold", "use: btcbt.strategies.threshold:Treshold", "has no class 'Treshold'"),
        (
            "use: threshold",
            "use: pathlib:Path",
            "expected a subclass of btcbt.strategies.base.Strategy",
        ),
        (
            "{entry_bps: 10.0}",
            "{entry: 10.0}",
            "experiment.yaml:15: strategy 'threshold': unknown parameter 'entry' (did you mean 'entry_bps'?)",
        ),
        ("{entry_bps: 10.0}", "{entry_bps: -1.0}", "parameter 'entry_bps'"),
        ("{lookback: 24}", "{lookback: 60}", "needs a context of 61 candles, got 60"),
        (
            "{lookback: 24}",
            "{lookback: 24}\n    forecasters: [ewma]",
            "strategies.momentum.forecasters: momentum uses no forecast; remove the key",
        ),
        ("seed: 3", "seed: !!python/object/apply:os.getcwd []", "YAML tag"),
    ],
)
def test_a_bad_experiment_is_refused_in_one_line(
    write: Write, invoke: Invoke, old: str, new: str, expected: str
) -> None:
    assert expected in refused(invoke, write((old, new)))


def test_a_missing_experiment_is_named(tmp_path: Path, invoke: Invoke) -> None:
    assert "none.yaml: cannot be read (No such file or directory)" in refused(invoke, tmp_path / "none.yaml")


def test_a_strategy_that_needs_a_forecaster_and_has_none_is_refused(write: Write, invoke: Invoke) -> None:
    file = write()
    text = file.read_text()
    start, stop = text.index("forecasters:"), text.index("strategies:")
    file.write_text(text[:start] + text[stop:])
    assert "strategies.threshold: threshold needs a forecaster" in refused(invoke, file)


@pytest.fixture
def own_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of strategies that a user has written badly, importable as `badly`."""
    source = tmp_path / "badly.py"
    source.write_text(
        """
from btcbt.strategies import Strategy

class Nan(Strategy):
    def decide(self, forecast, holding):
        return float("nan")

class Seven(Strategy):
    def decide(self, forecast, holding):
        return 7

class Words(Strategy):
    def decide(self, forecast, holding):
        return "buy"

class Fails(Strategy):
    def decide(self, forecast, holding):
        return 1 / 0

class Nothing(Strategy):
    pass
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield source
    sys.modules.pop("badly", None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Nan", "strategy 'threshold@random_walk' at 2019-06-01T00:00Z: decide returned nan (float)"),
        ("Seven", "decide returned 7 (int); expected a finite number in [-1, 1]"),
        ("Words", "decide returned 'buy' (str)"),
        ("Fails", "ZeroDivisionError: division by zero"),
        ("Nothing", "'Nothing' lacks decide; define it"),
    ],
)
def test_a_strategy_that_misbehaves_is_named(
    write: Write, invoke: Invoke, own_strategy: Path, name: str, expected: str
) -> None:
    file = write(("use: threshold", f"use: badly:{name}"), ("    params: {entry_bps: 10.0}\n", ""))
    assert expected in refused(invoke, file)


def test_a_strategy_whose_file_does_not_parse_is_named_with_its_line(
    write: Write, invoke: Invoke, own_strategy: Path
) -> None:
    own_strategy.write_text("class Broken(\n")
    file = write(("use: threshold", "use: badly:Broken"))
    assert f"{own_strategy}:1" in refused(invoke, file)


def bad_candles(tmp_path: Path, values: np.ndarray, hours: np.ndarray) -> Path:
    names = ("open", "high", "low", "close", "volume")
    columns = {name: pa.array(column) for name, column in zip(names, values.T, strict=True)}
    time = pa.array(hours * 3_600_000 + 1_559_347_200_000).cast(pa.timestamp("ms", tz="UTC"))
    file = tmp_path / "candles.parquet"
    pq.write_table(pa.table({"open_time": time, **columns}), file)
    return file


def test_candles_that_break_their_contract_are_named_with_the_row(tmp_path: Path, write: Write, invoke: Invoke) -> None:
    values = np.tile([100.0, 101.0, 99.0, 100.0, 5.0], (200, 1))
    values[7, 1] = 50.0
    file = bad_candles(tmp_path, values, np.arange(200))
    message = refused(invoke, write(("bundled:BTCUSD_1h", str(file))))
    assert "candles.parquet" in message
    assert "row 7" in message


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, write: Write, invoke: Invoke) -> None:
    file = tmp_path / "candles.parquet"
    file.write_bytes(b"open,high,low,close\n1,2,3,4\n")
    assert "candles.parquet" in refused(invoke, write(("bundled:BTCUSD_1h", str(file))))


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path, write: Write, invoke: Invoke) -> None:
    (tmp_path / "runs").write_text("a file is in the way")
    result = invoke(write())
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}/runs/store: cannot be written")
    assert "cannot be written (Not a directory)" in last
    assert "Traceback" not in result.stderr


def test_bad_usage_exits_2_without_a_traceback(invoke: Invoke) -> None:
    for arguments in ([], ["run"], ["run", "a.yaml", "--fast"], ["walk", "a.yaml"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, arguments
        assert "Traceback" not in result.output
