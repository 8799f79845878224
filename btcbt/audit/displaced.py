"""The same decisions in another year: what a strategy looks up by date, it does not find there.

A part that has candles of its own (a file that it opens, a table in its module) answers from them whatever is
changed in the history. It looks them up by time, though. So each decision is asked for again with every time
moved by 28 years, after which the Gregorian calendar repeats (weekdays, months and leap days, up to 2100), and
the same candles and paths: a rule that uses its arguments alone decides the same. Forecasters are left out, for
their random numbers are keyed by the origin.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from btcbt.audit.participants import Participants
from btcbt.audit.scenes import Scene, windows_at
from btcbt.audit.trace import Observation, attempt, decide
from btcbt.audit.trail import Trails
from btcbt.records import CHANNELS, Candles

DISPLACED = "displaced"
SHIFT_MS = 10_227 * 86_400_000


def observe_displaced(scene: Scene, participants: Participants, trails: Trails, horizon: int) -> list[Observation]:
    """Decisions on the way to the origin, made 28 years later on the true candles and paths."""
    true, question = scene.candles, scene.question
    later = Candles(true.open_time + SHIFT_MS, true.values, true.interval_ms, true.source, f"{true.sha256}:displaced")
    paths = trails.paths(question.origin, participants.forecasters(true, question.origin))
    windows = windows_at(scene.windows, question.trail)
    moved = [replace(window, open_time=window.open_time + SHIFT_MS) for window in windows]
    none = np.empty((len(windows), 0, horizon, len(CHANNELS)), dtype=np.float32)
    found: list[Observation] = []
    for trader in participants.traders(later, tuple(paths)):
        sampled = none if trader.forecaster is None else paths[trader.forecaster]
        ask = partial(decide, trader, moved, sampled, question.holdings)
        found += attempt("strategy", trader.name, ask, scene=scene, strict=False)
    return [one if one.error else replace(one, times=one.times - SHIFT_MS) for one in found]
