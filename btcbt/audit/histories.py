"""Audited origins, and the true and changed histories that they are audited on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from btcbt.audit.changes import ALL_NAN, TRUNCATE, change_future
from btcbt.config import RunConfig, WindowsConfig
from btcbt.records import Candles, FloatArray, Holding, IntArray, Window
from btcbt.walkforward.registration import until_now
from btcbt.walkforward.stages import Stages
from btcbt.windows import Windows

FORECAST_ORIGINS = 2
"""Newest origins, up to the audited one, whose forecasts are compared."""
LATER_ORIGINS = 1
"""Later origins in the same forecast call: they expose a forecaster that mixes the windows of a batch."""
ACCOUNT_ORIGINS = 48
"""Newest origins, up to the audited one, over which accounts are simulated."""
DECISION_ORIGINS = 100
"""Newest origins, up to the audited one, at which strategies decide: enough for exits, stops and warm-ups."""
MAX_CANDLES_HELD = 200
"""Longest age of a drawn holding."""
EXTRA_HOLDINGS = 12
"""Further holdings that are drawn for the audited origin itself."""
PROBES = ("probe long", "probe both")
"""Accounts with random targets, so that there are always fills to compare."""


@dataclass(frozen=True, slots=True, eq=False)
class AuditPoint:
    """An audited origin, and the origins before it at which components are compared.

    Attributes
    ----------
    origin : int
        ms UTC; candles after it are changed.
    forecast_origins : int64
        The last `FORECAST_ORIGINS` up to `origin`.
    calibration_origins : int64
        For forecasters that learn online: these, and some before them whose outcomes are known in part or in full.
    later_origins : int64
        The next `LATER_ORIGINS` after `origin`.
    account_origins : int64
        The last `ACCOUNT_ORIGINS` up to `origin`.
    decision_origins : int64
        The last `DECISION_ORIGINS` up to `origin`.
    probes : float64 (len(account_origins), len(PROBES))
        Targets of the probe accounts.
    holdings : tuple of Holding
        A drawn holding for each of `decision_origins`, and more for the last; see `draw_holdings`.
    """

    origin: int
    forecast_origins: IntArray
    calibration_origins: IntArray
    later_origins: IntArray
    account_origins: IntArray
    decision_origins: IntArray
    probes: FloatArray
    holdings: tuple[Holding, ...]

    @classmethod
    def at(cls, origin: int, windows: Windows, seed: int) -> AuditPoint:
        """The audit point at an origin of the true windows."""
        true = windows.origins
        stop = int(np.searchsorted(true, origin)) + 1
        account = true[max(stop - ACCOUNT_ORIGINS, 0) : stop]
        rng = np.random.Generator(np.random.Philox(key=[seed, origin % 2**64]))
        probes = rng.uniform(-1, 1, (len(account), len(PROBES)))
        probes[:, 0] = np.abs(probes[:, 0])
        newest, later = true[max(stop - FORECAST_ORIGINS, 0) : stop], true[stop : stop + LATER_ORIGINS]
        ago = windows.horizon // np.array([1, 2]) * windows.candles.interval_ms
        before = [true[(true >= origin - 2 * span) & (true <= origin - span)][-1:] for span in ago]
        first = true[true >= origin - 2 * windows.horizon * windows.candles.interval_ms][:1]
        calibration = np.unique(np.concatenate([first, *before, newest]))
        decisions = true[max(stop - DECISION_ORIGINS, 0) : stop]
        return cls(origin, newest, calibration, later, account, decisions, probes, draw_holdings(decisions, seed))


def draw_holdings(origins: IntArray, seed: int) -> tuple[Holding, ...]:
    """Draw a holding for each origin, and `EXTRA_HOLDINGS` more for the last one, keyed by seed and origin.

    Flat, long and short alternate. The candle after the last origin is the first that is changed, so a rule that uses
    it is most likely to show it there, in one of these positions.
    """
    drawn = []
    for turn, origin in enumerate([*origins.tolist(), *origins[-1:].tolist() * EXTRA_HOLDINGS]):
        rng = np.random.Generator(np.random.Philox(key=[seed + 1, (origin + turn) % 2**64]))
        weight, held = rng.uniform(0.05, 1), rng.integers(MAX_CANDLES_HELD)
        drawn.append(Holding(float((0.0, 1.0, -1.0)[turn % 3] * weight), int(held)))
    return tuple(drawn)


def windows_at(windows: Windows, origins: IntArray) -> list[Window]:
    """The windows at those of the given origins that exist in `windows`."""
    rows = np.searchsorted(windows.origins, origins)
    inside = np.minimum(rows, max(len(windows.origins) - 1, 0))
    if not len(windows.origins):
        return []
    return [windows[int(row)] for row in inside[windows.origins[inside] == origins]]


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """A prepared and split history, true or changed, and the origin audited on it."""

    point: AuditPoint
    candles: Candles
    windows: Windows


class Histories:
    """The true history of an experiment, and the changed ones.

    `study` is the experiment as it was given, `config` the same with its window cut to the candles that exist (see
    `until_now`), `reach` is the longest context of all forecasters: the candles required before an origin.
    """

    def __init__(self, config: RunConfig, stages: Stages, seed: int) -> None:
        self.stages, self.seed = stages, seed
        self.raw = stages.raw(config.candles)
        self.study, self.config = config, until_now(config, self.raw)
        self.reach = config.windows.context

    @cached_property
    def candles(self) -> Candles:
        """The true history, prepared."""
        return self.stages.prepared(self.raw)

    @cached_property
    def windows(self) -> Windows:
        """The true windows."""
        return self._split(self.candles, self.config.windows)

    def true(self, point: AuditPoint) -> History:
        """The true history at an audited origin."""
        return History(point, self.candles, self.windows)

    def true_until(self, point: AuditPoint) -> History:
        """The true history with the range of the experiment ending at the audited origin."""
        return History(point, self.candles, self._split(self.candles, self._until(point.origin)))

    def changed(self, point: AuditPoint, change: str) -> History:
        """The history with the candles after the audited origin changed."""
        origin = point.origin
        # Preparation would reject NaN candles, so this change is made after it.
        if change == ALL_NAN:
            candles = change_future(self.candles, origin, change, self.seed)
        else:
            candles = self.stages.prepared(change_future(self.raw, origin, change, self.seed))
        asked = self._until(origin) if change == TRUNCATE else self.config.windows
        return History(point, candles, self._split(candles, asked))

    def _split(self, candles: Candles, asked: WindowsConfig) -> Windows:
        return self.stages.windows(candles, asked, self.reach)

    def _until(self, origin: int) -> WindowsConfig:
        end = datetime.fromtimestamp((origin + self.candles.interval_ms) / 1000, UTC)
        return self.config.windows.model_copy(update={"end": min(end, self.config.windows.end)})
