"""Whether the verdict of an audit applies to a run: the same files and the same decisions.

A verdict is stored under the digest of a run, which covers its configuration, candles, weights and sources. Files that
a component imports late or reads are not part of that digest. So the audit lists the files and some decisions, and a
run carries the verdict only if those files are unchanged and its strategies make the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from btcbt.config import time_text
from btcbt.errors import StrategyError
from btcbt.files import file_digest
from btcbt.records import CHANNELS, Float32Array, FloatArray, Forecast, Holding, IntArray
from btcbt.walkforward.decisions import decide_from
from btcbt.walkforward.traders import Trader
from btcbt.windows import Windows

Decision = Mapping[str, Any]
"""``trader``, ``origin`` (ms UTC), ``weight`` and ``candles_held`` of the holding, and the ``target``."""
PathsAt = Callable[[str, int], Float32Array]
"""Forecaster and row of the windows to its stored paths (S, H, 6)."""


def outdated(
    files: Mapping[str, str], decisions: Iterable[Decision], traders: Sequence[Trader], windows: Windows, paths: PathsAt
) -> str | None:
    """Why a verdict does not apply to a run; None if it does.

    Parameters
    ----------
    files : mapping of str to str
        Paths and SHA-256 digests at the time of the audit.
    decisions : iterable of mapping
        Decisions of the strategies in the audit.
    traders : sequence of Trader
        The strategies of the run.
    windows : Windows
        The origins of the run.
    paths : callable
        The forecasts of the run.
    """
    for file, digest in files.items():
        if file_digest(Path(file)) != digest:
            return f"{Path(file).name} has changed"
    by_name = {trader.name: trader for trader in traders}
    for one in decisions:
        when = f"{one['trader']} at {time_text(int(one['origin']))}"
        trader, row = by_name.get(one["trader"]), int(np.searchsorted(windows.origins, one["origin"]))
        if trader is None or row == len(windows) or windows.origins[row] != one["origin"]:
            return f"{when} is not in the run"
        sampled = np.empty((0, windows.horizon, len(CHANNELS)), dtype=np.float32)
        if trader.forecaster is not None:
            sampled = paths(trader.forecaster, row)
        holding = Holding(float(one["weight"]), int(one["candles_held"]))
        try:
            target = decide_from(trader.strategy, [Forecast(windows[row], sampled)], [holding], trader.name)[0]
        except StrategyError as error:
            return str(error)
        if not np.isclose(target, one["target"], rtol=1e-6, atol=1e-9):
            return f"{when} decides {target:.6g}, not {float(one['target']):.6g}"
    return None


def decisions_of_run(
    name: str,
    origins: IntArray,
    targets: FloatArray,
    interval_ms: int,
    asked: IntArray,
    closed: IntArray | None = None,
) -> Iterator[Decision]:
    """Decisions of a trader of a finished run at some of its origins, with its holding there.

    Parameters
    ----------
    name : str
        Name of the trader.
    origins, targets : int64 (M,), float64 (M,)
        All of its decisions; origins in ms UTC.
    interval_ms : int
        Length of a candle.
    asked : int64
        Origins to return.
    closed : int64 (M,), optional
        As of `btcbt.walkforward.decisions.decide_all`.
    """
    weight, since, wanted = 0.0, int(origins[0]), set(asked.tolist())
    times = np.zeros_like(origins) if closed is None else closed
    for origin, target, time in zip(origins.tolist(), targets.tolist(), times.tolist(), strict=True):
        if time and weight:
            weight, since = 0.0, time
        if origin in wanted:
            held = (origin - since) // interval_ms
            yield {"trader": name, "origin": origin, "weight": weight, "candles_held": held, "target": target}
        if np.sign(target) != np.sign(weight):
            since = origin
        weight = target
