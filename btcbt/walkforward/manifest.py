"""The manifest of a run: its digest, and the provenance of its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from btcbt.config import RunConfig, time_text
from btcbt.loading import source_sha256
from btcbt.metrics.ensembles import estimator
from btcbt.records import Candles, Float32Array, FundingRates
from btcbt.storage.forecasts import NUMERICAL_VERSION
from btcbt.storage.verdicts import stamp, stored_verdict
from btcbt.trees import tree_digest
from btcbt.walkforward.members import Member
from btcbt.walkforward.provenance import code_version, git_commit, package_versions
from btcbt.walkforward.refits import describe_refits
from btcbt.walkforward.stamp import outdated
from btcbt.walkforward.traders import Trader
from btcbt.windows import Windows

DIGEST_LENGTH = 16


def run_digest(
    config: RunConfig,
    candles_sha256: str,
    forecasts: Mapping[str, str],
    traders: Sequence[Trader],
    funding: FundingRates | None = None,
    others: Sequence[Candles] = (),
) -> str:
    """Digest of all inputs of a run, so that no run overwrites a different one.

    Parameters
    ----------
    config : RunConfig
        The experiment.
    candles_sha256 : str
        Digest of its candles.
    forecasts : mapping
        The key of each forecaster's forecasts (`btcbt.storage.forecasts.forecast_key`) by its name.
    traders : sequence of Trader
        Its strategies.
    funding : FundingRates, optional
        The series that its accounts pay.
    others : sequence of Candles, optional
        The histories of the other symbols of a panel, on which pooled forecasters are fitted.
    """
    pooled = any(forecaster.pooled for forecaster in config.forecasters.values())
    content = {
        "config": config.digest(),
        "candles": candles_sha256,
        "forecasts": dict(forecasts),
        "strategies": {trader.name: source_sha256(type(trader.strategy)) for trader in traders},
        "code": code_version(),
        "numerical_version": NUMERICAL_VERSION,
        **({} if funding is None else {"funding": funding.sha256}),
        **({"others": [other.sha256 for other in others]} if pooled else {}),
    }
    return tree_digest(content)[:DIGEST_LENGTH]


def make_manifest(
    config: RunConfig,
    digest: str,
    windows: Windows,
    members: Sequence[Member],
    traders: Sequence[Trader],
    seconds: Mapping[str, float],
    started: datetime,
    registration: Mapping[str, Any] | None = None,
    funding: FundingRates | None = None,
) -> dict[str, Any]:
    """Inputs of a run and the duration of its stages, as JSON values.

    Parameters
    ----------
    config : RunConfig
        The experiment.
    digest : str
        Of the run.
    windows : Windows
        Its origins and candles.
    members, traders
        Its forecasters and strategies.
    seconds : mapping
        Wall seconds by stage.
    started : datetime
        When it began, UTC.
    registration : mapping, optional
        How it stands to the registrations of its name.
    funding : FundingRates, optional
        The series that its accounts pay.
    """
    candles, origins = windows.candles, windows.origins
    return {
        "name": config.name,
        "digest": digest,
        "config_digest": config.digest(),
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "candles": {
            "path": config.candles.path,
            "sha256": candles.sha256,
            "interval": config.candles.interval,
            "rows": len(candles.observed),
            "filled": _filled(windows),
            "first": time_text(int(candles.open_time[0])),
            "last": time_text(int(candles.open_time[-1])),
        },
        "funding": None if funding is None else _describe_funding(config, funding),
        "origins": {
            "eligible": len(windows),
            "scored": int(np.count_nonzero(windows.scored)),
            "skipped": dict(windows.skipped),
            "first": time_text(int(origins[0])),
            "last": time_text(int(origins[-1])),
        },
        "forecasters": {
            member.name: _describe(member) | describe_refits(member.forecaster, origins) for member in members
        },
        "opponent": config.opponent or members[0].name,
        "strategies": {
            trader.name: {
                "use": trader.use,
                "params": dict(trader.params),
                "forecaster": trader.forecaster,
                "source_sha256": source_sha256(type(trader.strategy)),
            }
            for trader in traders
        },
        "code": {"version": code_version(), "commit": git_commit(), "numerical_version": NUMERICAL_VERSION},
        "registration": registration,
        "audit": _audit(config, digest, windows, {one.name: one for one in members}, traders),
        "packages": package_versions(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": wall_seconds(seconds, started),
    }


def _filled(windows: Windows) -> int:
    """Number of filled candles from the first context to the last outcome."""
    candles = windows.candles
    rows = slice(*np.searchsorted(candles.open_time, windows.span()).tolist())
    return 0 if candles.filled is None else int(np.count_nonzero(candles.filled[rows]))


def wall_seconds(seconds: Mapping[str, float], started: datetime) -> dict[str, float]:
    """Wall seconds by stage, and in all until now; see `make_manifest`."""
    stages = {stage: round(taken, 3) for stage, taken in seconds.items()}
    return {**stages, "total": round((datetime.now(UTC) - started).total_seconds(), 3)}


def _audit(
    config: RunConfig, digest: str, windows: Windows, members: Mapping[str, Member], traders: Sequence[Trader]
) -> dict[str, Any] | None:
    """The stamp of the newest audit of this experiment, with the reason if it is stale."""
    verdict = stored_verdict(config.store.folder, digest)
    if verdict is None:
        return None

    def paths(name: str, row: int) -> Float32Array:
        member = members[name]
        part = member.plan.part(slice(row, row + 1))
        batch = next(member.store.read(part, windows.origins[row : row + 1], 1))
        return np.asarray(batch.paths[0])

    return stamp(verdict, outdated(verdict["files"], verdict["decisions"], traders, windows, paths))


def _describe_funding(config: RunConfig, funding: FundingRates) -> dict[str, Any]:
    return {
        "path": config.portfolio.funding,
        "sha256": funding.sha256,
        "rows": len(funding.time),
        "first": time_text(int(funding.time[0])),
        "last": time_text(int(funding.time[-1])),
    }


def _describe(member: Member) -> dict[str, Any]:
    return {
        "kind": member.kind,
        "key": member.key,
        "context": member.forecaster.context,
        "digests": member.column,
        "n_paths": member.forecaster.n_paths,
        "paths_are": member.forecaster.paths_are,
        "scored_by": estimator(member.forecaster.paths_are),
        "identity": dict(member.forecaster.identity()),
        "traded": member.configured,
        "labels": dict(Counter(str(label) for label in member.labels)),
        "computed": member.computed,
        "reused": len(member.labels) - member.computed,
        "provenance": dict(member.provenance),
    }
