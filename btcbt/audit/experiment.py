"""The audit of one experiment."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from btcbt.audit import process
from btcbt.audit.changes import CHANGES, TRUNCATE, known_at
from btcbt.audit.components import Components
from btcbt.audit.displaced import DISPLACED, observe_displaced
from btcbt.audit.execution import check_fills, check_ledger
from btcbt.audit.findings import LOOK_AHEAD, RANDOMNESS, AuditReport, Finding, in_order
from btcbt.audit.histories import DECISION_ORIGINS, AuditPoint, Histories, History
from btcbt.audit.process import AccessRecorder, ProcessResult, new_process, user_modules
from btcbt.audit.ranges import check_ranges, check_refits
from btcbt.audit.sampling import draw_origins, edge_origins
from btcbt.audit.stored_paths import StoredPaths
from btcbt.audit.trace import DRAWN, PAST, Observation, compare, newest, observe, observe_past
from btcbt.candles.bundled import PREFIX, bundled_path
from btcbt.config import RunConfig, load_config, time_text
from btcbt.errors import BtcbtError, CandleError
from btcbt.files import file_digest
from btcbt.forecasters import Forecaster
from btcbt.forecasters.base import Part
from btcbt.progress import Progress
from btcbt.records import IntArray
from btcbt.storage.forecasts import forecast_key
from btcbt.walkforward.manifest import run_digest
from btcbt.walkforward.provenance import code_version
from btcbt.walkforward.refits import Refitter
from btcbt.walkforward.stages import STRATEGY, Stages

SAMPLE = 18
WIDE = 4
"""Factor by which more origins are compared for candles and windows alone, which are cheap."""
KEPT = 3
"""Decisions of each strategy at an audited origin that are stored with the verdict: flat, long and short."""
PROCESS_ROWS = 2048
"""Newest candles before an origin that are compared across processes."""
_WIDE_CHANGES = ("noise", "gaps", TRUNCATE)


def audit_experiment(
    config: RunConfig | str | Path,
    *,
    stages: Stages | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    fresh_process: bool = True,
    progress: Progress | None = None,
) -> AuditReport:
    """Audit an experiment for look-ahead: change the candles after an origin and check that nothing before it changes.

    For a sample of origins, every candle that was not known yet is changed (`btcbt.audit.changes`), and
    candles, windows, scaling, forecasts, targets and fills at or before the origin must stay the same, bit for
    bit: with new objects that know only the changed history, with objects that have seen the true future before,
    and in a fresh process. The execution is checked against a ledger worked out by hand, and contamination
    labels against the declared data ranges of fitted components.

    Parameters
    ----------
    config : RunConfig or path
        The experiment, or its file.
    stages : Stages, optional
        Replacements for stages of the experiment.
    sample : int
        Number of origins to draw, at least 2.
    seed : int
        Seed of the drawn origins and the changes; at least 0.
    fresh_process : bool
        Whether to repeat the audit in a fresh process. A script that calls this must guard its main code by
        ``if __name__ == "__main__":``, as `multiprocessing` requires.
    progress : Progress, optional
        Receives the progress.

    Returns
    -------
    AuditReport

    Raises
    ------
    BtcbtError
        If the experiment itself is invalid.
    """
    experiment = config if isinstance(config, RunConfig) else load_config(config)
    if sample < 2:
        raise ValueError(f"sample {sample} is below 2")
    histories = Histories(experiment, stages or Stages(), seed)
    # Not `histories.windows`: how much context all forecasters need is not known yet.
    asked = histories.stages.windows(histories.candles, histories.config.windows)
    histories.stages = histories.stages.with_funding(experiment.portfolio, asked)
    return _Audit(histories, sample, progress or Progress()).run(fresh_process=fresh_process)


class _Audit:
    """One audit in progress."""

    def __init__(self, histories: Histories, sample: int, progress: Progress) -> None:
        self.histories, self.config, self.stages = histories, histories.config, histories.stages
        self.seed, self.sample, self.progress = histories.seed, sample, progress
        self.findings: list[Finding] = []
        self.comparisons: Counter[str] = Counter()
        self.notes: list[str] = []
        self.unjudged: list[str] = []
        self.undeclared: list[str] = []
        self.unstable: set[str] = set()
        self.stateful: set[str] = set()
        self.files: dict[str, str] = {}
        self.truth: dict[int, list[Observation]] = {}

    def run(self, *, fresh_process: bool) -> AuditReport:
        """All checks."""
        began = time.perf_counter()
        used = Components(self.config, self.stages, keep=True)
        forecasters = used.forecasters(self.histories.candles)
        self.histories.reach = max(forecaster.context for forecaster in forecasters.values())
        origins = self._draw()
        points = [self._point(origin) for origin in origins.tolist()]
        with TemporaryDirectory(prefix="btcbt-audit-") as scratch:
            stored_paths, private = (Path(scratch, name) for name in ("stored_paths", "private"))
            for folder in (stored_paths, private):
                folder.mkdir()
            self.stored_paths = StoredPaths(stored_paths)
            self._execution()
            self._observe_true(points, used)
            with self._new_process(points, private, wanted=fresh_process) as result:
                subject = self._check_changes(points, used)
                self._wide(origins)
                self._compare_process(result, used)
        return AuditReport(
            findings=in_order(self.findings),
            origins=tuple(origins.tolist()),
            eligible=len(self.histories.windows),
            comparisons=dict(self.comparisons),
            notes=tuple(dict.fromkeys(self.notes)),
            subject=subject,
            name=self.config.name,
            seed=self.seed,
            seconds=time.perf_counter() - began,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            unjudged=tuple(dict.fromkeys(self.unjudged)),
            undeclared=tuple(dict.fromkeys(self.undeclared)),
            files=self.files,
            decisions=tuple(self._decisions(points)),
        )

    def _draw(self) -> IntArray:
        windows, raw = self.histories.windows, self.histories.raw
        shard = self.config.store.shard_size
        origins = draw_origins(windows, raw, sample=self.sample, shard=shard, seed=self.seed)
        if not len(origins):
            raise CandleError(
                f"candles {raw.source}: no candle follows the first origin, {time_text(int(windows.origins[0]))}, "
                "so there is no future to change; move windows.start back"
            )
        return origins

    def _point(self, origin: int) -> AuditPoint:
        return AuditPoint.at(origin, self.histories.windows, self.seed)

    # -- the execution and the labels -----------------------------------------------------------------

    def _execution(self) -> None:
        simulate, true = self.stages.simulate, self.histories
        # Funding moves no fill.
        costs = self.config.portfolio.model_copy(update={"funding": None})
        for count, found in (
            check_ledger(simulate),
            check_fills(simulate, true.candles, true.windows, costs, self.seed),
        ):
            self.comparisons["portfolio"] += count - len(found)
            self.findings += found

    def _labels(self, forecasters: Mapping[str, Forecaster], refitters: Mapping[str, Refitter]) -> None:
        origins = self.histories.windows.origins
        for name, refitter in refitters.items():
            late = check_refits(name, refitter, origins)
            self.comparisons["split"] += not late
            self.findings += late
        for name, forecaster in forecasters.items():
            self._check_label(name, forecaster.parts(origins))

    def _check_label(self, name: str, parts: Iterable[Part]) -> None:
        origins, interval = self.histories.windows.origins, self.histories.candles.interval_ms
        found, notes = check_ranges(name, parts, origins, interval, self.stages.label)
        self.comparisons["split"] += not found
        self.findings += found
        self.notes += notes

    # -- changed futures ------------------------------------------------------------------------------

    def _observe_true(self, points: Sequence[AuditPoint], used: Components) -> None:
        """Observe every component on the true history, with forecasters that later see the future, and new strategies.

        Everything runs twice. A component that differs the second time depends on unseeded randomness or on earlier
        calls: it is reported as not reproducible, and not compared on changed histories.
        """
        forecasters = used.forecasters(self.histories.candles)
        self._labels(forecasters, used.refitters)
        with self.progress.stage("audit the true history", len(points), unit="histories") as advance:
            for point in points:
                history = self.histories.true(point)
                self.stored_paths.write(history, forecasters)
                ask = partial(observe, history, self.config, self.stages, used, self.stored_paths)
                later = ask(traders=self._new_components(), strict=True)
                self.truth[point.origin] = [*observe_past(history), *later]
                again = ask(traders=self._new_components())
                self._compare(later, again, point, "none", "repeated", RANDOMNESS)
                self._note_state([one for one in later if one.stage == STRATEGY], ask())
                advance(1)

    def _note_state(self, decided: Sequence[Observation], by_used: Sequence[Observation]) -> None:
        """Note strategies whose decisions depend on earlier calls: only new objects of these are compared."""
        for one in compare(decided, by_used, 0, "none", "used", left_out=self.unstable):
            if isinstance(one, Finding):
                self.stateful.add(one.component)
                self.notes.append(
                    f"'{one.component}' keeps state: its decisions depend on earlier calls, so it is judged by a "
                    f"new object over the last {DECISION_ORIGINS} origins up to an audited one"
                )

    def _new_components(self) -> Components:
        return Components(self.config, self.stages)

    def _check_changes(self, points: Sequence[AuditPoint], used: Components) -> dict[str, Any]:
        """Check all changed histories, with objects that saw the true future and with new ones."""
        fresh = self._new_components()
        with self.progress.stage("audit", len(points) * (2 + len(CHANGES)), unit="histories") as advance:
            for point in reversed(points):
                self._check_change(point, process.CHANGE, used, "used")
                advance(1)
            subject = self._subject(used.forecasters(self.histories.candles), used)
            for point in points:
                self._check_displaced(point, fresh)
                advance(1)
                for change in CHANGES:
                    self._check_change(point, change, fresh, "fresh")
                    advance(1)
        return subject

    def _decisions(self, points: Sequence[AuditPoint]) -> Iterator[Mapping[str, Any]]:
        """The decisions of each strategy at the audited origins with some drawn holdings."""
        for point in points:
            for one in self.truth[point.origin]:
                if one.field == DRAWN and one.component not in self.stateful:
                    for holding, target in list(zip(point.holdings, one.values.tolist(), strict=True))[-KEPT:]:
                        yield {
                            "trader": one.component,
                            "origin": point.origin,
                            "weight": holding.weight,
                            "candles_held": holding.candles_held,
                            "target": target,
                        }

    def _subject(self, forecasters: Mapping[str, Forecaster], components: Components) -> dict[str, Any]:
        true = self.histories
        keys = {
            name: forecast_key(
                forecaster.identity(),
                interval_ms=true.candles.interval_ms,
                context=forecaster.context,
                horizon=forecaster.horizon,
                n_paths=forecaster.n_paths,
                seed=self.config.forecast_seed,
            )[0]
            for name, forecaster in forecasters.items()
        }
        traders = components.traders(true.candles, tuple(forecasters))
        return {
            "run": run_digest(true.study, true.raw.sha256, keys, traders, self.stages.funding, self.stages.others),
            "config": true.study.digest(),
            "candles": true.raw.sha256,
            "version": code_version(),
        }

    def _check_change(self, point: AuditPoint, change: str, components: Components, objects: str) -> None:
        """Run every stage on a changed history and compare it with the true one."""
        history = self._history(point, change)
        if history is None:
            return
        expected, past = self._expected(self.truth[point.origin], point, change), observe_past(history)
        if not expected:
            return
        # If candles or windows differ already, later stages tell nothing more.
        if self._compare(expected[: len(past)], past, point, change, objects):
            try:
                later = observe(history, self.config, self.stages, components, self.stored_paths)
            except Exception as error:  # noqa: BLE001 - code of the user, on a history that it was not written for
                self._unjudged("a component", f"could not be built on a changed history '{change}'", error)
                return
            self._compare(expected[len(past) :], later, point, change, objects)

    def _check_displaced(self, point: AuditPoint, components: Components) -> None:
        """Compare the decisions on the true candles with all times shifted; see `btcbt.audit.displaced`."""
        history = self.histories.true(point)
        truth = self.truth[point.origin]
        got = observe_displaced(history, truth, components, self.stored_paths, self.config.windows.horizon)
        decided = [one for one in truth if one.stage == STRATEGY]
        self._compare(decided, got, point, DISPLACED, "fresh")

    def _wide(self, drawn: IntArray) -> None:
        """Compare candles and windows at many more origins, up to half of them edges outside the sample."""
        true = self.histories
        edges = edge_origins(true.windows, true.raw, self.config.store.shard_size)
        usable = np.setdiff1d(true.windows.origins[true.windows.origins < known_at(true.raw)[-1]], drawn)
        rng = np.random.Generator(np.random.Philox(key=[self.seed, 2]))
        count = WIDE * self.sample
        edges = np.intersect1d(edges, usable)
        edges = rng.choice(edges, min(len(edges), count // 2), replace=False)
        rest = np.setdiff1d(usable, edges)
        rest = rng.choice(rest, min(len(rest), count - len(edges)), replace=False)
        origins = np.union1d(edges, rest).tolist()
        with self.progress.stage("audit candles and windows", len(origins)) as advance:
            for point in map(self._point, origins):
                truth = observe_past(true.true(point))
                for change in _WIDE_CHANGES:
                    history = self._history(point, change)
                    if history is not None:
                        expected = self._expected(truth, point, change)
                        self._compare(expected, observe_past(history), point, change, "fresh")
                advance(1)

    def _history(self, point: AuditPoint, change: str) -> History | None:
        try:
            return self.histories.changed(point, change)
        except BtcbtError as error:  # a history that is too short for the range, say: there is nothing to judge
            self.notes.append(f"no changed history '{change}' at some origins: {error}")
            return None
        except Exception as error:  # noqa: BLE001 - code of the user, on a history that it was not written for
            self._unjudged("the preparation of candles", f"raised on a changed history '{change}'", error)
            return None

    def _unjudged(self, part: str, what: str, error: Exception) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        self.unjudged.append(part)
        self.notes.append(f"{part} {what} at some origins ({text}), so it was not judged there")

    def _expected(self, truth: list[Observation], point: AuditPoint, change: str) -> list[Observation]:
        """The true observations; for a truncated history, with the windows of a range that ends at the origin."""
        if change != TRUNCATE:
            return truth
        past = observe_past(self.histories.true_until(point))
        if len(past) < sum(one.stage in PAST for one in truth):
            self.notes.append(
                "the split drops an origin if the range ends right after it, so truncation was not checked"
            )
            return []
        return [*past, *truth[len(past) :]]

    def _compare(
        self,
        expected: list[Observation],
        got: list[Observation],
        point: AuditPoint,
        change: str,
        objects: str,
        kind: str = LOOK_AHEAD,
    ) -> bool:
        """Compare and count; returns whether everything was equal."""
        before = len(self.findings)
        left_out = self.unstable | (self.stateful if objects == "used" else set())
        for one in compare(expected, got, point.origin, change, objects, kind, left_out):
            if isinstance(one, Finding):
                self.findings.append(one)
                if kind == RANDOMNESS:
                    self.unstable.add(one.component)
            else:
                self.comparisons[one] += 1
        return len(self.findings) == before

    # -- the fresh process ----------------------------------------------------------------------------

    @contextmanager
    def _new_process(
        self, points: Sequence[AuditPoint], private: Path, *, wanted: bool
    ) -> Iterator[Future[ProcessResult] | None]:
        if not wanted:
            self.notes.append(
                "the check in a fresh process was disabled: a leak through globals or caches may be missed"
            )
            yield None
            return
        with new_process(private) as pool:
            reach = self.histories.reach
            job = pool.submit(
                observe_in_new_process, self.config, self.stages, self.seed, reach, points, self.stored_paths
            )
            try:
                yield job
            finally:
                job.cancel()

    def _compare_process(self, job: Future[ProcessResult] | None, used: Components) -> None:
        if job is None:
            return
        result = job.result()
        for origin, observed in result.observed.items():
            truth = newest(self.truth[origin], PROCESS_ROWS)
            self._compare(truth, observed, self._point(origin), process.CHANGE, "process")
        self.files = result.files
        first, own = min(result.observed), _candle_file(self.config.candles.path)
        declared = self._declared(used)
        for access in sorted(result.accesses, key=lambda one: (one.stage, one.what)):
            if access.what == own or access.connection:
                detail = f"{access.by} opens {access.what}"
                found = (access.stage, access.by, "file", first, first, "none", "process", float("inf"), detail)
                self.findings.append(Finding(*found))
                continue
            self.files[access.what] = file_digest(Path(access.what))
            if (access.component or access.file) in declared:
                continue
            self.undeclared.append(access.component or access.by)
            self.notes.append(
                f"{access.component or access.stage} ({access.by}) reads {access.what}, which the audit cannot change; "
                "declare its data by a method data_ranges()"
            )

    def _declared(self, used: Components) -> set[str]:
        """Names and source files of components that declare their data ranges; their labels are checked."""
        origins, declared = self.histories.windows.origins, set[str]()
        for name, forecaster in used.forecasters(self.histories.candles).items():
            if forecaster.data_ranges() is not None:
                declared |= {name, inspect.getfile(type(forecaster))}
        for trader in used.traders(self.histories.candles, ()):
            ranges = trader.strategy.data_ranges()
            if ranges is not None:
                declared |= {trader.name, inspect.getfile(type(trader.strategy))}
                self._check_label(trader.name, [Part(np.arange(len(origins)), "", ranges)])
        return declared


def observe_in_new_process(
    config: RunConfig, stages: Stages, seed: int, reach: int, points: Sequence[AuditPoint], stored_paths: StoredPaths
) -> ProcessResult:
    """Observe changed histories in a fresh process, and record what components open."""
    recorder = AccessRecorder()
    recorder.install()
    histories, components = Histories(config, stages, seed), Components(config, stages)
    histories.reach = reach
    observed: dict[int, list[Observation]] = {}
    for point in points:
        with recorder.recording():
            history = histories.changed(point, process.CHANGE)
            observed[point.origin] = [
                *newest(observe_past(history), PROCESS_ROWS),
                *observe(history, config, stages, components, stored_paths),
            ]
    return ProcessResult(observed, recorder.seen, user_modules())


def _candle_file(path: str) -> str:
    file = bundled_path(path) if path.startswith(PREFIX) else Path(path)
    return str(file.resolve())
