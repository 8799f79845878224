"""The look-ahead audit of an experiment on several symbols.

Each symbol's experiment is audited by itself (`btcbt.audit.experiment`). Then, at a sample of moments, the candles of
every symbol after the moment are changed at once, and the decisions of strategies on panels and the forecasts of models
that are fitted on all symbols must stay the same there, bit for bit: so a leak from one symbol's future into another's
forecast or decision is found, too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from btcbt.audit.changes import CHANGES, change_future
from btcbt.audit.components import Components, forecast_paths
from btcbt.audit.experiment import SAMPLE, audit_experiment
from btcbt.audit.findings import RANDOMNESS, AuditReport, Finding, in_order
from btcbt.config import PanelConfig, RunConfig
from btcbt.errors import CandleError
from btcbt.progress import Progress
from btcbt.records import CHANNELS, Candles, Float32Array, Forecast, Holding, Window
from btcbt.strategies import PanelStrategy
from btcbt.walkforward.decisions import isolated
from btcbt.walkforward.panel.runner import beside, each_symbol, read_panel
from btcbt.walkforward.panel.traders import make_panel_traders
from btcbt.walkforward.stages import FORECAST, STRATEGY, Stages

MakeStrategies = Callable[[Mapping[str, Candles]], Mapping[str, PanelStrategy]]
"""Histories by symbol to named strategies, each run on each forecaster."""


class Answer(NamedTuple):
    """The weights of an account, or the error that it raised, or the paths (S, H, 6) of a forecaster of one symbol."""

    stage: str
    component: str
    value: dict[str, float] | Float32Array | str


@dataclass(frozen=True, slots=True, eq=False)
class _Panel:
    """What is built anew for every set of histories."""

    configs: Mapping[str, RunConfig]
    forecasters: tuple[str, ...]
    strategies: MakeStrategies


def audit_panel(
    config: PanelConfig,
    *,
    strategies: MakeStrategies | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    fresh_process: bool = True,
    progress: Progress | None = None,
) -> AuditReport:
    """Audit an experiment on several symbols for look-ahead.

    Parameters
    ----------
    config : PanelConfig
        The experiment.
    strategies : callable, optional
        Replaces the strategies on panels of the experiment; called with the histories of all symbols.
    sample, seed, fresh_process, progress
        As of `btcbt.audit.audit_experiment`; `sample` origins of each symbol, and as many moments.

    Returns
    -------
    AuditReport
        Findings of every symbol, whose components begin with its name, and of the decisions on the panel.

    Raises
    ------
    BtcbtError
        If the experiment itself is invalid.
    """
    began, progress = time.perf_counter(), progress or Progress()
    candles = read_panel(config, Stages())
    configs = each_symbol(config, candles)
    reports = {}
    for symbol, own in configs.items():
        progress.note(f"{symbol}: audit")
        reports[symbol] = audit_experiment(
            own,
            stages=beside(Stages(), symbol, candles),
            sample=sample,
            seed=seed,
            fresh_process=fresh_process,
            progress=progress,
        )
    make = strategies or (lambda _: {one.name: one.strategy for one in make_panel_traders(config)})
    panel = _Panel(configs, tuple(config.forecasters), make)
    moments = _draw(config, candles, sample, seed)
    found, counts = check_moments(panel, candles, moments, seed, progress)
    return _together(config, reports, found, counts, moments, time.perf_counter() - began)


def check_moments(
    panel: _Panel, candles: Mapping[str, Candles], moments: Sequence[int], seed: int, progress: Progress
) -> tuple[list[Finding], Counter[str]]:
    """Compare answers at each moment on the true histories with those on changed ones.

    Returns
    -------
    list of Finding
    Counter
        How many were compared, by stage.

    Objects built on the true histories decide again after they have seen later moments (``used``), and once more
    (``repeated``).
    """
    found: list[Finding] = []
    compared: Counter[str] = Counter()
    used = _Built(panel, candles)
    with progress.stage("audit the panel", len(moments), unit="moments") as advance:
        for moment in moments:
            holdings = _holdings(candles, moment, seed)
            fresh = _Built(panel, candles).answers(candles, moment, holdings)
            again = used.answers(candles, moment, holdings)
            for later in (m for m in moments if m > moment):
                used.answers(candles, later, _holdings(candles, later, seed))
            tries = [("none", "repeated", again), ("none", "used", used.answers(candles, moment, holdings))]
            for change in CHANGES:
                changed = {symbol: change_future(one, moment, change, seed) for symbol, one in candles.items()}
                tries.append((change, "fresh", _Built(panel, changed, moment).answers(changed, moment, holdings)))
                tries.append((change, "used", used.answers(changed, moment, holdings)))
            for change, objects, answers in tries:
                compared.update(one.stage for one in fresh)
                found += _differences(fresh, answers, moment, change, objects)
            advance(1)
    return found, compared


class _Built:
    """Forecasters of every symbol and strategies, built on some histories."""

    def __init__(self, panel: _Panel, candles: Mapping[str, Candles], until: int | None = None) -> None:
        self.panel = panel
        self.forecasters = {
            symbol: Components(config, beside(Stages(), symbol, candles)).forecasters(candles[symbol], until)
            for symbol, config in panel.configs.items()
        }
        self.strategies = panel.strategies(candles)

    def answers(self, candles: Mapping[str, Candles], moment: int, holdings: Mapping[str, Holding]) -> list[Answer]:
        """The paths of every forecaster that is fitted on all symbols, and the weights of every strategy."""
        windows = {symbol: _window(one, moment, self._context(symbol)) for symbol, one in candles.items()}
        known = {symbol: window for symbol, window in windows.items() if window is not None}
        found = [
            Answer(FORECAST, f"{symbol}: {name}", _forecast(self, symbol, window, name).paths)
            for symbol, window in known.items()
            for name, config in self.panel.configs[symbol].forecasters.items()
            if config.pooled
        ]
        seen: dict[str | None, dict[str, Forecast]] = {None: {s: _forecast(self, s, w, None) for s, w in known.items()}}
        for name, strategy in self.strategies.items():
            only = name.partition("@")[2]
            on = [only] if only else self.panel.forecasters if strategy.uses_forecast else [None]
            for forecaster in on:
                if forecaster not in seen:
                    seen[forecaster] = {s: _forecast(self, s, w, forecaster) for s, w in known.items()}
                label = name if only or forecaster is None else f"{name}@{forecaster}"
                own = {symbol: isolated(one) for symbol, one in seen[forecaster].items()}
                found.append(Answer(STRATEGY, label, _answer(strategy, own, holdings)))
        return found

    def _context(self, symbol: str) -> int:
        configured = self.panel.configs[symbol].windows.context
        return max(configured, *(one.context for one in self.forecasters[symbol].values()))


def _forecast(built: _Built, symbol: str, window: Window, forecaster: str | None) -> Forecast:
    config = built.panel.configs[symbol].windows
    shown = _newest(window, config.context)
    if forecaster is None:
        return Forecast(shown, np.empty((0, config.horizon, len(CHANNELS)), dtype=np.float32))
    made = built.forecasters[symbol][forecaster]
    return Forecast(shown, forecast_paths(made, [_newest(window, made.context)])[0])


def _answer(
    strategy: PanelStrategy, forecasts: Mapping[str, Forecast], holdings: Mapping[str, Holding]
) -> dict[str, float] | str:
    try:
        return {str(symbol): float(weight) for symbol, weight in strategy.decide(forecasts, holdings).items()}
    except Exception as error:  # noqa: BLE001 - code of the user
        return f"{type(error).__name__}: {error}"


def _window(candles: Candles, moment: int, context: int) -> Window | None:
    """The contiguous candles up to a moment; None if some are missing."""
    last = int(np.searchsorted(candles.open_time, moment - candles.interval_ms))
    rows = slice(last + 1 - context, last + 1)
    if last + 1 < context or last >= len(candles) or candles.open_time[last] != moment - candles.interval_ms:
        return None
    if candles.open_time[last] - candles.open_time[rows.start] != (context - 1) * candles.interval_ms:
        return None
    return Window(candles.open_time[rows], candles.values[rows], candles.interval_ms)


def _newest(window: Window, context: int) -> Window:
    return Window(window.open_time[-context:], window.values[-context:], window.interval_ms)


def _holdings(candles: Mapping[str, Candles], moment: int, seed: int) -> dict[str, Holding]:
    """Drawn positions, the same for every history."""
    rng = np.random.default_rng((seed, moment))
    weights = rng.dirichlet(np.ones(len(candles) + 1))
    return {symbol: Holding(float(w), int(rng.integers(0, 100))) for symbol, w in zip(candles, weights, strict=False)}


def _draw(config: PanelConfig, candles: Mapping[str, Candles], sample: int, seed: int) -> list[int]:
    """Moments with a future to change, drawn from those at which every symbol has a candle."""
    times = [one.open_time + one.interval_ms for one in candles.values()]
    common = times[0]
    for other in times[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    step = config.windows.stride * next(iter(candles.values())).interval_ms
    start, end = (int(one.timestamp() * 1000) for one in (config.windows.start, config.windows.end))
    last = min(int(one.open_time[-1]) for one in candles.values())
    eligible = common[(common >= start) & (common < min(end, last)) & (common % step == 0)]
    if not len(eligible):
        raise CandleError("candles.symbols: no moment in the range has a candle of every symbol; nothing is audited")
    count = min(sample, len(eligible))
    return sorted(np.random.default_rng((seed, 3)).choice(eligible, count, replace=False).tolist())


def _differences(
    expected: list[Answer], answers: list[Answer], moment: int, change: str, objects: str
) -> list[Finding]:
    found = []
    for (stage, name, true), (_, _, other) in zip(expected, answers, strict=True):
        size = _distance(true, other)
        if size is None:
            continue
        shown = f"{true} against {other}"[:300] if stage == STRATEGY else ""
        found.append(
            Finding(
                stage=stage,
                component=name,
                field="weights" if stage == STRATEGY else "paths",
                origin=moment,
                time=moment,
                change=change,
                objects=objects,
                difference=size,
                detail=shown,
                **({"kind": RANDOMNESS} if objects == "repeated" else {}),
            )
        )
    return found


def _distance(
    true: dict[str, float] | Float32Array | str, other: dict[str, float] | Float32Array | str
) -> float | None:
    """The largest difference of two answers; None if they are the same."""
    if isinstance(true, np.ndarray) and isinstance(other, np.ndarray):
        return None if np.array_equal(true, other) else float(np.abs(true.astype(np.float64) - other).max())
    if isinstance(true, dict) and isinstance(other, dict):
        return None if true == other else max(abs(true.get(key, 0.0) - other.get(key, 0.0)) for key in {*true, *other})
    return None if isinstance(true, str) and true == other else float("inf")


def _together(
    config: PanelConfig,
    reports: Mapping[str, AuditReport],
    found: list[Finding],
    counts: Counter[str],
    moments: list[int],
    seconds: float,
) -> AuditReport:
    """One report of all."""
    findings = [
        replace(finding, component=f"{symbol}: {finding.component}")
        for symbol, report in reports.items()
        for finding in report.findings
    ]
    comparisons: Counter[str] = Counter()
    for report in reports.values():
        comparisons.update(report.comparisons)
    comparisons.update(counts)
    last = list(reports.values())[-1]

    def named(field: str) -> tuple[str, ...]:
        return tuple(f"{symbol}: {text}" for symbol, one in reports.items() for text in getattr(one, field))

    return replace(
        last,
        findings=in_order([*findings, *found]),
        origins=tuple(sorted({*moments, *(o for one in reports.values() for o in one.origins)})),
        eligible=sum(one.eligible for one in reports.values()),
        comparisons=dict(comparisons),
        notes=named("notes"),
        subject={"config": config.digest(), "symbols": {symbol: one.subject for symbol, one in reports.items()}},
        name=config.name,
        seconds=seconds,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        unjudged=named("unjudged"),
        undeclared=named("undeclared"),
        files={file: digest for one in reports.values() for file, digest in one.files.items()},
        decisions=(),
    )
