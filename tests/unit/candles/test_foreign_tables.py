"""Tables as others write them: pandas' indices, slashes, unusual titles, Feather, folders, no volume."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
from typer.testing import CliRunner

from btcbt.candles import read_candles
from btcbt.candles.importers import check_history, import_history, infer_interval, parse_renamed, read_rows
from btcbt.candles.tables import parse_csv
from btcbt.cli.main import app
from btcbt.errors import CandleError, ConfigError

N = 48


@pytest.fixture
def frame(rng: np.random.Generator) -> pd.DataFrame:
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, N)))
    opened = np.append(100.0, close[:-1])
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    return pd.DataFrame(
        {"open": opened, "high": high, "low": low, "close": close, "volume": rng.uniform(1, 5, N)},
        index=pd.date_range("2025-01-01", periods=N, freq="4h", tz="UTC"),
    )


def expect(path: Path, frame: pd.DataFrame, **given: object) -> None:
    rows = read_rows(path, **given)  # type: ignore[arg-type]
    np.testing.assert_array_equal(rows.open_ms, frame.index.tz_localize(None).astype("datetime64[ms]").astype(np.int64))
    np.testing.assert_allclose(rows.values[:, :5], frame.to_numpy())
    assert infer_interval(rows) == "4h"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather", "json"])
@pytest.mark.parametrize("index", [None, "Date"])
@pytest.mark.parametrize("zone", ["UTC", None])
def test_what_pandas_writes_is_read(
    tmp_path: Path, frame: pd.DataFrame, suffix: str, index: str | None, zone: str | None
) -> None:
    path, shown = tmp_path / f"a.{suffix}", frame.rename_axis(index)
    shown.index = shown.index.tz_localize(None) if zone is None else shown.index
    write: dict[str, Callable[[], object]] = {
        "csv": lambda: shown.to_csv(path),
        "parquet": lambda: shown.to_parquet(path),
        "feather": lambda: shown.reset_index().to_feather(path),
        "json": lambda: shown.reset_index().to_json(path, orient="records", date_unit="ms"),
    }
    write[suffix]()
    expect(path, frame)


def test_an_index_of_numbers_is_no_time(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame.rename_axis("timestamp").reset_index().to_csv(tmp_path / "a.csv")
    expect(tmp_path / "a.csv", frame)


def test_slashes_are_read_as_dashes(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame.to_csv(tmp_path / "a.csv", date_format="%Y/%m/%d %H:%M", index_label="date")
    assert "2025/01/01 04:00" in (tmp_path / "a.csv").read_text()
    expect(tmp_path / "a.csv", frame)


def test_feather_compressed_or_not_is_read(tmp_path: Path, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame.rename_axis("time").reset_index().assign(junk="x"))
    for compression in ("zstd", "uncompressed"):
        pyarrow.feather.write_feather(table, str(tmp_path / "a.feather"), compression=compression, chunksize=10)
        expect(tmp_path / "a.feather", frame)
    (tmp_path / "a.feather").write_bytes((tmp_path / "a.feather").read_bytes()[:-40])
    with pytest.raises(CandleError, match="not readable Feather"):
        read_rows(tmp_path / "a.feather")


def test_unusual_titles_are_named(tmp_path: Path, frame: pd.DataFrame) -> None:
    odd = frame.rename(columns={"open": "o", "high": "h", "low": "l", "close": "c"})
    odd["close"] = 0.0  # named, so this is not it
    odd.to_csv(tmp_path / "a.csv", index_label="when")
    renamed = parse_renamed("open_time=when, open=o,high=h,low=l,close=c")
    expect(tmp_path / "a.csv", frame, renamed=renamed)
    with pytest.raises(CandleError, match=r"no column 'open', got .*; add it, or say which it is: --columns open="):
        read_rows(tmp_path / "a.csv", {"open_time": "when"})
    with pytest.raises(CandleError, match=r"no column 'wen' for open_time \(did you mean 'when'\?\), got 'when', "):
        read_rows(tmp_path / "a.csv", {**renamed, "open_time": "wen"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("open", "--columns 'open': expected NAME=TITLE"),
        ("open=", "expected NAME=TITLE"),
        ("opne=o", r"no column 'opne' \(did you mean 'open'\?\); they are open_time, open, high, low, close, volume"),
    ],
)
def test_columns_that_are_not_named_well_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_renamed(text)


def test_without_a_volume_it_is_zero_and_said_so(
    tmp_path: Path, frame: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    frame.drop(columns="volume").to_csv(tmp_path / "a.csv")
    with caplog.at_level(logging.WARNING, logger="btcbt"):
        stored = import_history([tmp_path / "a.csv"], tmp_path / "a.parquet")
    assert [record.getMessage() for record in caplog.records] == ["candles a.csv: no volume; it is taken to be 0"]
    assert (stored.written, stored.added) == (True, N)
    candles = read_candles(tmp_path / "a.parquet", "4h")
    assert (candles.values[:, 4:] == 0).all()


def test_a_folder_is_its_files_and_the_interval_is_inferred(tmp_path: Path, frame: pd.DataFrame) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    frame[:20].to_csv(folder / "a.csv")
    frame[20:].rename_axis("time").reset_index().to_feather(folder / "b.feather")
    (folder / "notes.txt").write_text("not candles")
    output = tmp_path / "all.parquet"
    done = CliRunner().invoke(app, ["data", "import", str(folder), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert f"{N} candles added" in done.stdout
    assert read_candles(output, "4h").values.shape == (N, 6)
    checked = CliRunner().invoke(app, ["data", "check", str(output)])
    assert checked.exit_code == 0, checked.output
    assert check_history(output).before.interval_ms == 4 * 3_600_000
    (tmp_path / "empty").mkdir()
    with pytest.raises(CandleError, match=r"no file of \.csv, \.feather"):
        import_history([tmp_path / "empty"], output)


def test_an_interval_that_cannot_be_inferred_is_asked_for() -> None:
    row = "{},1,2,0.5,1.5,3\n"
    header = "open_time,open,high,low,close,volume\n"
    one = parse_csv((header + row.format("2025-01-01")).encode(), "x")
    with pytest.raises(CandleError, match="one candle does not tell the interval; name it with --interval"):
        infer_interval(one)
    times = ("2025-01-01 00:00", "2025-01-01 00:07", "2025-01-01 00:14", "2025-01-01 01:00")
    odd = parse_csv((header + "".join(map(row.format, times))).encode(), "x")
    with pytest.raises(CandleError, match=r"most frequent distance of open times is 7\.000 minutes, expected one of"):
        infer_interval(odd)


def test_predict_infers_the_interval(tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame.to_csv(tmp_path / "X_4h.csv")
    command = [
        "predict",
        "X_4h.csv",
        "--forecaster",
        "random_walk",
        "--context",
        "24",
        "--horizon",
        "3",
        "--paths",
        "9",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "X 4h, 3 candles after 2025-01-09T00:00Z" in " ".join(done.stdout.split())
