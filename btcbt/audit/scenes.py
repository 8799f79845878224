"""What is asked at an origin, and of which history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from btcbt.audit.worlds import BROKEN, SHORT, change_future
from btcbt.config import RunConfig, WindowsConfig
from btcbt.records import Candles, FloatArray, Holding, IntArray, Window
from btcbt.walkforward.stages import Stages
from btcbt.windows import Windows

TAIL = 2
"""Origins, up to the audited one, at which forecasts and decisions are asked for."""
COMPANIONS = 1
"""Later origins of the same call: a forecaster that mixes the windows of a batch shows itself."""
ACCOUNT = 48
"""Origins, up to the audited one, over which the accounts run."""
TRAIL = 100
"""Origins, up to the audited one, at which strategies decide: exits, stops and warm-ups show on the way."""
MAX_CANDLES_HELD = 200
"""Of a drawn holding."""
AT_THE_END = 12
"""More holdings that are drawn for the audited origin itself."""
PROBES = ("probe long", "probe both")
"""Accounts of random targets, so that there are fills to compare whatever the strategies do."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked at one origin of every history.

    Attributes
    ----------
    origin : int
        ms UTC; what follows it is changed.
    asked, learned, companions, account, trail : int64
        Origins of the true history: the last `TAIL` up to `origin`; for forecasters that learn as they go, those
        and some before them, whose outcomes are known in part and in full; the next `COMPANIONS` after it; and the
        last `ACCOUNT` up to it; and the last `TRAIL` up to it, at which strategies decide.
    probes : float64 (len(account), len(PROBES))
        Targets of the probes.
    holdings : tuple of Holding
        A drawn holding for each origin of `trail`, and more for its last; see `draw_holdings`.
    """

    origin: int
    asked: IntArray
    learned: IntArray
    companions: IntArray
    account: IntArray
    trail: IntArray
    probes: FloatArray
    holdings: tuple[Holding, ...]

    @classmethod
    def at(cls, origin: int, windows: Windows, seed: int) -> Question:
        """The question at an origin of the true windows."""
        true = windows.origins
        stop = int(np.searchsorted(true, origin)) + 1
        account = true[max(stop - ACCOUNT, 0) : stop]
        rng = np.random.Generator(np.random.Philox(key=[seed, origin % 2**64]))
        probes = rng.uniform(-1, 1, (len(account), len(PROBES)))
        probes[:, 0] = np.abs(probes[:, 0])
        asked, companions = true[max(stop - TAIL, 0) : stop], true[stop : stop + COMPANIONS]
        ago = windows.horizon // np.array([1, 2]) * windows.candles.interval_ms
        before = [true[(true >= origin - 2 * span) & (true <= origin - span)][-1:] for span in ago]
        first = true[true >= origin - 2 * windows.horizon * windows.candles.interval_ms][:1]
        learned = np.unique(np.concatenate([first, *before, asked]))
        trail = true[max(stop - TRAIL, 0) : stop]
        return cls(origin, asked, learned, companions, account, trail, probes, draw_holdings(trail, seed))


def draw_holdings(origins: IntArray, seed: int) -> tuple[Holding, ...]:
    """Draw a holding for each origin, and `AT_THE_END` more for the last one, keyed by seed and origin.

    Flat, long and short take turns. The candle after the last origin is the first that is changed, so what a rule does
    with it must show there, whatever it holds.
    """
    drawn = []
    for turn, origin in enumerate([*origins.tolist(), *origins[-1:].tolist() * AT_THE_END]):
        rng = np.random.Generator(np.random.Philox(key=[seed + 1, (origin + turn) % 2**64]))
        weight, held = rng.uniform(0.05, 1), rng.integers(MAX_CANDLES_HELD)
        drawn.append(Holding(float((0.0, 1.0, -1.0)[turn % 3] * weight), int(held)))
    return tuple(drawn)


def windows_at(windows: Windows, origins: IntArray) -> list[Window]:
    """The windows of those origins that there are."""
    rows = np.searchsorted(windows.origins, origins)
    inside = np.minimum(rows, max(len(windows.origins) - 1, 0))
    if not len(windows.origins):
        return []
    return [windows[int(row)] for row in inside[windows.origins[inside] == origins]]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A question, and the prepared and split history of which it is asked."""

    question: Question
    candles: Candles
    windows: Windows


class Histories:
    """The true history of an experiment, and its changed ones.

    `reach` is the context of the forecaster that looks back farthest: what must lie before an origin.
    """

    def __init__(self, config: RunConfig, stages: Stages, seed: int) -> None:
        self.config, self.stages, self.seed = config, stages, seed
        self.raw = stages.raw(config.candles)
        self.reach = config.windows.context

    @cached_property
    def candles(self) -> Candles:
        """The true history, prepared."""
        return self.stages.prepared(self.raw)

    @cached_property
    def windows(self) -> Windows:
        """The true windows."""
        return self._split(self.candles, self.config.windows)

    def true(self, question: Question) -> Scene:
        """The question asked of the true history."""
        return Scene(question, self.candles, self.windows)

    def true_until(self, question: Question) -> Scene:
        """The same of an experiment whose range ends at the origin."""
        return Scene(question, self.candles, self._split(self.candles, self._until(question.origin)))

    def changed(self, question: Question, world: str) -> Scene:
        """The question asked of a history with another future."""
        origin = question.origin
        # What is no candle would be refused where candles are made, so that world begins after it.
        if world == BROKEN:
            candles = change_future(self.candles, origin, world, self.seed)
        else:
            candles = self.stages.prepared(change_future(self.raw, origin, world, self.seed))
        asked = self._until(origin) if world == SHORT else self.config.windows
        return Scene(question, candles, self._split(candles, asked))

    def _split(self, candles: Candles, asked: WindowsConfig) -> Windows:
        return self.stages.windows(candles, asked, self.reach)

    def _until(self, origin: int) -> WindowsConfig:
        end = datetime.fromtimestamp((origin + self.candles.interval_ms) / 1000, UTC)
        return self.config.windows.model_copy(update={"end": min(end, self.config.windows.end)})
