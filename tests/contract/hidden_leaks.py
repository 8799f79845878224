"""Leaks that hide in positions, caches, files and the environment; and honest parts that look like them.

Classes of a module, so that a fresh process can import them. Those that take candles are given the whole history, as a
careless user's would be.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
from pydantic import Field

from btcbt.records import CLOSE, HIGH, LOW, DataRange
from btcbt.strategies import Params, Strategy


class WithHistory(Strategy):
    """Keeps the history that it is given."""

    uses_forecast = False

    def __init__(self, candles):
        super().__init__()
        self.candles = candles

    def rows(self, forecast):
        """The row of the last known candle, and of the next one where there is one."""
        row = int(np.searchsorted(self.candles.open_time, forecast.window.open_time[-1]))
        return row, min(row + 1, len(self.candles) - 1)

    def enter(self, forecast):
        close = forecast.window.values[:, CLOSE]
        return 1.0 if close[-1] > close[-24] else -1.0 if close[-1] < 0.98 * close[-24] else 0.0


class StopAtTheNextLow(WithHistory):
    """A stop-loss that is one candle off: the low that sets it off is the next candle's."""

    def decide(self, forecast, holding):
        _, ahead = self.rows(forecast)
        if holding.weight > 0 and self.candles.values[ahead, LOW] < 0.995 * forecast.last_close:
            return 0.0
        return self.enter(forecast)


class TargetAtTheNextHigh(WithHistory):
    """A profit target that the next candle's high reaches."""

    def decide(self, forecast, holding):
        _, ahead = self.rows(forecast)
        if holding.weight > 0 and self.candles.values[ahead, HIGH] > 1.005 * forecast.last_close:
            return 0.0
        return self.enter(forecast)


class CoversInTime(WithHistory):
    """Covers a short before the price rises, and looks ahead at no other time."""

    def decide(self, forecast, holding):
        _, ahead = self.rows(forecast)
        if holding.weight < 0 and self.candles.values[ahead, CLOSE] > forecast.last_close:
            return 0.0
        return self.enter(forecast)


class LeavesOldPositionsInTime(WithHistory):
    """Looks ahead in positions that are older than two days alone."""

    def decide(self, forecast, holding):
        _, ahead = self.rows(forecast)
        falls = self.candles.values[ahead, CLOSE] < forecast.last_close
        return 0.0 if holding.candles_held > 48 and falls else self.enter(forecast)


class EntersFlatInTime(WithHistory):
    """Looks ahead where it holds nothing."""

    def decide(self, forecast, holding):
        _, ahead = self.rows(forecast)
        if holding.weight == 0 and self.candles.values[ahead, CLOSE] > forecast.last_close:
            return 1.0
        return self.enter(forecast)


class LooksAheadOnceADay(WithHistory):
    """Looks ahead at midnight alone, which the last origins before an audited one mostly are not."""

    def decide(self, forecast, holding):
        _, ahead = self.rows(forecast)
        falls = self.candles.values[ahead, CLOSE] < forecast.last_close
        return 0.25 if forecast.origin % 86_400_000 == 0 and falls else self.enter(forecast)


class HonestStop(WithHistory):
    """Honest: the stop is set off by the last known low."""

    def decide(self, forecast, holding):
        if holding.weight > 0 and forecast.window.values[-1, LOW] < 0.99 * forecast.window.values[-2, CLOSE]:
            return 0.0
        return self.enter(forecast)


class CachesLevels(WithHistory):
    """Keeps a level that is fitted on the whole history in a file, and reads it from then on."""

    def folder(self):
        raise NotImplementedError

    def decide(self, forecast, holding):
        file = self.folder() / "btcbt-test-level.pkl"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(pickle.dumps(float(np.nanmedian(self.candles.values[:, CLOSE]))))
        level = pickle.loads(file.read_bytes())  # noqa: S301 - a user's own file
        return 1.0 if forecast.last_close > level else 0.0


class CachesAtHome(CachesLevels):
    """In the user's cache folder."""

    def folder(self):
        return Path.home() / ".cache"


class CachesInScratch(CachesLevels):
    """In the folder for temporary files."""

    def folder(self):
        return Path(tempfile.gettempdir())


class FileParams(Params):
    """Where the fitted part lies."""

    path: str = Field(description="file")


class ReadsLevel(Strategy):
    """A level that was fitted elsewhere, on who knows what, read from a file."""

    Params = FileParams
    params: FileParams

    def decide(self, forecast, holding):
        level = float(json.loads(Path(self.params.path).read_text()))
        return 1.0 if forecast.last_close > level else 0.0


class DeclaresLevel(ReadsLevel):
    """Honest: the same, and it says what went into the file."""

    def data_ranges(self):
        return [DataRange("fit", 0, 1_546_300_800_000)]


class DeclaresTestLevel(ReadsLevel):
    """Owns up to a level that was fitted on the origins that it trades at."""

    def data_ranges(self):
        return [DataRange("fit", 0, 1_577_836_800_000)]


class ReadsEnvironment(Strategy):
    """A level in a variable of the environment."""

    uses_forecast = False

    def decide(self, forecast, holding):
        return 1.0 if forecast.last_close > float(os.environ.get("BTCBT_TEST_LEVEL", "nan")) else 0.0


class TossesACoin(Strategy):
    """Random numbers that no seed keys."""

    uses_forecast = False

    def decide(self, forecast, holding):
        return float(np.random.default_rng().uniform(-1, 1))


class CountsInItself(Strategy):
    """Keeps state in its object: the weight falls with every decision."""

    uses_forecast = False

    def __init__(self, params=None):
        super().__init__(params)
        self.decided = 0

    def decide(self, forecast, holding):
        self.decided += 1
        return 1.0 / self.decided


class RefusesJumps(WithHistory):
    """Cannot be built where a price is ten times the one before."""

    def __init__(self, candles):
        super().__init__(candles)
        if (candles.values[1:, CLOSE] > 10 * candles.values[:-1, CLOSE]).any():
            raise ValueError("what a price")

    def decide(self, forecast, holding):
        return self.enter(forecast)


def rules(kinds, candles):
    """Strategies by the names of their classes."""
    made = [globals()[kind] for kind in kinds]
    return {one.__name__: one(candles) if issubclass(one, WithHistory) else one() for one in made}
