"""A forecaster that calibrates another one online, by the errors of its earlier forecasts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from btcbt.config import WindowsConfig
from btcbt.forecasters.base import Forecaster, Postprocessor, change_in_order
from btcbt.forecasters.candle_paths import LARGEST, SMALLEST
from btcbt.forecasters.conformal import Adjustment, Calibration, OrderStatistics, QuantileSummary, Rates, adjust
from btcbt.records import (
    AMOUNT,
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    VOLUME,
    DataRange,
    Float32Array,
    FloatArray,
    ForecastBatch,
    PathKind,
    Window,
)

_CHANNELS = 5  # open, high, low, close, volume; amount follows them
_CHUNK = 64  # origins calibrated at once: bounds the float64 copies


LOOKED_AT = DataRange("looked_at", 1_559_347_200_000, 1_569_888_000_000)
"""2019-06-01 .. 2019-10-01: the method and its defaults were chosen with scores on these hours in sight."""


class Calibrated(Postprocessor):
    """Scales and shifts the paths of another forecaster, separately for each step and channel.

    Prices are calibrated as logarithms, volume as ``log(1 + volume / mean volume of the origin's paths)``, each by
    an online conformal tracker (`conformal`). The map is increasing, so in every channel and step a path keeps its
    rank among the paths; then high and low are widened to enclose open and close where needed, and amount follows
    volume and the mean price. With one path, or if all paths are equal, the forecast is unchanged. So is that of an
    origin with a price that is not positive, which is not learned from.

    It starts with unchanged forecasts at the first origin, without any warm-up. Its forecast of an origin is a
    function of the windows and the base's paths up to that origin, in order: it does not depend on later origins,
    but on where the walk-forward starts. An outcome is used at the first origin whose window contains it, so never
    before it is known; an outcome that no window contains, in a gap of the history, is never used.

    Parameters
    ----------
    base : Forecaster
        The forecaster to calibrate; its forecasts may depend only on their own window.
    rates : Rates, optional
        Learning rates.
    """

    kind: ClassVar[str] = "calibrated"
    looked_at = (LOOKED_AT,)
    paths_are: PathKind = "dependent"  # each is moved and scaled by how all of them lie

    def __init__(self, base: Forecaster, rates: Rates | None = None) -> None:
        super().__init__(base)
        self.rates = rates or Rates()

    @classmethod
    def from_config(cls, config: Any, windows: WindowsConfig, seed: int, base: Forecaster | None = None) -> Self:
        """Build from a part of an experiment; see `Forecaster.from_config`."""
        if base is None:
            raise ValueError("a calibrated forecaster needs its base")
        return cls(base, Rates(floors=config.rates))

    def follow(self, windows: Iterable[Window], batches: Iterable[ForecastBatch]) -> Iterator[ForecastBatch]:
        """Calibrate the forecasts of all origins in order.

        Parameters
        ----------
        windows : iterable of Window
            Windows of every origin, in order of time.
        batches : iterable of ForecastBatch
            The base's forecasts for them, in batches of any size.

        Yields
        ------
        ForecastBatch
            One for each batch; paths do not depend on the division into batches.

        Raises
        ------
        ValueError
            If windows and batches have different origins, or are not in order of time.
        """
        note = {"calibrated": f"version {self.version}"}
        change = _OnlineCalibration(self).calibrate
        yield from change_in_order(windows, batches, change, at_once=_CHUNK, verb="calibrate", provenance=note)

    def identity(self) -> Mapping[str, object]:
        """The base's identity, the numerical version and the rates.

        The origins that it has learned from are not part of it; see `btcbt.storage.forecasts.history_digests`.
        """
        rates = {name: getattr(self.rates, name) for name in Rates.__dataclass_fields__}
        rates = {name: list(value) if isinstance(value, tuple) else value for name, value in rates.items()}
        return {"kind": self.kind, "version": self.version, "rates": rates, "base": dict(self.base.identity())}


class _OnlineCalibration:
    """The state of the calibration while it moves from origin to origin."""

    def __init__(self, forecaster: Calibrated) -> None:
        self._order = OrderStatistics(forecaster.n_paths)
        self._state = Calibration(forecaster.horizon, _CHANNELS, self._order, forecaster.rates)
        self._steps = np.arange(forecaster.horizon)
        self._volume_scale = np.ones(forecaster.horizon + 1)  # of the last H + 1 candles' forecasts
        self._last: int | None = None

    def calibrate(self, windows: Sequence[Window], paths: Float32Array) -> Float32Array:
        """Calibrate the paths (B, S, H, 6) of the next origins."""
        positive = (paths[..., :VOLUME] > 0.0).all(axis=(1, 2, 3))
        sound: NDArray[np.bool_] = np.logical_and(positive, np.isfinite(paths).all(axis=(1, 2, 3)))
        usable = sound[:, None, None, None]
        safe = np.where(usable, paths, np.float32(1.0))
        volume_scale = _volume_scale(safe)
        samples = _coordinates(safe, volume_scale)
        summary = self._order.summarise(samples)
        adjustments = [
            self._next(window, summary.at(row), float(volume_scale[row]), bool(sound[row]))
            for row, window in enumerate(windows)
        ]
        whole = Adjustment(
            np.stack([one.shift for one in adjustments]), np.stack([one.log_scale for one in adjustments])
        )
        calibrated = _candles(adjust(samples, summary, whole), safe, volume_scale)
        return np.where(usable, calibrated, paths)

    def _next(self, window: Window, summary: QuantileSummary, volume_scale: float, sound: bool) -> Adjustment:
        """Learn from the outcomes known by an origin, and return the adjustment of its forecast."""
        now = window.origin // window.interval_ms
        if self._last is not None:
            if now <= self._last:
                raise ValueError(f"origin {window.origin} is not after the one before it")
            for age in range(min(now - self._last, len(window.values)), 0, -1):
                time = now - age + 1
                self._state.observe(time, self._outcome(time, window.values[-age]))
        self._last = now
        if not sound:
            return self._state.adjustment()
        self._volume_scale[now % len(self._volume_scale)] = volume_scale
        return self._state.issue(now, summary)

    def _outcome(self, time: int, candle: FloatArray) -> FloatArray:
        """A candle in the coordinates of the forecasts made 1 .. H candles before, (H, 5)."""
        out = np.empty((len(self._steps), _CHANNELS))
        out[:, :VOLUME] = np.log(candle[:VOLUME])
        scale = self._volume_scale[(time - 1 - self._steps) % len(self._volume_scale)]
        out[:, VOLUME] = np.log1p(candle[VOLUME] / scale)
        return out


def _volume_scale(paths: Float32Array) -> FloatArray:
    """Mean volume over the paths and steps of each origin, (B,); 1 if it is zero."""
    volume = np.maximum(np.ascontiguousarray(paths[..., VOLUME], dtype=np.float64), 0.0)
    mean = volume.reshape(len(volume), -1).mean(axis=1)
    return np.where(mean > 0.0, mean, 1.0)


def _coordinates(paths: Float32Array, volume_scale: FloatArray) -> FloatArray:
    """Paths (B, S, H, 6) as samples (B, H, 5, S) in the coordinates of the calibration."""
    samples = np.ascontiguousarray(np.moveaxis(paths[..., :_CHANNELS], 1, -1), dtype=np.float64)
    samples[:, :, :VOLUME] = np.log(samples[:, :, :VOLUME])
    volume = np.maximum(samples[:, :, VOLUME], 0.0)
    samples[:, :, VOLUME] = np.log1p(volume / volume_scale[:, None, None])
    return samples


def _candles(samples: FloatArray, before: Float32Array, volume_scale: FloatArray) -> Float32Array:
    """Samples (B, H, 5, S) back to paths (B, S, H, 6) of valid candles."""
    out = np.empty(before.shape, dtype=np.float32)
    by_path = np.moveaxis(samples, -1, 1)
    with np.errstate(over="ignore", under="ignore"):
        out[..., :VOLUME] = np.clip(np.exp(by_path[..., :VOLUME]), SMALLEST, LARGEST)
        volume = np.expm1(by_path[..., VOLUME]) * volume_scale[:, None, None]
    out[..., VOLUME] = np.clip(volume, 0.0, LARGEST)
    out[..., HIGH] = np.maximum(out[..., HIGH], np.maximum(out[..., OPEN], out[..., CLOSE]))
    out[..., LOW] = np.minimum(out[..., LOW], np.minimum(out[..., OPEN], out[..., CLOSE]))
    old, new = (paths[..., :_CHANNELS].astype(np.float64) for paths in (before, out))
    traded = old[..., VOLUME] > 0.0
    growth = np.where(traded, new[..., VOLUME], 1.0) / np.where(traded, old[..., VOLUME], 1.0)
    growth *= new[..., :VOLUME].sum(axis=-1) / old[..., :VOLUME].sum(axis=-1)
    out[..., AMOUNT] = np.clip(before[..., AMOUNT] * growth, 0.0, LARGEST)
    return out
