"""The report of an audit: findings, comparisons, and the limits of what it can detect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from btcbt.config import time_text
from btcbt.walkforward.stages import STAGE_NAMES

LOOK_AHEAD, RANDOMNESS = "looks ahead", "not reproducible"
"""Kinds of finding: depends on later candles, or gives a different result when run again on the same input."""
CLEAN, UNDECLARED, UNJUDGED = "clean", "undeclared", "not judged"
"""No finding; a component reads a file without declaring its data ranges; a component could not be run."""

MAX_LISTED = 50

LIMITS = (
    "The candle file: revisions, wrong time stamps or prices filled in before btcbt read it cannot be detected.",
    "Weights: the training and selection data that a checkpoint declares are not verified.",
    "Human choices: parameters, names and dates in the experiment may have been chosen with knowledge of the "
    "test range.",
    "Origins that were not drawn: a leak that occurs only at rare origins can be missed; raise --sample.",
    "Data that a forecaster or strategy loads itself: files and connections opened through Python are reported, "
    "those opened by compiled code are not.",
)
"""What no audit of this kind can detect; part of every report."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One value that depends on candles that were not known yet, or that is not reproducible.

    Attributes
    ----------
    stage : str
        One of `btcbt.walkforward.stages.STAGE_NAMES`.
    component : str
        The forecaster, strategy (``name@forecaster``) or other part.
    field : str
        What changed: a channel, ``paths.close``, ``target``, ``orders.price``.
    origin : int
        The audited origin, ms UTC; candles after it were changed.
    time : int
        When the changed value was known or decided, ms UTC; not after `origin`.
    change : str
        How the candles after the origin were changed (`btcbt.audit.changes.CHANGES`, ``displaced``), or ``none``.
    objects : str
        ``fresh`` objects, ``repeated`` ones (the same call again on the true history), ``used`` ones that had seen
        the true future before, or objects of a fresh ``process``.
    difference : float
        Largest absolute difference; inf if a value is missing or NaN, or an error was raised.
    detail : str
        Position in the field, and both values.
    kind : str
        ``looks ahead`` or ``not reproducible``.
    """

    stage: str
    component: str
    field: str
    origin: int
    time: int
    change: str
    objects: str
    difference: float
    detail: str
    kind: str = LOOK_AHEAD

    def as_json(self) -> dict[str, Any]:
        """As JSON values; an infinite difference becomes None."""
        finite = self.difference < float("inf")
        return {
            "kind": self.kind,
            "stage": self.stage,
            "component": self.component,
            "field": self.field,
            "origin": time_text(self.origin),
            "time": time_text(self.time),
            "change": self.change,
            "objects": self.objects,
            "difference": self.difference if finite else None,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True, eq=False)
class AuditReport:
    """The verdict on one experiment.

    Attributes
    ----------
    findings : tuple of Finding
        Ordered by stage, then as found; empty if there is no look-ahead.
    origins : tuple of int
        The audited origins, ms UTC.
    eligible : int
        Number of origins of the experiment, from which they were drawn.
    comparisons : mapping of str to int
        Bit-for-bit comparisons, by stage.
    notes : tuple of str
        Limits that apply to this experiment.
    subject : mapping
        Digests of the configuration, the candles, the forecasters and the strategies that were audited.
    name : str
        Of the experiment.
    seed : int
        Keys the drawn origins and the changes.
    seconds : float
        Wall time.
    finished : str
        When, ISO 8601, UTC.
    unjudged : tuple of str
        Components that raised an error while they were built on a changed history.
    undeclared : tuple of str
        Components that read files without declaring their data ranges.
    files : mapping of str to str
        Files outside this package and installed ones that components were imported from or opened, with their
        SHA-256: the verdict holds as long as they are unchanged.
    decisions : tuple of mapping
        Decisions of every strategy at the audited origins with drawn holdings (``trader``, ``origin`` in ms UTC,
        ``weight``, ``candles_held``, ``target``): the verdict holds for a run with the same decisions.
    """

    findings: tuple[Finding, ...]
    origins: tuple[int, ...]
    eligible: int
    comparisons: Mapping[str, int]
    notes: tuple[str, ...]
    subject: Mapping[str, Any]
    name: str
    seed: int
    seconds: float
    finished: str
    unjudged: tuple[str, ...] = ()
    undeclared: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    decisions: tuple[Mapping[str, Any], ...] = ()

    @property
    def verdict(self) -> str:
        """The most severe result; only ``clean`` means that no look-ahead was found and everything was checked."""
        kinds = {finding.kind for finding in self.findings}
        if kinds:
            return next(kind for kind in (LOOK_AHEAD, RANDOMNESS) if kind in kinds)
        return UNDECLARED if self.undeclared else UNJUDGED if self.unjudged else CLEAN

    @property
    def clean(self) -> bool:
        """Whether the verdict is ``clean``."""
        return self.verdict == CLEAN

    @property
    def caught_at(self) -> str | None:
        """The first stage with a finding, in the order of `STAGE_NAMES`; None if there is none."""
        return self.findings[0].stage if self.findings else None

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values, as stamped into the manifest of a run."""
        return {
            "verdict": self.verdict,
            "findings": len(self.findings),
            "stages": sorted({f.stage for f in self.findings}, key=STAGE_NAMES.index),
            "origins": len(self.origins),
            "eligible": self.eligible,
            "comparisons": dict(self.comparisons),
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "finished": self.finished,
            "subject": dict(self.subject),
            "notes": list(self.notes),
            "unjudged": list(self.unjudged),
            "undeclared": list(self.undeclared),
            "files": dict(self.files),
            "decisions": [dict(one) for one in self.decisions],
            "limits": list(LIMITS),
            "listed": [finding.as_json() for finding in self.findings[:MAX_LISTED]],
        }


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings sorted by stage, stable within a stage."""
    return tuple(sorted(findings, key=lambda finding: STAGE_NAMES.index(finding.stage)))
