"""The project's own gate: a change of any forecast metric of a small bundled run fails until it is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.config import load_config
from btcbt.storage.runs import Run
from btcbt.walkforward.runner import run

BASELINES = Path(__file__).resolve().parents[1] / "baselines"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = load_config(BASELINES / "experiment.yaml")
    root = str(tmp_path_factory.mktemp("baseline"))
    return run(config.model_copy(update={"store": config.store.model_copy(update={"root": root})}))


def check(folder: Path, baseline: Path) -> Result:
    tolerances = BASELINES / "tolerances.yaml"
    command = ["check", str(folder), "--baseline", str(baseline), "--tolerances", str(tolerances)]
    return CliRunner().invoke(app, command)


def test_no_forecast_metric_has_moved(small: Run) -> None:
    result = check(small.directory, BASELINES / "metrics.json")
    assert result.exit_code == 0, result.output
    assert " new" not in result.output, result.output


def test_a_baseline_may_name_any_score_by_its_dotted_key(small: Run, tmp_path: Path) -> None:
    month = small.scores().query("forecaster == 'kronos' and group == 'month=2019-06' and metric == 'crps_bps'")
    (value,) = month.query("channel == 'open' and step == 24")["value"]
    key = "forecast.kronos.by_month.2019-06.crps_bps.open.h24"
    assert key not in small.metrics
    for file, number, code in (("same.json", value, 0), ("moved.json", 1.02 * value, 1)):
        (tmp_path / file).write_text(json.dumps({key: number}))
        result = check(small.directory, tmp_path / file)
        assert result.exit_code == code, result.output


@pytest.mark.parametrize("metric", ["crps_bps.close.h24", "coverage90.volume.all", "mae_bps.high.all"])
def test_a_metric_of_any_forecaster_that_moves_by_two_percent_fails(small: Run, tmp_path: Path, metric: str) -> None:
    baseline = json.loads((BASELINES / "metrics.json").read_text())
    for name in small.manifest["forecasters"]:
        moved = tmp_path / f"{name}.json"
        moved.write_text(
            json.dumps(baseline | {f"forecast.{name}.{metric}": 1.02 * small.metrics[f"forecast.{name}.{metric}"]})
        )
        result = check(small.directory, moved)
        assert result.exit_code == 1
        assert f"forecast.{name}.{metric}" in result.stdout
        assert "1 worse; the check fails" in result.stdout
