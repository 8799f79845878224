"""Runs in MLflow: against a real file store where MLflow is installed, one line where it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.errors import ConfigError
from btcbt.storage.runs import load_run
from btcbt.workflows import tracking

EXPERIMENT = """\
name: tracked
candles: {path: "bundled:BTCUSD_1h"}
windows: {start: 2019-06-01, end: 2019-06-03, context: 24, horizon: 3}
forecasters: {walk: {kind: random_walk, n_paths: 5}}
strategies: {threshold: {use: threshold}}
"""


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tracked.yaml").write_text(EXPERIMENT)
    return tmp_path / "tracked.yaml"


def test_without_mlflow_one_line_says_what_to_install_before_anything_runs(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "mlflow" not in place])
    done = CliRunner().invoke(app, ["run", str(experiment), "--mlflow"])
    assert done.exit_code == 2
    assert "MLflow is not installed; install it with: pip install 'btcbt[mlflow]'" in done.stderr
    assert not (experiment.parent / "runs").exists()


def test_configuration_metrics_and_files_are_logged(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'btcbt[mlflow]'")
    uri = (experiment.parent / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(uri)
    done = CliRunner().invoke(app, ["run", str(experiment), "--mlflow"])
    assert done.exit_code == 0, done.output
    run = load_run("runs/tracked")
    client = mlflow.MlflowClient()
    (logged,) = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["forecasters.walk.n_paths"] == "5"
    assert logged.data.tags["btcbt.digest"] == run.manifest["digest"]
    for key, value in run.metrics.items():
        if value == value:
            assert logged.data.metrics[key.replace("@", "_")] == pytest.approx(value)
    files = {entry.path for entry in client.list_artifacts(logged.info.run_id)}
    assert {"manifest.json", "metrics.json", "report.html", "figures"} <= files


def test_a_store_that_refuses_is_one_line(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'btcbt[mlflow]'")
    assert CliRunner().invoke(app, ["run", str(experiment), "-q"]).exit_code == 0
    (experiment.parent / "file").touch()
    uri = (experiment.parent / "file" / "below").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(uri)
    with pytest.raises(ConfigError, match=r"--mlflow: cannot be logged .*; the run is stored in "):
        tracking.log_run(load_run("runs/tracked"))
