"""What is asked at an origin, and of which history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from btcbt.audit.worlds import BROKEN, SHORT, change_future
from btcbt.config import RunConfig, WindowsConfig
from btcbt.records import Candles, FloatArray, IntArray
from btcbt.walkforward.stages import Stages
from btcbt.windows import Windows

TAIL = 2
"""Origins, up to the audited one, at which forecasts and decisions are asked for."""
COMPANIONS = 1
"""Later origins of the same call: a forecaster that mixes the windows of a batch shows itself."""
ACCOUNT = 48
"""Origins, up to the audited one, over which the accounts run."""
PROBES = ("probe long", "probe both")
"""Accounts of random targets, so that there are fills to compare whatever the strategies do."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked at one origin of every history.

    Attributes
    ----------
    origin : int
        ms UTC; what follows it is changed.
    asked, learned, companions, account : int64
        Origins of the true history: the last `TAIL` up to `origin`; for forecasters that learn as they go, those
        and some before them, whose outcomes are known in part and in full; the next `COMPANIONS` after it; and the
        last `ACCOUNT` up to it.
    probes : float64 (len(account), len(PROBES))
        Targets of the probes.
    """

    origin: int
    asked: IntArray
    learned: IntArray
    companions: IntArray
    account: IntArray
    probes: FloatArray

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
        return cls(origin, asked, learned, companions, account, probes)


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
