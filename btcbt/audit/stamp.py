"""Store a verdict for later runs, and stamp it into an existing run if that run made the same decisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from btcbt.audit.findings import AuditReport
from btcbt.config import RunConfig
from btcbt.errors import StoreError
from btcbt.records import Candles
from btcbt.storage.runs import Run, load_run
from btcbt.storage.verdicts import keep_verdict
from btcbt.walkforward.decisions import closed_before
from btcbt.walkforward.provenance import git_commit
from btcbt.walkforward.registration import until_now
from btcbt.walkforward.stages import Stages
from btcbt.walkforward.stamp import Decision, decisions_of_run, outdated
from btcbt.walkforward.traders import make_traders


def keep_report(report: AuditReport, config: RunConfig) -> tuple[Path | None, str | None]:
    """Store the verdict of an audit.

    Returns
    -------
    Path or None
        The run that was stamped; None if there is no run yet.
    str or None
        Why the verdict does not apply to that run; None if it does.

    Raises
    ------
    StoreError
        If a file cannot be written, or a table of the run is damaged.
    """
    root, digest = config.store.folder, report.subject["run"]
    verdict = {**report.as_json(), "commit": git_commit()}
    stale = None
    if (root / config.name / digest / "manifest.json").is_file():
        stale = _outdated(load_run(root / config.name / digest), report, config)
    return keep_verdict(root, config.name, digest, verdict, stale), stale


def _outdated(run: Run, report: AuditReport, config: RunConfig) -> str | None:
    stages = Stages()
    candles = stages.history(config.candles)
    context = max(entry["context"] for entry in run.manifest["forecasters"].values())
    windows = stages.windows(candles, until_now(config, candles).windows, context)
    stored = {name: run.forecasts(name) for name in run.manifest["forecasters"]}
    try:
        decided = list(_decisions(run, report, candles))
    except KeyError as error:
        raise StoreError(f"{run.directory}: its table of targets lacks {error}; run the experiment again") from None
    return outdated(
        report.files, decided, make_traders(config), windows, lambda name, row: stored[name].paths(row, row + 1)[0]
    )


def _decisions(run: Run, report: AuditReport, candles: Candles) -> Iterator[Decision]:
    targets, asked = run.targets(), np.array(report.origins, dtype=np.int64)
    index: Any = targets.index
    origins = np.asarray(index.as_unit("ms").asi8, dtype=np.int64)
    for name in dict.fromkeys(one["trader"] for one in report.decisions):
        values = targets[name].to_numpy(dtype=np.float64)
        known = np.isfinite(values)
        own = origins[known]
        closed = closed_before(candles, origins, own, run.config.portfolio)
        yield from decisions_of_run(name, own, values[known], candles.interval_ms, asked, closed)
