"""The audit of one experiment."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from btcbt.audit import process
from btcbt.audit.displaced import DISPLACED, observe_displaced
from btcbt.audit.execution import check_fills, check_ledger
from btcbt.audit.findings import AuditReport, Finding, in_order
from btcbt.audit.participants import Participants
from btcbt.audit.process import AccessRecorder, Answers, new_process
from btcbt.audit.ranges import check_ranges, check_refits
from btcbt.audit.sampling import draw_origins, edge_origins
from btcbt.audit.scenes import Histories, Question, Scene
from btcbt.audit.trace import PAST, Observation, compare, newest, observe, observe_past
from btcbt.audit.worlds import SHORT, WORLDS, known_at
from btcbt.candles.bundled import PREFIX, bundled_path
from btcbt.config import RunConfig, load_config, time_text
from btcbt.errors import CandleError
from btcbt.forecasters import Forecaster
from btcbt.progress import Progress
from btcbt.records import IntArray
from btcbt.storage.forecasts import forecast_key
from btcbt.walkforward.manifest import run_digest
from btcbt.walkforward.provenance import code_version
from btcbt.walkforward.refits import Refitter
from btcbt.walkforward.stages import Stages

SAMPLE = 18
WIDE = 4
"""Times as many origins at which candles and windows alone are compared: that costs little."""
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
        self.truth: dict[int, list[Observation]] = {}

    def run(self, *, fresh_process: bool) -> AuditReport:
        """All checks."""
        began = time.perf_counter()
        used = Participants(self.config, self.stages, keep=True)
        forecasters = used.forecasters(self.histories.candles)
        self.histories.reach = max(forecaster.context for forecaster in forecasters.values())
        origins = self._draw()
        questions = [self._question(origin) for origin in origins.tolist()]
        with self._elsewhere(questions, wanted=fresh_process) as answers:
            self._execution()
            subject = self._walk(questions, used)
            self._wide(origins)
            self._compare_process(answers)
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
        origins, interval = self.histories.windows.origins, self.histories.candles.interval_ms
        for name, refitter in refitters.items():
            late = check_refits(name, refitter, origins)
            self.comparisons["split"] += not late
            self.findings += late
        for name, forecaster in forecasters.items():
            found, notes = check_ranges(name, forecaster, origins, interval, self.stages.label)
            self.comparisons["split"] += not found
            self.findings += found
            self.notes += notes

    # -- changed futures ------------------------------------------------------------------------------

    def _walk(self, questions: Sequence[Question], used: Participants) -> dict[str, Any]:
        """The truth first; then objects that saw it, and others that did not, in changed worlds."""
        fresh = Participants(self.config, self.stages)
        forecasters = used.forecasters(self.histories.candles)
        self._labels(forecasters, used.refitters)
        with self.progress.stage("audit", len(questions) * (3 + len(WORLDS)), unit="scenes") as advance:
            for question in questions:
                scene = self.histories.true(question)
                later = observe(scene, self.config, self.stages, used, strict=True)
                self.truth[question.origin] = [*observe_past(scene), *later]
                advance(1)
            for question in reversed(questions):
                self._meet(question, process.WORLD, used, "used")
                advance(1)
            subject = self._subject(forecasters, used)
            for question in questions:
                self._displace(question, fresh)
                advance(1)
                for world in WORLDS:
                    self._meet(question, world, fresh, "fresh")
                    advance(1)
        return subject

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
            later = observe(scene, self.config, self.stages, participants)
            self._compare(expected[len(past) :], later, question, world, objects)

    def _displace(self, question: Question, participants: Participants) -> None:
        """Let strategies decide on the true candles in another year."""
        truth = self.truth[question.origin]
        got = observe_displaced(self.histories.true(question), truth, self.config, participants)
        decided = [one for one in truth if one.stage == "strategy"]
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
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self.notes.append(f"no changed history '{world}' at some origins, its preparation raised {text}")
            return None

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
        self, expected: list[Observation], got: list[Observation], question: Question, world: str, objects: str
    ) -> bool:
        """Compare and count; whether all was equal."""
        before = len(self.findings)
        for one in compare(expected, got, question.origin, world, objects):
            if isinstance(one, Finding):
                self.findings.append(one)
            else:
                self.comparisons[one] += 1
        return len(self.findings) == before

    # -- the fresh process ----------------------------------------------------------------------------

    @contextmanager
    def _elsewhere(self, questions: Sequence[Question], *, wanted: bool) -> Iterator[Future[Answers] | None]:
        if not wanted:
            self.notes.append("no fresh process was asked for: what outlives an object may hide a leak")
            yield None
            return
        with new_process() as pool:
            job = pool.submit(answer_elsewhere, self.config, self.stages, self.seed, self.histories.reach, questions)
            try:
                yield job
            finally:
                job.cancel()

    def _compare_process(self, job: Future[Answers] | None) -> None:
        if job is None:
            return
        answers, accesses = job.result()
        for origin, observed in answers.items():
            truth = newest(self.truth[origin], PROCESS_ROWS)
            self._compare(truth, observed, self._question(origin), process.WORLD, "process")
        first, own = min(answers), _candle_file(self.config.candles.path)
        for access in sorted(accesses, key=lambda one: (one.stage, one.what)):
            if access.what != own and not access.connection:
                self.notes.append(f"{access.by} ({access.stage}) reads {access.what}, which the audit cannot change")
                continue
            detail = f"{access.by} opens {access.what}"
            found = Finding(access.stage, access.by, "file", first, first, "none", "process", float("inf"), detail)
            self.findings.append(found)


def answer_elsewhere(
    config: RunConfig, stages: Stages, seed: int, reach: int, questions: Sequence[Question]
) -> Answers:
    """What a fresh process makes of changed histories, by origin, and what its parts opened meanwhile."""
    recorder = AccessRecorder()
    recorder.install()
    histories, participants = Histories(config, stages, seed), Participants(config, stages)
    histories.reach = reach
    answers: dict[int, list[Observation]] = {}
    for question in questions:
        with recorder.recording():
            scene = histories.changed(question, process.WORLD)
            answers[question.origin] = [
                *newest(observe_past(scene), PROCESS_ROWS),
                *observe(scene, config, stages, participants),
            ]
    return answers, recorder.seen


def _candle_file(path: str) -> str:
    file = bundled_path(path) if path.startswith(PREFIX) else Path(path)
    return str(file.resolve())
