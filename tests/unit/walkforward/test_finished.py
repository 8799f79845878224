"""A finished run is read again, unless something that it depends on has changed; and what a dry run says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from btcbt import run
from btcbt.cli.main import app
from btcbt.config import RunConfig
from btcbt.workflows.dry_run import look_ahead

EXPERIMENT: dict[str, Any] = {
    "name": "trial",
    "candles": {"path": "bundled:BTCUSD_1h"},
    "windows": {"start": "2019-06-01", "end": "2019-06-03", "context": 24, "horizon": 3},
    "forecasters": {"walk": {"kind": "random_walk", "n_paths": 5}},
    "strategies": {"reads": {"use": "reads.py:Reads"}},
}
READS = """
from pathlib import Path
from btcbt.strategies import Strategy

class Reads(Strategy):
    def decide(self, forecast, holding):
        return float(Path("weight.txt").read_text())
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reads.py").write_text(READS)
    (tmp_path / "weight.txt").write_text("0.5")
    (tmp_path / "mine.yaml").write_text(json.dumps(EXPERIMENT))  # JSON is YAML
    return tmp_path


def test_a_finished_run_is_read_until_something_changes(here: Path) -> None:
    first = run(EXPERIMENT)
    page = first.directory / "report.html"

    def written() -> int:
        return page.stat().st_mtime_ns

    before = written()
    again = run(EXPERIMENT)
    assert (again.directory, again.manifest, again.metrics.keys()) == (
        first.directory,
        first.manifest,
        first.metrics.keys(),
    )
    assert written() == before
    assert run(EXPERIMENT, force=True).manifest["started"] >= first.manifest["started"]
    assert written() > before
    before = written()
    (here / "weight.txt").write_text("0.25")  # no part of any digest
    assert run(EXPERIMENT).targets()["reads@walk"].unique().tolist() == [0.25]
    assert written() > before
    (first.directory / "scores.parquet").unlink()
    assert len(run(EXPERIMENT).scores()) > 0
    (first.directory / "equity.parquet").write_bytes(b"damaged")
    assert len(run(EXPERIMENT).equity()) == 48
    for shard in (first.directory / "forecasts" / "walk").glob("*.parquet"):
        shard.unlink()
    assert len(run(EXPERIMENT).forecasts("walk")) == 48


def test_another_process_reads_it_too_and_says_so(here: Path) -> None:
    ran = [CliRunner().invoke(app, ["run", "mine.yaml"]) for _ in range(2)]
    assert [one.exit_code for one in ran] == [0, 0]
    assert ran[0].stdout == ran[1].stdout
    assert "nothing is scored again" in ran[1].stderr
    assert "score:" not in ran[1].stderr


def test_a_dry_run_counts_what_there_is_to_do_and_stores_nothing(here: Path) -> None:
    config = RunConfig.model_validate_json(
        json.dumps({**EXPERIMENT, "store": {"shard_size": 20}, "executor": {"kind": "local"}})
    )
    before = sorted(here.rglob("*"))
    outlook = look_ahead(config)
    assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in path.parts] == before
    (walk,) = outlook.forecasters
    assert (outlook.origins, outlook.accounts, outlook.finished) == (48, 1, False)
    assert (walk.stored, walk.missing, walk.shards) == (0, 48, 3)
    assert walk.seconds == pytest.approx(48 / walk.rate)
    run(config)
    (walk,) = look_ahead(config).forecasters
    assert (walk.stored, walk.missing, walk.shards) == (48, 0, 0)
    assert look_ahead(config).finished
    longer = config.model_copy(
        update={"windows": config.windows.model_copy(update={"end": config.windows.end.replace(day=4)})}
    )
    (walk,) = look_ahead(longer).forecasters
    assert (walk.stored, walk.missing) == (48, 24)


def test_the_command_shows_the_outlook_in_eighty_columns(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["run", "mine.yaml", "--dry-run", "--quiet"])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "trial: 48 origins, 2019-06-01T00:00Z .. 2019-06-02T23:00Z" in done.stdout
    assert "Nothing was written." in done.stdout
    assert not (here / "runs").exists()


def test_progress_for_programs_is_json_alone(here: Path) -> None:
    done = CliRunner().invoke(app, ["run", "mine.yaml", "--log-json"])
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    stages = [line["stage"] for line in lines if "stage" in line]
    assert stages[0] == "forecast walk"
    assert {"decide", "score", "simulate"} <= set(stages)
    (here / "weight.txt").write_text("7")
    done = CliRunner().invoke(app, ["run", "mine.yaml", "--log-json"])
    assert done.exit_code == 2
    (line,) = (json.loads(line) for line in done.stderr.splitlines())
    assert "decide returned 7.0" in line["error"]
