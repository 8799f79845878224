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
from btcbt.audit.displaced import DISPLACED, observe_displaced
from btcbt.audit.execution import check_fills, check_ledger
from btcbt.audit.findings import LOOK_AHEAD, RANDOMNESS, AuditReport, Finding, in_order
from btcbt.audit.participants import Participants
from btcbt.audit.process import AccessRecorder, Answers, new_process, user_modules
from btcbt.audit.ranges import check_ranges, check_refits
from btcbt.audit.sampling import draw_origins, edge_origins
from btcbt.audit.scenes import TRAIL, Histories, Question, Scene
from btcbt.audit.trace import DRAWN, PAST, Observation, compare, newest, observe, observe_past
from btcbt.audit.trail import Trails
from btcbt.audit.worlds import SHORT, WORLDS, known_at
from btcbt.candles.bundled import PREFIX, bundled_path
from btcbt.config import RunConfig, load_config, time_text
from btcbt.errors import CandleError
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
"""Times as many origins at which candles and windows alone are compared: that costs little."""
KEPT = 3
"""Decisions of each strategy at an audited origin that a verdict keeps: flat, long and short."""
PROCESS_ROWS = 2048
"""Newest candles before an origin that are compared across processes."""
_WIDE_WORLDS = ("noise", "gaps", SHORT)


def audit_experiment(
    config: RunConfig | str | Path,
    *,
    stages: Stages | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    fresh_process: bool = True,
    progress: Progress | None = None,
) -> AuditReport:
    """Look for look-ahead by experiment: change what follows an origin and see what changes before it.

    For a sample of origins, every candle that was not known yet is changed (`btcbt.audit.worlds`), and
    candles, windows, scaling, forecasts, targets and fills at or before the origin must be the same bit for
    bit: from objects that know nothing but the changed history, from objects that have seen the true future
    before, and in a fresh process. The execution is held to a ledger worked out by hand, and the labels of
    origins to the declared ranges of fitted parts.

    Parameters
    ----------
    config : RunConfig or path
        The experiment, or its file.
    stages : Stages, optional
        Parts to put in the place of those of the experiment.
    sample : int
        Origins to draw, at least 2.
    seed : int
        Keys the origins and the changes; at least 0.
    fresh_process : bool
        Whether to repeat it in a fresh process too. A script that calls this guards its main code by
        ``if __name__ == "__main__":``, as `multiprocessing` asks.
    progress : Progress, optional
        Who is told how far it is.

    Returns
    -------
    AuditReport

    Raises
    ------
    BtcbtError
        If the experiment itself is wrong.
    """
    experiment = config if isinstance(config, RunConfig) else load_config(config)
    if sample < 2:
        raise ValueError(f"sample {sample} is below 2")
    histories = Histories(experiment, stages or Stages(), seed)
    return _Audit(histories, sample, progress or Progress()).run(fresh_process=fresh_process)


class _Audit:
    """One audit under way."""

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
        used = Participants(self.config, self.stages, keep=True)
        forecasters = used.forecasters(self.histories.candles)
        self.histories.reach = max(forecaster.context for forecaster in forecasters.values())
        origins = self._draw()
        questions = [self._question(origin) for origin in origins.tolist()]
        with TemporaryDirectory(prefix="btcbt-audit-") as scratch:
            trails, private = (Path(scratch, name) for name in ("trails", "private"))
            for folder in (trails, private):
                folder.mkdir()
            self.trails = Trails(trails)
            self._execution()
            self._truth(questions, used)
            with self._elsewhere(questions, private, wanted=fresh_process) as answers:
                subject = self._walk(questions, used)
                self._wide(origins)
                self._compare_process(answers, used)
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
            decisions=tuple(self._decisions(questions)),
        )

    def _draw(self) -> IntArray:
        windows, raw = self.histories.windows, self.histories.raw
        shard = self.config.store.shard_size
        origins = draw_origins(windows, raw, sample=self.sample, shard=shard, seed=self.seed)
        if not len(origins):
            raise CandleError(
                f"candles {raw.source}: none follows the first origin, {time_text(int(windows.origins[0]))}, "
                "so there is no future to change; move windows.start back"
            )
        return origins

    def _question(self, origin: int) -> Question:
        return Question.at(origin, self.histories.windows, self.seed)

    # -- the execution and the labels -----------------------------------------------------------------

    def _execution(self) -> None:
        simulate, true = self.stages.simulate, self.histories
        for count, found in (
            check_ledger(simulate),
            check_fills(simulate, true.candles, true.windows, self.config.portfolio, self.seed),
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

    def _truth(self, questions: Sequence[Question], used: Participants) -> None:
        """What every part does on the true history, by forecasters that go on to see the future, and new strategies.

        Everything is asked twice. What answers otherwise the second time follows chance, or what it was asked before:
        it is named for that, and not compared with its answers on changed histories.
        """
        forecasters = used.forecasters(self.histories.candles)
        self._labels(forecasters, used.refitters)
        with self.progress.stage("audit the true history", len(questions), unit="scenes") as advance:
            for question in questions:
                scene = self.histories.true(question)
                self.trails.write(scene, forecasters)
                ask = partial(observe, scene, self.config, self.stages, used, self.trails)
                later = ask(traders=self._new_participants(), strict=True)
                self.truth[question.origin] = [*observe_past(scene), *later]
                again = ask(traders=self._new_participants())
                self._compare(later, again, question, "none", "repeated", RANDOMNESS)
                self._note_state([one for one in later if one.stage == STRATEGY], ask())
                advance(1)

    def _note_state(self, decided: Sequence[Observation], by_used: Sequence[Observation]) -> None:
        """A strategy that was asked before and decides otherwise keeps state: only new objects of it are compared."""
        for one in compare(decided, by_used, 0, "none", "used", left_out=self.unstable):
            if isinstance(one, Finding):
                self.stateful.add(one.component)
                self.notes.append(
                    f"'{one.component}' keeps state: what it decides depends on what it was asked before, so it is "
                    f"judged on the last {TRAIL} origins before an audited one, from a new object"
                )

    def _new_participants(self) -> Participants:
        return Participants(self.config, self.stages)

    def _walk(self, questions: Sequence[Question], used: Participants) -> dict[str, Any]:
        """Changed futures: objects that saw the true one, and others that did not."""
        fresh = self._new_participants()
        with self.progress.stage("audit", len(questions) * (2 + len(WORLDS)), unit="scenes") as advance:
            for question in reversed(questions):
                self._meet(question, process.WORLD, used, "used")
                advance(1)
            subject = self._subject(used.forecasters(self.histories.candles), used)
            for question in questions:
                self._displace(question, fresh)
                advance(1)
                for world in WORLDS:
                    self._meet(question, world, fresh, "fresh")
                    advance(1)
        return subject

    def _decisions(self, questions: Sequence[Question]) -> Iterator[Mapping[str, Any]]:
        """What each strategy decided at the audited origins with some drawn holdings."""
        for question in questions:
            for one in self.truth[question.origin]:
                if one.field == DRAWN and one.component not in self.stateful:
                    for holding, target in list(zip(question.holdings, one.values.tolist(), strict=True))[-KEPT:]:
                        yield {
                            "trader": one.component,
                            "origin": question.origin,
                            "weight": holding.weight,
                            "candles_held": holding.candles_held,
                            "target": target,
                        }

    def _subject(self, forecasters: Mapping[str, Forecaster], participants: Participants) -> dict[str, Any]:
        true = self.histories
        keys = {
            name: forecast_key(
                forecaster.identity(),
                interval_ms=true.candles.interval_ms,
                context=forecaster.context,
                horizon=forecaster.horizon,
                n_paths=forecaster.n_paths,
                seed=self.config.seed,
            )[0]
            for name, forecaster in forecasters.items()
        }
        traders = participants.traders(true.candles, tuple(forecasters))
        return {
            "run": run_digest(self.config, true.raw.sha256, keys, traders),
            "config": self.config.digest(),
            "candles": true.raw.sha256,
            "version": code_version(),
        }

    def _meet(self, question: Question, world: str, participants: Participants, objects: str) -> None:
        """Let every stage answer in a changed world."""
        scene = self._scene(question, world)
        if scene is None:
            return
        expected, past = self._expected(self.truth[question.origin], question, world), observe_past(scene)
        if not expected:
            return
        # What follows from another past proves nothing more.
        if self._compare(expected[: len(past)], past, question, world, objects):
            try:
                later = observe(scene, self.config, self.stages, participants, self.trails)
            except Exception as error:  # noqa: BLE001 - a part of the user's, on a history that he never meant
                self._unjudged("a part", f"could not be built on a changed history '{world}'", error)
                return
            self._compare(expected[len(past) :], later, question, world, objects)

    def _displace(self, question: Question, participants: Participants) -> None:
        """Let strategies decide on the true candles in another year."""
        scene = self.histories.true(question)
        got = observe_displaced(scene, participants, self.trails, self.config.windows.horizon)
        decided = [one for one in self.truth[question.origin] if one.stage == STRATEGY]
        self._compare(decided, got, question, DISPLACED, "fresh")

    def _wide(self, drawn: IntArray) -> None:
        """Candles and windows at many more origins, half of them edges that the sample left out."""
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
            for question in map(self._question, origins):
                truth = observe_past(true.true(question))
                for world in _WIDE_WORLDS:
                    scene = self._scene(question, world)
                    if scene is not None:
                        expected = self._expected(truth, question, world)
                        self._compare(expected, observe_past(scene), question, world, "fresh")
                advance(1)

    def _scene(self, question: Question, world: str) -> Scene | None:
        try:
            return self.histories.changed(question, world)
        except Exception as error:  # noqa: BLE001 - a part of the user's, on a history that he never meant
            self._unjudged("the preparation of candles", f"raised on a changed history '{world}'", error)
            return None

    def _unjudged(self, part: str, what: str, error: Exception) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        self.unjudged.append(part)
        self.notes.append(f"{part} {what} at some origins ({text}), so it was not judged there")

    def _expected(self, truth: list[Observation], question: Question, world: str) -> list[Observation]:
        """The truth; where the range ends at the origin, with the true windows of such a range."""
        if world != SHORT:
            return truth
        past = observe_past(self.histories.true_until(question))
        if len(past) < sum(one.stage in PAST for one in truth):
            self.notes.append("the split drops an origin if the range ends after it, so no history ended there")
            return []
        return [*past, *truth[len(past) :]]

    def _compare(
        self,
        expected: list[Observation],
        got: list[Observation],
        question: Question,
        world: str,
        objects: str,
        kind: str = LOOK_AHEAD,
    ) -> bool:
        """Compare and count; whether all was equal."""
        before = len(self.findings)
        left_out = self.unstable | (self.stateful if objects == "used" else set())
        for one in compare(expected, got, question.origin, world, objects, kind, left_out):
            if isinstance(one, Finding):
                self.findings.append(one)
                if kind == RANDOMNESS:
                    self.unstable.add(one.component)
            else:
                self.comparisons[one] += 1
        return len(self.findings) == before

    # -- the fresh process ----------------------------------------------------------------------------

    @contextmanager
    def _elsewhere(
        self, questions: Sequence[Question], private: Path, *, wanted: bool
    ) -> Iterator[Future[Answers] | None]:
        if not wanted:
            self.notes.append("no fresh process was asked for: what outlives an object may hide a leak")
            yield None
            return
        with new_process(private) as pool:
            reach = self.histories.reach
            job = pool.submit(answer_elsewhere, self.config, self.stages, self.seed, reach, questions, self.trails)
            try:
                yield job
            finally:
                job.cancel()

    def _compare_process(self, job: Future[Answers] | None, used: Participants) -> None:
        if job is None:
            return
        answers = job.result()
        for origin, observed in answers.observed.items():
            truth = newest(self.truth[origin], PROCESS_ROWS)
            self._compare(truth, observed, self._question(origin), process.WORLD, "process")
        self.files = answers.files
        first, own = min(answers.observed), _candle_file(self.config.candles.path)
        declared = self._declared(used)
        for access in sorted(answers.accesses, key=lambda one: (one.stage, one.what)):
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
                "declare what went into it by a method data_ranges()"
            )

    def _declared(self, used: Participants) -> set[str]:
        """Names and source files of the parts that declare what they have looked at; their labels are checked."""
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


def answer_elsewhere(
    config: RunConfig, stages: Stages, seed: int, reach: int, questions: Sequence[Question], trails: Trails
) -> Answers:
    """What a fresh process makes of changed histories, by origin, and what its parts opened meanwhile."""
    recorder = AccessRecorder()
    recorder.install()
    histories, participants = Histories(config, stages, seed), Participants(config, stages)
    histories.reach = reach
    observed: dict[int, list[Observation]] = {}
    for question in questions:
        with recorder.recording():
            scene = histories.changed(question, process.WORLD)
            observed[question.origin] = [
                *newest(observe_past(scene), PROCESS_ROWS),
                *observe(scene, config, stages, participants, trails),
            ]
    return Answers(observed, recorder.seen, user_modules())


def _candle_file(path: str) -> str:
    file = bundled_path(path) if path.startswith(PREFIX) else Path(path)
    return str(file.resolve())
