"""A run's directory: whole or absent, and read as it was written."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from btcbt.config import RunConfig
from btcbt.errors import StoreError
from btcbt.records import CHANNELS, Candles, ForecastBatch
from btcbt.storage import runs as stored
from btcbt.storage.forecasts import ForecastStore
from btcbt.storage.runs import Run, load_run

KEY = "c" * 64
CONFIG = {
    "name": "tiny",
    "candles": {"path": "bundled:BTCUSD_1h"},
    "windows": {"context": 4, "horizon": 2, "start": "2019-06-01", "end": "2019-06-02"},
}


def fill(folder: Path, rng: np.random.Generator) -> ForecastBatch:
    """A run of five origins, whose store also held others."""
    origins = np.arange(5, dtype=np.int64) * 3_600_000
    digests = np.frombuffer(rng.bytes(16 * 5), dtype="V16")
    batch = ForecastBatch(origins, rng.normal(size=(5, 3, 2, 6)).astype(np.float32))
    ForecastStore(folder / "forecasts" / "walk", KEY, n_paths=3, horizon=2).write(digests, batch)
    columns = {"window.4": stored.digest_column(digests), "scored": np.ones(5, dtype=bool)}
    stored.write_columns(folder / "origins.parquet", "origin", origins, columns)
    stored.write_columns(folder / "targets.parquet", "origin", origins, {"mine@walk": np.linspace(0, 1, 5)})
    config = RunConfig.model_validate_json(json.dumps(CONFIG))
    manifest = {
        "config": config.model_dump(mode="json"),
        "forecasters": {"walk": {"key": KEY, "digests": "window.4", "n_paths": 3}},
    }
    stored.write_json(folder / "manifest.json", manifest)
    stored.write_json(folder / "metrics.json", {"a.b": np.float64(1.5), "a.c": math.nan, "a.d": math.inf})
    return batch


@pytest.fixture
def run(tmp_path: Path, rng: np.random.Generator) -> Run:
    target = tmp_path / "runs" / "tiny" / "abc"
    with stored.new_directory(target) as folder:
        fill(folder, rng)
    stored.point_latest(target)
    return load_run(target)


def test_a_run_is_read_as_it_was_written(tmp_path: Path, rng: np.random.Generator) -> None:
    with stored.new_directory(tmp_path / "run") as folder:
        batch = fill(folder, rng)
    run = load_run(tmp_path / "run")
    assert run.config.windows.context == 4
    assert run.metrics["a.b"] == 1.5
    assert math.isnan(run.metrics["a.c"])
    assert math.isnan(run.metrics["a.d"])
    targets = run.targets()
    assert targets["mine@walk"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert targets.index[1] == pd.Timestamp("1970-01-01T01:00Z")
    assert run.origins()["scored"].all()
    forecasts = run.forecasts("walk")
    assert len(forecasts) == 5
    np.testing.assert_array_equal(forecasts.origins, batch.origins)
    np.testing.assert_array_equal(forecasts.paths(), batch.paths)
    np.testing.assert_array_equal(forecasts.paths(3), batch.paths[3:])
    assert forecasts.paths(2, 2).shape == (0, 3, 2, 6)
    np.testing.assert_array_equal(np.concatenate([b.paths for b in forecasts.batches(2)]), batch.paths)


def test_the_folder_of_a_name_stands_for_its_newest_run(run: Run) -> None:
    assert load_run(run.directory.parent).directory == run.directory
    assert load_run(run.directory.parent / "latest").manifest == run.manifest
    newer = run.directory.with_name("def")
    with stored.new_directory(newer) as folder:
        fill(folder, np.random.default_rng(0))
    stored.point_latest(newer)
    assert load_run(run.directory.parent).directory == newer


def test_latest_is_a_file_where_links_cannot_be_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    (run.directory.parent / "latest").unlink()
    monkeypatch.setattr(Path, "symlink_to", refuse)
    stored.point_latest(run.directory)
    assert (run.directory.parent / "latest").read_text() == "abc\n"
    assert load_run(run.directory.parent).directory == run.directory


def test_a_pointer_cannot_climb_out_of_its_folder(run: Run, tmp_path: Path) -> None:
    pointer = run.directory.parent / "latest"
    pointer.unlink()
    pointer.write_text("../../elsewhere/abc\n")
    assert stored.latest(run.directory.parent) == run.directory


def test_a_forecaster_that_is_not_there_is_named_with_those_that_are(run: Run) -> None:
    with pytest.raises(StoreError, match="no forecaster 'kronos'; it has walk"):
        run.forecasts("kronos")


def test_a_damaged_shard_of_a_run_is_an_error(run: Run) -> None:
    shard = next((run.directory / "forecasts" / "walk").iterdir())
    shard.write_bytes(b"")
    with pytest.raises(StoreError, match="5 of 5 forecasts are missing or damaged"):
        run.forecasts("walk")


def test_a_missing_table_is_an_error(run: Run) -> None:
    with pytest.raises(StoreError, match=r"equity.parquet: cannot be read"):
        run.equity()


def test_scores_come_back_as_they_were_written(run: Run) -> None:
    rows = [("close", 1, "all", "crps_bps", 0.1 + 0.2), ("all", 0, "month=2019-06", "origins", math.nan)]
    tables = [stored.score_table(name, "BTC", rows) for name in ("walk", "kronos")]
    stored.write_scores(run.directory / "scores.parquet", tables)
    scores = run.scores()
    assert tuple(scores.columns) == stored.SCORE_COLUMNS
    assert list(scores["forecaster"]) == ["walk", "walk", "kronos", "kronos"]
    found = [tuple(row) for row in scores.itertuples(index=False)][2]
    assert found == ("kronos", "BTC", *rows[0])
    assert math.isnan(scores["value"][3])
    stored.write_scores(run.directory / "scores.parquet", [])
    assert tuple(run.scores().columns) == stored.SCORE_COLUMNS
    assert run.scores().empty


def test_the_candles_of_a_run_are_those_of_its_span(run: Run, make_history: Callable[..., Candles]) -> None:
    candles = make_history(10)
    first, last = int(candles.open_time[2]), int(candles.open_time[7])
    stored.write_candles(run.directory / "candles.parquet", candles, first, last)
    np.testing.assert_array_equal(run.candles()[list(CHANNELS)], candles.values[2:7])
    assert not run.candles()["filled"].any()
    assert run.candles().index[0] == pd.Timestamp(first, unit="ms", tz="UTC")


@pytest.mark.parametrize("table", ["scores", "candles"])
def test_a_run_of_an_older_version_says_so_when_asked_for_what_it_lacks(run: Run, table: str) -> None:
    with pytest.raises(StoreError, match=f"no {table}.parquet, the run is of an older version; run it again"):
        getattr(run, table)()
    (run.directory / f"{table}.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="cannot be read"):
        getattr(run, table)()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": {}}', '{"config": {"name": 3}}'])
def test_a_damaged_manifest_is_an_error_of_one_line(run: Run, text: str) -> None:
    (run.directory / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match="the run is damaged") as caught:
        load_run(run.directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"a": "q"}', '{"a": {}}', "[" * 100_000])
def test_damaged_metrics_are_an_error_of_one_line(run: Run, text: str) -> None:
    (run.directory / "metrics.json").write_text(text)
    with pytest.raises(StoreError, match="the run is damaged"):
        load_run(run.directory)


def test_forecasts_of_a_run_without_its_origins_are_an_error(run: Run) -> None:
    (run.directory / "origins.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"origins\.parquet: cannot be read"):
        run.forecasts("walk")


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run"):
        load_run(tmp_path)


def test_a_folder_that_fails_to_fill_vanishes(tmp_path: Path) -> None:
    def half() -> None:
        with stored.new_directory(tmp_path / "run") as folder:
            (folder / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rerun_leaves_the_earlier_run_as_it_was(run: Run) -> None:
    before = {path.name: path.stat().st_ino for path in run.directory.iterdir()}

    def interrupted() -> None:
        with stored.new_directory(run.directory) as folder:
            (folder / "metrics.json").write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {path.name: path.stat().st_ino for path in run.directory.iterdir()} == before


def test_a_full_disk_is_an_error_of_the_users(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"), stored.new_directory(tmp_path / "run"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_rerun_takes_the_place_of_the_earlier_run(run: Run) -> None:
    with stored.new_directory(run.directory) as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in run.directory.iterdir()] == ["new"]
    assert sorted(path.name for path in run.directory.parent.iterdir()) == ["abc", "latest"]


def test_a_run_that_another_process_put_there_meanwhile_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run"
    rename, rivals = Path.rename, iter([True, True, False])

    def contested(path: Path, to: Path) -> Path:
        if to == target and next(rivals, False):
            target.mkdir()
            (target / "theirs").write_text("theirs")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", contested)
    with stored.new_directory(target) as folder:
        (folder / "ours").write_text("ours")
    assert [path.name for path in target.iterdir()] == ["ours"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_copy_with_links_resolved_takes_new_runs(
    tmp_path: Path, run: Run, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "runs", copy)  # follows links, as cp -rL
    assert not (copy / "tiny" / "latest").is_symlink()
    target = copy / "tiny" / "def"
    with stored.new_directory(target) as folder:
        fill(folder, rng)
    stored.point_latest(target)
    assert load_run(copy / "tiny").directory.name == "def"
    (aside,) = (copy / "tiny").glob("latest-*")
    assert (aside / "manifest.json").is_file()
    assert f"it is now {aside}" in caplog.text
