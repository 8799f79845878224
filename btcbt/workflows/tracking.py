"""Log a finished run with MLflow: configuration, metrics, tags and files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from btcbt.errors import ConfigError
from btcbt.storage.runs import Run

MOST_PARAMETERS, MOST_METRICS = 100, 1000
"""Entries that MLflow accepts in one request."""
ARTEFACTS = ("manifest.json", "metrics.json", "report.html", "figures")


def require_mlflow() -> None:
    """Refuse early where MLflow is not installed.

    Raises
    ------
    ConfigError
    """
    if find_spec("mlflow") is None:
        raise ConfigError("--mlflow: MLflow is not installed; install it with: pip install 'btcbt[mlflow]'")


def log_run(run: Run) -> str:
    """Log a run in the experiment of its name, where MLFLOW_TRACKING_URI says; returns ``EXPERIMENT/RUN_ID``.

    Parameters
    ----------
    run : Run
        Its configuration becomes parameters by dotted key, its headline numbers metrics (those that are finite), its
        digest, code and candles tags, and its page and figures artefacts.

    Raises
    ------
    ConfigError
        If MLflow is not installed, or its server refuses or cannot be reached.
    """
    require_mlflow()
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient()
        known = client.get_experiment_by_name(run.config.name)
        experiment = client.create_experiment(run.config.name) if known is None else known.experiment_id
        run_id = client.create_run(experiment, run_name=run.manifest["digest"]).info.run_id
        parameters = [Param(_key(key), str(value)) for key, value in _flat(run.manifest["config"])]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            client.log_batch(run_id, params=parameters[start : start + MOST_PARAMETERS])
        metrics = [Metric(_key(key), value, 0, 0) for key, value in run.metrics.items() if math.isfinite(value)]
        for start in range(0, len(metrics), MOST_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
        tags = {
            "btcbt.digest": run.manifest["digest"],
            "btcbt.config_digest": run.manifest["config_digest"],
            "btcbt.candles_sha256": run.manifest["candles"]["sha256"],
            "btcbt.code": run.manifest["code"]["version"],
        }
        client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
        for name in ARTEFACTS:
            where = run.directory / name
            if where.is_dir():
                client.log_artifacts(run_id, str(where), name)
            elif where.is_file():
                client.log_artifact(run_id, str(where))
        client.set_terminated(run_id)
    except (MlflowException, OSError) as error:
        problem = " ".join(str(error).split())[:200]
        raise ConfigError(f"--mlflow: cannot be logged ({problem}); the run is stored in {run.directory}") from None
    return f"{run.config.name}/{run_id}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _key(text: str) -> str:
    """A key in the letters that MLflow allows."""
    return re.sub(r"[^\w.\-/ ]", "_", text)
