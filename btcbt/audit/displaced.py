"""The same decisions in another year: what a strategy looks up by date, it does not find there.

A part that has candles of its own (a file that it opens, a table in its module) answers from them whatever is
changed in the history. It looks them up by time, though. So each decision is asked for again with every time
moved by 28 years, after which the Gregorian calendar repeats (weekdays, months and leap days, up to 2100), and
the same candles and paths: a rule that uses its arguments alone decides the same. Forecasters are left out, for
their random numbers are keyed by the origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from btcbt.audit.participants import Participants
from btcbt.audit.scenes import Scene
from btcbt.audit.trace import Observation, attempt, decide, windows_at
from btcbt.config import RunConfig
from btcbt.records import Candles

DISPLACED = "displaced"
SHIFT_MS = 10_227 * 86_400_000


def observe_displaced(
    scene: Scene, truth: Sequence[Observation], config: RunConfig, participants: Participants
) -> list[Observation]:
    """Targets at the true origins, decided 28 years later on the true candles and paths."""
    windows = windows_at(scene.windows, scene.question.asked)
    paths = {one.component: one.values[-len(windows) :] for one in truth if one.field == "paths"}
    true = scene.candles
    later = Candles(true.open_time + SHIFT_MS, true.values, true.interval_ms, true.source, f"{true.sha256}:displaced")
    moved = [replace(window, open_time=window.open_time + SHIFT_MS) for window in windows]
    found: list[Observation] = []
    for trader in participants.traders(later, tuple(paths)):
        ask = partial(decide, trader, moved, paths, config.windows.horizon)
        found += attempt("strategy", trader.name, ask, scene=scene, strict=False)
    return [one if one.error else replace(one, times=one.times - SHIFT_MS) for one in found]
