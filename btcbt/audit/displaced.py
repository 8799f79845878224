"""The same decisions with all times shifted by 28 years: this finds strategies that look prices up by date.

A strategy with candles of its own (in a file or a table of its module) is not affected by changes to the history.
But it looks them up by time. So each decision is repeated with every time shifted by 28 years, after which the
Gregorian calendar repeats (weekdays, months and leap days, up to 2100), on the same candles and paths: a rule that
uses only its arguments decides the same. Forecasters are not checked this way, since their random numbers are keyed
by the origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from btcbt.audit.components import Components
from btcbt.audit.histories import History, windows_at
from btcbt.audit.stored_paths import StoredPaths
from btcbt.audit.trace import Observation, attempt, decide, decision_paths, newest_paths

DISPLACED = "displaced"
SHIFT_MS = 10_227 * 86_400_000


def observe_displaced(
    history: History, truth: Sequence[Observation], components: Components, stored_paths: StoredPaths, horizon: int
) -> list[Observation]:
    """Decisions up to the audited origin on the true candles and paths, with all times shifted by 28 years."""
    true, point = history.candles, history.point
    later = replace(true, open_time=true.open_time + SHIFT_MS, sha256=f"{true.sha256}:displaced")
    stored = stored_paths.paths(point.origin, components.forecasters(true, point.origin))
    newest = newest_paths(truth, len(point.forecast_origins))
    windows = windows_at(history.windows, point.decision_origins)
    moved = [replace(window, open_time=window.open_time + SHIFT_MS) for window in windows]
    found: list[Observation] = []
    for trader in components.traders(later, tuple(stored)):
        sampled = decision_paths(trader, stored, newest, horizon, len(windows))
        ask = partial(decide, trader, moved, sampled, point.holdings)
        found += attempt("strategy", trader.name, ask, history=history, strict=False)
    return [one if one.error else replace(one, times=one.times - SHIFT_MS) for one in found]
