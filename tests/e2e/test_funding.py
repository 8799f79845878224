"""Runs on a perpetual future: the funding series is part of what ran."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from btcbt.audit import audit_experiment
from btcbt.config import load_config
from btcbt.storage.runs import load_run

Write = Callable[..., Path]
Invoke = Callable[[Path], Result]
HOUR = 3_600_000
START = 1_559_347_200_000  # 2019-06-01T00:00Z
ONE_DAY = ("end: 2019-06-04", "end: 2019-06-02")
ONE_STRATEGY = ("  threshold:\n    use: threshold\n    params: {entry_bps: 10.0}\n", "")
HOLD = ("  momentum:\n    use: momentum\n    params: {lookback: 24}\n", "  held: {use: buy_and_hold}\n")
ONE_FORECASTER = ("  ewma: {kind: ewma_volatility, n_paths: 8}\n", "")
SMALL = (ONE_DAY, ONE_STRATEGY, HOLD, ONE_FORECASTER)


def series(file: Path, rate: float, count: int = 4) -> str:
    times = pa.array(START + 8 * HOUR * np.arange(count), type=pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
    pq.write_table(pa.table({"time": times, "rate": np.full(count, rate)}), file)
    return f"portfolio: {{funding: {file}}}\nstore:\n"


def test_another_funding_series_is_another_run_and_another_trial_wherever_the_file_lies(
    write: Write, invoke: Invoke, tmp_path: Path
) -> None:
    runs = []
    for name, rate in (("one", 0.01), ("elsewhere", 0.01), ("two", 0.02)):
        portfolio = series(tmp_path / f"{name}.parquet", rate)
        result = invoke(write(*SMALL, ("store:\n", portfolio)))
        assert result.exit_code == 0, result.stderr
        assert "Costs and delay: the best, held, makes" in result.stdout
        runs.append(load_run((tmp_path / "runs" / "small" / "latest").resolve()))
    one, elsewhere, two = runs
    assert len({run.manifest["digest"] for run in runs}) == 3
    assert [run.metrics["strategy.held.trials"] for run in runs] == [1, 1, 2]
    content = (tmp_path / "two.parquet").read_bytes()
    assert two.manifest["funding"] == {
        "path": str(tmp_path / "two.parquet"),
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": 4,
        "first": "2019-06-01T00:00Z",
        "last": "2019-06-02T00:00Z",
    }
    assert one.equity().equals(elsewhere.equity())
    # 08:00, 16:00 and 24:00: the rate of 00:00 precedes the first fill.
    ratio = float(two.equity()["held"].iloc[-1] / one.equity()["held"].iloc[-1])
    assert ratio == pytest.approx((0.98 / 0.99) ** 3)
    scores = two.scores().query("group == 'cost_bps=0' and metric == 'total_return' and forecaster == 'held'")
    opens, closes = two.candles()["open"], two.candles()["close"]
    start, end = (np.datetime64(START + hour * HOUR, "ms") for hour in (0, 23))
    gross = closes.tz_convert(None)[end] / opens.tz_convert(None)[start] * 0.98**3 - 1
    assert scores["value"].tolist() == pytest.approx([gross])


def test_the_audit_accepts_a_funding_series(write: Write, tmp_path: Path) -> None:
    file = write(*SMALL, ("store:\n", series(tmp_path / "one.parquet", 0.01)))
    report = audit_experiment(load_config(file), sample=2, fresh_process=False)
    assert report.findings == ()
    assert report.comparisons["portfolio"] > 0
    assert not any("funding" in note or ".parquet" in note for note in report.notes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"count": 3}, "no rate between 2019-06-01T16:00Z and 2019-06-02T00:00Z, expected one at least every 8 hours"),
        ({"rate": 1.0}, "row 0 has a rate of 0.1 or more"),
        ({"more": ", funding_bps_per_hour: 0.1"}, "funding_bps_per_hour 0.1 exclude each other; keep one"),
    ],
)
def test_a_bad_series_is_refused_before_anything_is_forecast(
    write: Write, invoke: Invoke, tmp_path: Path, changes: dict[str, str], problem: str
) -> None:
    more = changes.pop("more", "")
    portfolio = series(tmp_path / "one.parquet", **{"rate": 0.01, **changes})  # type: ignore[arg-type]
    result = invoke(write(*SMALL, ("store:\n", portfolio.replace("}", f"{more}}}"))))
    assert result.exit_code == 2
    assert problem in " ".join(result.stderr.split())
    assert not list(tmp_path.glob("runs/**/*.parquet"))
