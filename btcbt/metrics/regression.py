"""Regression check: compare the metrics of a run with a baseline, each within its own tolerance.

A tolerances file is YAML; the first rule that matches a metric applies to it::

    keep: ["forecast.*"]              # metrics that a baseline holds, all if left out ...
    drop: ["*.by_month.*"]            # ... but not these
    rules:
      - match: "forecast.*.crps_bps.*"
        relative: 1.0e-3              # a change of up to absolute + relative x |baseline| is allowed
        worse: higher                 # which direction fails the check: higher, lower or any
      - match: "*.pit_p.*"
        worse: none                   # shown, but never fails
      - match: "*"
        absolute: 1.0e-9

Patterns are those of the shell: ``*`` any characters, dots included, ``?`` one, ``[abc]`` one of a set. A rule without
``worse`` takes the direction that the score table (`btcbt.metrics.table`) calls worse, or away from the best value if
there is one; a metric without a better direction then fails if it moves at all.

A metric that no rule matches is judged by what is known of it. Its direction is the score table's, and it may move by
half the width of the interval that the baseline holds for it (`btcbt.metrics.noise`). Where no interval is known, the
headline scores may move by the table's tolerance, that of rounding; any other score is then listed as ``moved``, and
does not fail: nothing says that the move is more than chance. A metric that is not in the table fails if it moves.

A baseline may say what it was measured on, under ``about``; see `incomparable`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from btcbt.config import Section, load_config
from btcbt.errors import ConfigError
from btcbt.files import read_file, write_whole
from btcbt.metrics.noise import HEADLINE, StoredNoise, is_decisive
from btcbt.metrics.score import Score
from btcbt.metrics.table import find_score

Verdict = Literal["equal", "within", "better", "moved", "worse", "vanished", "new"]
FAILURES: tuple[Verdict, ...] = ("worse", "vanished")
MAX_BASELINE_BYTES = 1 << 26
ABOUT = "about"
"""Key of a baseline that says what it was measured on."""


class Rule(Section):
    """Tolerance of the metrics that match a pattern, and the direction that is worse (the score table's by default)."""

    match: str = Field(min_length=1)
    """A pattern of dotted keys, such as ``strategy.*.sharpe``."""
    absolute: float = Field(0.0, ge=0)
    """Allowed change."""
    relative: float = Field(0.0, ge=0)
    """Allowed change, as a share of the baseline's value."""
    worse: Literal["higher", "lower", "any", "none"] | None = None
    """The direction that is worse; as in the score table if left out."""


class Tolerances(Section):
    """The rules of a check: the first match applies, or else what is known of the metric."""

    keep: tuple[str, ...] = Field(("*",), strict=False)
    """Patterns of the metrics that a baseline holds."""
    drop: tuple[str, ...] = Field((), strict=False)
    """Patterns of metrics that it does not."""
    rules: tuple[Rule, ...] = Field((), strict=False)
    """Allowed changes; the first rule that matches applies."""

    def rule(self, metric: str) -> Rule | None:
        """The first rule that matches a metric."""
        return next((rule for rule in self.rules if fnmatchcase(metric, rule.match)), None)

    def keeps(self, metric: str) -> bool:
        """Whether a baseline holds the metric."""
        kept, dropped = (any(fnmatchcase(metric, one) for one in patterns) for patterns in (self.keep, self.drop))
        return kept and not dropped


UNKNOWN = Score(name="", formula="")
"""Defaults for a metric that the score table does not hold."""
_WORSE = {"higher": "lower", "lower": "higher", "neither": "any"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric: the baseline's number and the run's, NaN where it is not defined, None where it is absent.

    `verdict` is ``equal``; ``within`` the tolerance; ``better`` or ``worse``; ``moved`` where neither direction is
    worse; ``vanished`` if the run lacks it, or it became NaN; ``new`` if the baseline lacks it.
    """

    metric: str
    baseline: float | None
    now: float | None
    allowed: float
    verdict: Verdict

    @property
    def change(self) -> float:
        """Difference from the baseline; NaN where either is NaN or absent."""
        return math.nan if self.baseline is None or self.now is None else self.now - self.baseline

    @property
    def failed(self) -> bool:
        """Whether it fails the check."""
        return self.verdict in FAILURES


def read_tolerances(file: Path) -> Tolerances:
    """Read a tolerances file.

    Raises
    ------
    ConfigError
        Names the file, the line and the key.
    """
    return load_config(file, Tolerances)


class Baseline(NamedTuple):
    """Numbers to compare with, and what they were measured on.

    Attributes
    ----------
    numbers : dict of str to float
        By dotted key.
    about : dict of str to str
        Candles, origins and costs; empty if the baseline does not say.
    """

    numbers: dict[str, float]
    about: dict[str, str]


def read_baseline(file: Path) -> Baseline:
    """Read a baseline: a JSON object of numbers, null where a metric is not defined, and texts under ``about``.

    Raises
    ------
    ConfigError
        If it is missing or invalid.
    """
    try:
        tree = json.loads(read_file(file, MAX_BASELINE_BYTES))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such baseline; create it with --update") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a baseline") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{file}: not JSON; fix it, or write it again with --update") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: expected a JSON object of numbers; fix it, or write it again with --update")
    about = tree.pop(ABOUT, {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise ConfigError(f"{file}: '{ABOUT}' is no object of texts; fix it, or write it again with --update")
    for metric, value in tree.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ConfigError(f"{file}: '{metric}' is {value!r}; expected a number or null")
    return Baseline({metric: math.nan if value is None else float(value) for metric, value in tree.items()}, about)


def incomparable(about: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What differs between two measurements, and how in words; other ``costs`` leave forecasts comparable."""
    keys = [key for key in about if key in now and now[key] != about[key]]
    return {key: f"{key} {now[key]}, the baseline's {about[key]}" for key in keys}


def write_baseline(
    file: Path, metrics: Mapping[str, float], tolerances: Tolerances, about: Mapping[str, str] | None = None
) -> int:
    """Write the metrics of a run that the tolerances keep as the new baseline; returns their number.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    kept = {key: metrics[key] for key in sorted(metrics) if tolerances.keeps(key)}
    tree: dict[str, object] = {ABOUT: dict(about)} if about else {}
    tree |= {key: value if math.isfinite(value) else None for key, value in kept.items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(tree, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror}); choose another file") from None
    return len(kept)


def compare_metrics(
    baseline: Mapping[str, float], now: Mapping[str, float], tolerances: Tolerances
) -> list[Comparison]:
    """Compare every metric that the baseline holds or would hold, in alphabetical order."""
    names = sorted({*baseline, *(name for name in now if tolerances.keeps(name))})
    noise = StoredNoise(baseline)
    return [_compare(name, baseline.get(name), now.get(name), tolerances.rule(name), noise) for name in names]


def moved(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons outside the tolerance: failures first, then headline scores, then the largest relative changes."""
    changed = [one for one in comparisons if one.verdict not in ("equal", "within")]
    return sorted(changed, key=lambda one: (not one.failed, _rank(one), -_size(one)))


def _rank(one: Comparison) -> int:
    score = find_score(one.metric)
    decisive = score is not None and is_decisive(one.metric, score)
    return HEADLINE.index(score.name) if score is not None and decisive else len(HEADLINE)


def _size(one: Comparison) -> float:
    if one.baseline is None or not math.isfinite(one.change):
        return 0.0
    return abs(one.change) / (abs(one.baseline) or 1.0)


def _compare(
    metric: str, before: float | None, now: float | None, rule: Rule | None, stored: StoredNoise
) -> Comparison:
    score = find_score(metric)
    if before is None:
        return Comparison(metric, None, now, math.nan, "new")
    best = (score or UNKNOWN).better
    worse = (rule.worse if rule else None) or (_WORSE[best] if isinstance(best, str) else "away")
    size = abs(before) if math.isfinite(before) else 0.0
    if rule is not None or score is None:
        allowed = (rule or UNKNOWN).absolute + (rule or UNKNOWN).relative * size
        return Comparison(metric, before, now, allowed, _judge(metric, before, now, allowed, worse))
    noise = stored.of(metric, score)
    allowed = float(np.fmax(noise, score.absolute + score.relative * size))
    verdict = _judge(metric, before, now, allowed, "none" if worse == "any" else worse)
    if verdict == "worse" and math.isnan(noise) and not is_decisive(metric, score):
        verdict = "moved"
    return Comparison(metric, before, now, allowed, verdict)


def _judge(metric: str, before: float, now: float | None, allowed: float, worse: str) -> Verdict:
    if now is None:
        return "vanished"
    best = (find_score(metric) or UNKNOWN).better
    if math.isnan(before) or math.isnan(now):
        if math.isnan(before) and math.isnan(now):
            return "equal"
        if worse == "none":
            return "moved"
        if math.isnan(now):
            return "vanished"
        return "worse" if worse == "any" else "moved"
    if now == before:
        return "equal"
    if abs(now - before) <= allowed:
        return "within"
    if worse == "none":
        return "moved"
    if worse == "away":
        return "worse" if abs(now - float(best)) > abs(before - float(best)) else "better"
    return "worse" if worse == "any" or (now > before) == (worse == "higher") else "better"
