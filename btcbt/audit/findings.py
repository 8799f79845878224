"""What an audit says: findings, what was compared, and what could not be proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from btcbt.config import time_text
from btcbt.walkforward.stages import STAGE_NAMES

LOOK_AHEAD, RANDOMNESS = "looks ahead", "not reproducible"
"""What is wrong: it knows what came later, or it answers the same question otherwise when it is asked again."""
CLEAN, UNDECLARED, UNJUDGED = "clean", "undeclared", "not judged"
"""Nothing is wrong; a part reads a file and does not declare what went into it; a part could not be run."""

MAX_LISTED = 50

LIMITS = (
    "The file itself: revisions, wrong labels or prices filled in before btcbt read it leave no trace in it.",
    "Weights: what a checkpoint was trained and selected on is taken at the word of its declaration.",
    "Choices of people: parameters, names and dates in the experiment's file may have been picked by somebody "
    "who knew how the test range went.",
    "Origins that were not drawn: a leak that shows at rare origins alone can be missed; raise the sample.",
    "Data that a forecaster or strategy fetches by itself: files and connections opened through Python are "
    "reported, those opened by compiled code are not.",
)
"""What no audit of this kind can prove; part of every report."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One value that depends on what was not known yet.

    Attributes
    ----------
    stage : str
        One of `btcbt.walkforward.stages.STAGE_NAMES`.
    component : str
        Which forecaster, strategy (``name@forecaster``) or part it is.
    field : str
        What changed: a channel, ``paths.close``, ``target``, ``orders.price``.
    origin : int
        The audited origin, ms UTC: everything after it was made different.
    time : int
        When the changed value was known or decided, ms UTC; not after `origin`.
    world : str
        How the candles after the origin were changed, or ``none``.
    objects : str
        ``fresh`` objects, ``repeated`` ones (the same question again on the true history), ``used`` ones that had
        seen the true future before, or those of a fresh ``process``.
    difference : float
        Largest absolute difference; inf where a value is missing, is not a number, or an error was raised.
    detail : str
        Where in the field, and both values.
    kind : str
        ``looks ahead`` or ``not reproducible``.
    """

    stage: str
    component: str
    field: str
    origin: int
    time: int
    world: str
    objects: str
    difference: float
    detail: str
    kind: str = LOOK_AHEAD

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values; an infinite difference becomes None."""
        finite = self.difference < float("inf")
        return {
            "kind": self.kind,
            "stage": self.stage,
            "component": self.component,
            "field": self.field,
            "origin": time_text(self.origin),
            "time": time_text(self.time),
            "world": self.world,
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
        Ordered by stage, then as found; empty if nothing looks ahead.
    origins : tuple of int
        The audited origins, ms UTC.
    eligible : int
        Origins of the experiment, from which they were drawn.
    comparisons : mapping of str to int
        Bit-for-bit comparisons, by stage.
    notes : tuple of str
        What could not be judged in this experiment.
    subject : mapping
        What was audited: digests of the configuration, the candles, the forecasters and the strategies.
    name : str
        Of the experiment.
    seed : int
        Keys the drawn origins and the changes.
    seconds : float
        Wall time.
    finished : str
        When, ISO 8601, UTC.
    unjudged : tuple of str
        Parts that raised where nothing but the future was changed before they were asked anything.
    undeclared : tuple of str
        Parts that read files without declaring what went into those.
    files : mapping of str to str
        Files that are neither of this package nor of an installed one and that parts were imported from or opened,
        with their SHA-256: the verdict holds as long as they are the same.
    decisions : tuple of mapping
        Decisions of every strategy at the audited origins with drawn holdings (``trader``, ``origin`` in ms UTC,
        ``weight``, ``candles_held``, ``target``): the verdict holds for a run that decides the same.
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
        """The worst that was found; ``clean`` alone means that nothing looks ahead."""
        kinds = {finding.kind for finding in self.findings}
        if kinds:
            return next(kind for kind in (LOOK_AHEAD, RANDOMNESS) if kind in kinds)
        return UNDECLARED if self.undeclared else UNJUDGED if self.unjudged else CLEAN

    @property
    def clean(self) -> bool:
        """Whether nothing was found and all was judged."""
        return self.verdict == CLEAN

    @property
    def caught_at(self) -> str | None:
        """The first stage with a finding, in the order of `STAGE_NAMES`; None if there is none."""
        return self.findings[0].stage if self.findings else None

    def as_json(self) -> dict[str, Any]:
        """The verdict as JSON values, as it is stamped into the manifest of a run."""
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
    """Findings by stage; those of one stage as they were found."""
    return tuple(sorted(findings, key=lambda finding: STAGE_NAMES.index(finding.stage)))
