"""Parts with a look-ahead planted into each, written as a careless user would; and honest ones beside them.

Functions and classes of a module, so that a fresh process can import them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from btcbt.candles import make_candles, read_candles
from btcbt.forecasters.calibrated import Calibrated
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.portfolio import simulate
from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, Candles, DataRange, ForecastBatch, Window
from btcbt.strategies import Params, Strategy
from btcbt.windows import Windows, contamination, make_windows, plan_refits

CONTEXT, HORIZON, N_PATHS, SEED = 48, 6, 4, 3
AMOUNT = 5


# -- candles: what a preparation may get wrong ------------------------------------------------------------


def with_column(candles, column, values):
    """The same candles with one channel replaced (users smuggle features in as `amount` or `volume`)."""
    changed = candles.values.copy()
    changed[:, column] = values
    return Candles(candles.open_time, changed, candles.interval_ms, candles.source, candles.sha256)


def frame(candles):
    index = pd.to_datetime(candles.open_time, unit="ms", utc=True)
    return pd.DataFrame(candles.values, index=index, columns=list("ohlcva"))


def centred_mean(candles):
    smooth = frame(candles)["v"].rolling(25, center=True, min_periods=1).mean()
    return with_column(candles, VOLUME, smooth.to_numpy())


def trailing_mean(candles):
    """Honest: the same mean over the past."""
    return with_column(candles, VOLUME, frame(candles)["v"].rolling(25, min_periods=1).mean().to_numpy())


def left_labelled_resample(candles):
    """The volume of the 4h bar, written on the hours by the label of its start: visible before it closes."""
    table = frame(candles)
    bars = table["v"].resample("4h", label="left").sum()
    return with_column(candles, VOLUME, bars.reindex(table.index, method="ffill").to_numpy())


def right_labelled_resample(candles):
    """Honest: a bar is joined to hours that open when it has closed."""
    table = frame(candles)
    bars = table["v"].resample("4h", label="right", closed="left").sum()
    return with_column(candles, VOLUME, bars.reindex(table.index, method="ffill").fillna(0.0).to_numpy())


def same_day_merge(candles):
    """The daily close, merged on the date."""
    table = frame(candles)
    daily = table["c"].groupby(table.index.date).last()
    return with_column(candles, AMOUNT, daily.reindex(table.index.date).to_numpy())


def next_return(candles):
    """The target of the regression left among its features, by a shift in the wrong direction."""
    return with_column(candles, AMOUNT, frame(candles)["c"].pct_change().shift(-1).abs().fillna(0.0).to_numpy())


def fourier_filter(candles):
    spectrum = np.fft.rfft(np.log(candles.values[:, CLOSE]))
    spectrum[len(spectrum) // 8 :] = 0
    close = np.exp(np.fft.irfft(spectrum, n=len(candles)))
    changed = candles.values.copy()
    changed[:, CLOSE] = close
    changed[:, HIGH] = np.maximum(changed[:, HIGH], close)
    changed[:, LOW] = np.minimum(changed[:, LOW], close)
    return Candles(candles.open_time, changed, candles.interval_ms, candles.source, candles.sha256)


def winsorise(candles):
    volume = candles.values[:, VOLUME]
    return with_column(candles, VOLUME, np.clip(volume, *np.quantile(volume, [0.05, 0.95])))


def standardise_everything(candles):
    volume = candles.values[:, VOLUME]
    return with_column(candles, VOLUME, np.abs(volume - volume.mean()) / volume.std())


def _on_whole_grid(candles, method):
    table = frame(candles)
    grid = pd.date_range(table.index[0], table.index[-1], freq="1h")
    filled = getattr(table.reindex(grid), method)()
    times = filled.index.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    return make_candles(times, filled.to_numpy(), interval="1h", source=candles.source)


def backward_fill(candles):
    return _on_whole_grid(candles, "bfill")


def forward_fill(candles):
    """Honest with respect to time, whatever else may be said of it."""
    return _on_whole_grid(candles, "ffill")


def read_revised(config):
    """A feed to which corrected candles are appended days later, as some vendors do."""
    candles = read_candles(config.path, config.interval)
    step, rows = 24, np.arange(200, len(candles) - 200, 7)
    order = np.argsort(np.concatenate([np.arange(len(candles)), rows + step + 0.5]), kind="stable")
    revised = candles.values[rows].copy()
    revised[:, VOLUME] *= 1.5
    times = np.concatenate([candles.open_time, candles.open_time[rows]])[order]
    return Candles(times, np.concatenate([candles.values, revised])[order], candles.interval_ms, "revised feed")


def _one_row_each(candles, keep):
    table = frame(candles).assign(time=candles.open_time)
    table = table.sort_values("time", kind="stable").drop_duplicates("time", keep=keep)
    return make_candles(table.pop("time").to_numpy(), table.to_numpy(), interval="1h", source=candles.source)


def keep_last_revision(candles):
    return _one_row_each(candles, "last")


def keep_first_revision(candles):
    """Honest: what was known at the time."""
    return _one_row_each(candles, "first")


CALLS: list[Candles] = []


def scale_by_first_call(candles):
    """Statistics of the first history that it met, kept in a global of the module."""
    CALLS.append(candles)
    return with_column(candles, VOLUME, candles.values[:, VOLUME] / CALLS[0].values[:, VOLUME].mean())


# -- windows: what a split may get wrong ------------------------------------------------------------------


def _replace(windows, **changes):
    fields = {name: getattr(windows, name) for name in Windows.__dataclass_fields__}
    return Windows(**{**fields, **changes})


def off_by_one(candles, config, reach):
    windows = make_windows(candles, config, context=reach)
    return _replace(windows, last=np.minimum(windows.last + 1, len(candles) - 1))


def _keep(windows, keep):
    names = ("origins", "last", "scored")
    return _replace(windows, **{name: getattr(windows, name)[keep] for name in names})


def without_future_gaps(candles, config, reach):
    """Only origins whose outcome is whole: a gap to come removes the decision before it."""
    windows = make_windows(candles, config, context=reach)
    return _keep(windows, windows.scored)


def without_crashes(candles, config, reach):
    """Outliers removed from the test set."""
    windows = make_windows(candles, config, context=reach)
    close = candles.values[:, CLOSE]
    ahead = np.minimum(windows.last + 1, len(candles) - 1)
    return _keep(windows, np.abs(np.log(close[ahead] / close[windows.last])) < 0.03)


# -- refits: what they are fitted on -----------------------------------------------------------------------


def refits_up_to_their_end(candles, config, refit):
    """Each refit is selected on the very candles that it forecasts."""
    return tuple(
        _period(candles, one, one.train, (one.select[0], one.end)) for one in plan_refits(candles, config, refit)
    )


def refits_on_shifted_candles(candles, config, refit):
    """The dates are right, the values are those of ten days later."""
    ahead = 240
    moved = Candles(candles.open_time[:-ahead], candles.values[ahead:], candles.interval_ms, candles.source)
    return plan_refits(moved, config, refit)


def refits_without_embargo(candles, config, refit):
    """Each refit is selected on candles right before the origins that it serves."""
    return tuple(
        _period(candles, one, one.train, (one.select[0], one.start)) for one in plan_refits(candles, config, refit)
    )


def _period(candles, period, train, select):
    rows = slice(*np.searchsorted(candles.open_time, (train[0], select[1])))
    part = Candles(candles.open_time[rows], candles.values[rows], candles.interval_ms, candles.source)
    return replace(period, train=train, select=select, candles=part)


# -- forecasters ------------------------------------------------------------------------------------------


def walk():
    return {"context": CONTEXT, "horizon": HORIZON, "n_paths": N_PATHS, "seed": SEED}


class FromHistory(RandomWalk):
    """A random walk that was given the whole history when it was built."""

    def __init__(self, candles):
        super().__init__(**walk())
        self.candles = candles

    def row(self, window):
        return int(np.searchsorted(self.candles.open_time, window.open_time[-1]))

    def tilt(self, windows):
        """A factor on the paths for each window."""
        return np.ones(len(windows))

    def forecast(self, windows):
        batch = super().forecast(windows)
        tilt = np.asarray(self.tilt(windows), dtype=np.float32)[:, None, None, None]
        return ForecastBatch(batch.origins, batch.paths * tilt, batch.provenance)


class Honest(FromHistory):
    """Keeps the history, and looks at its past alone."""

    def tilt(self, windows):
        rows = [self.row(window) for window in windows]
        return [1 + 0.01 * np.diff(np.log(self.candles.values[: row + 1, CLOSE])).mean() for row in rows]


class ScaledOverHorizon(FromHistory):
    """Normalises context and horizon together, as the reference's fine-tuning does."""

    def scaling(self, windows):
        rows = [self.row(window) for window in windows]
        return [self.candles.values[row - CONTEXT + 1 : row + HORIZON + 1].mean(axis=0) for row in rows]

    def tilt(self, windows):
        means = np.array(self.scaling(windows))[:, CLOSE]
        return means / [window.values[:, CLOSE].mean() for window in windows]


class ScaledOnEverything(FromHistory):
    """A scaler fitted before the split."""

    def scaling(self, windows):
        return np.tile(np.nanstd(self.candles.values, axis=0), (len(windows), 1))

    def tilt(self, windows):
        return 1 + 1e-6 * self.scaling(windows)[:, VOLUME]


class DriftOfEverything(FromHistory):
    """Fitted on the whole file, test range included."""

    def tilt(self, windows):
        close = self.candles.values[:, CLOSE]
        return np.full(len(windows), (close[-1] / close[0]) ** (1 / len(close)))


class NearestFeature(FromHistory):
    """A merge of half-hour features by nearest time; every other one lies ahead."""

    def tilt(self, windows):
        close = self.candles.values[:, CLOSE]
        ahead = [min(self.row(window) + 1, len(close) - 1) for window in windows]
        return [close[row] / window.last_close for row, window in zip(ahead, windows, strict=True)]


class BatchNormalised(FromHistory):
    """Scales by the mean of the batch, in which later windows lie."""

    def tilt(self, windows):
        level = np.mean([window.last_close for window in windows])
        return 1 + 0.01 * np.array([window.last_close / level - 1 for window in windows])


class CachedByIndex(FromHistory):
    """Features of the whole history, computed once for the process and looked up by row."""

    features = None

    def __init__(self, candles):
        super().__init__(candles)
        if CachedByIndex.features is None:
            trend = frame(candles)["c"].pct_change(3).shift(-3).fillna(0.0)
            CachedByIndex.features = trend.to_numpy()

    def tilt(self, windows):
        rows = [min(self.row(window), len(self.features) - 1) for window in windows]
        return 1 + 0.1 * self.features[rows]


class CountsCalls(FromHistory):
    """Keeps a running state over its calls: the second answer is not the first."""

    calls = 0

    def tilt(self, windows):
        self.calls += 1
        return np.full(len(windows), 1 + 1e-5 * self.calls)


class Corrects(FromHistory):
    """A forecaster that corrects another one along the walk."""

    def __init__(self, candles):
        super().__init__(candles)
        self.base = RandomWalk(**walk())

    def factor(self, window, windows):
        return 1.0

    def follow(self, windows, batches):
        asked = list(windows)
        start = 0
        for batch in batches:
            part = asked[start : start + len(batch)]
            start += len(batch)
            factors = np.array([self.factor(window, asked) for window in part], dtype=np.float32)
            yield ForecastBatch(batch.origins, batch.paths * factors[:, None, None, None])


class SeesOutcome(Corrects):
    """Learns from the outcome of the very forecast that it corrects."""

    def factor(self, window, windows):
        row = min(self.row(window) + HORIZON, len(self.candles) - 1)
        return 1 + 0.01 * (self.candles.values[row, CLOSE] / window.last_close - 1)


class TooEarly:
    """A postprocessor of the project, wired to candles from after the origin."""

    def __init__(self, candles):
        super().__init__(RandomWalk(**walk()))
        self.candles = candles

    def follow(self, windows, batches):
        return super().follow(map(self.early, windows), batches)

    def early(self, window):
        row = int(np.searchsorted(self.candles.open_time, window.open_time[-1]))
        rows = np.minimum(np.arange(row - CONTEXT + 1, row + 1) + HORIZON, len(self.candles) - 1)
        return Window(window.open_time, self.candles.values[rows], window.interval_ms)


class LearnsTooEarly(TooEarly, Calibrated):
    """A calibrator."""


class CorrectsTheWholeWalk(Corrects):
    """Fits one correction on all origins of the walk."""

    def factor(self, window, windows):
        return 1 + 1e-3 * windows[-1].values[-5:, CLOSE].std() / window.last_close


class Trained(FromHistory):
    """Weights that looked at candles up to the middle of the walk."""

    def data_ranges(self):
        start, end = int(self.candles.open_time[0]), int(self.candles.open_time[0]) + 40 * 86_400_000
        return (DataRange("fit", start, end),)


class Undeclared(FromHistory):
    """Nobody knows what it was trained on."""

    def data_ranges(self):
        return None


def build(kinds, candles):
    """Forecasters by the names of their classes."""
    return {kind: globals()[kind](candles) for kind in kinds}


def label_by_start(origins, ranges):
    """Wrong: asks whether the origin comes after the training began."""
    labels = contamination(origins, ranges)
    begun = max((part.start for part in ranges or ()), default=0)
    return np.where(origins >= begun, "clean", labels)


def label_clean(origins, ranges):
    return np.full(len(origins), "clean")


# -- strategies -------------------------------------------------------------------------------------------


class Base(Strategy):
    """Decides by something that it works out once from the history that it is given."""

    uses_forecast = False

    def __init__(self, candles):
        super().__init__()
        self.candles = candles

    def row(self, forecast):
        return int(np.searchsorted(self.candles.open_time, forecast.window.open_time[-1]))


class HonestRule(Base):
    """Looks at the past of the history that it keeps."""

    def decide(self, forecast, holding):
        close = self.candles.values[: self.row(forecast) + 1, CLOSE]
        return float(np.clip(0.5 + 10 * np.log(close[-1] / close[-5]), -1, 1))


HISTORY: list[Candles] = []


class KeepsGlobal(Base):
    """The candles in a global of the module, loaded once."""

    def __init__(self, candles):
        super().__init__(candles)
        if not HISTORY:
            HISTORY.append(candles)

    def decide(self, forecast, holding):
        known = HISTORY[0]
        row = int(np.searchsorted(known.open_time, forecast.window.open_time[-1]))
        later = known.values[min(row + 3, len(known) - 1), CLOSE]
        return float(np.clip(50 * np.log(later / forecast.last_close), -1, 1))


SEEN: dict[int, float] = {}


class Remembers(Base):
    """Writes down every close that it meets, and looks whether it has met the next one before."""

    def decide(self, forecast, holding):
        SEEN.update(zip(forecast.window.open_time.tolist(), forecast.window.values[:, CLOSE].tolist(), strict=True))
        coming = SEEN.get(forecast.origin, forecast.last_close)
        return float(np.sign(coming - forecast.last_close))


class TunedOnTest(Base):
    """The threshold that would have paid best over the whole history."""

    def __init__(self, candles):
        super().__init__(candles)
        returns = np.diff(np.log(candles.values[:, CLOSE]))
        gains = [(returns[1:] * (returns[:-1] > level)).sum() for level in self.levels]
        self.level = self.levels[int(np.nanargmax(gains))] if np.isfinite(gains).any() else 0.0

    levels = np.linspace(-0.004, 0.004, 41)

    def decide(self, forecast, holding):
        return float(np.clip(0.5 + 100 * self.level, -1, 1))


class FileParams(Params):
    """Where the candles lie."""

    path: str = Field(description="Parquet file")


class ReadsTheFile(Strategy):
    """Reads the candles by itself, with a library whose compiled code opens the file."""

    uses_forecast = False
    Params = FileParams
    params: FileParams

    def close_at(self, time):
        table = pd.read_parquet(Path(self.params.path)).set_index("open_time")["close"]
        return table.get(pd.Timestamp(time, unit="ms", tz="UTC"))

    def decide(self, forecast, holding):
        coming = self.close_at(forecast.origin)
        return 0.0 if coming is None else float(np.sign(coming - forecast.last_close))


class ReadsThroughPython(ReadsTheFile):
    """The same through the package's own reader; it looks at the last candle of all, by no date."""

    def close_at(self, time):
        return read_candles(self.params.path).values[-1, CLOSE]


def rules(kinds, candles):
    """Strategies by the names of their classes."""
    made = [globals()[kind] for kind in kinds]
    return {one.__name__: one(candles) if issubclass(one, Base) else one() for one in made}


# -- executions -------------------------------------------------------------------------------------------


def same_bar(candles, origins, targets, names, config):
    """Fills in the candle that was decided on."""
    return simulate(candles, origins - candles.interval_ms, targets, names, config)


def at_current_close(candles, origins, targets, names, config):
    """Fills at the close that was decided on."""
    changed = candles.values.copy()
    changed[1:, OPEN] = candles.values[:-1, CLOSE]
    moved = Candles(candles.open_time, changed, candles.interval_ms)
    return simulate(moved, origins, targets, names, config)


def at_best_price(candles, origins, targets, names, config):
    """Buys at the low of the next candle."""
    changed = candles.values.copy()
    changed[:, OPEN] = candles.values[:, LOW]
    return simulate(Candles(candles.open_time, changed, candles.interval_ms), origins, targets, names, config)


def skips_losers(candles, origins, targets, names, config):
    """Sends only the orders that the next candles reward."""
    rows = np.searchsorted(candles.open_time, origins)
    close = candles.values[:, CLOSE]
    ahead = close[np.minimum(rows + 3, len(close) - 1)] > close[np.minimum(rows, len(close) - 1)]
    return simulate(candles, origins, np.where(ahead[:, None], targets, np.nan), names, config)
