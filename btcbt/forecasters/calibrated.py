"""A forecaster that corrects another one by how its earlier forecasts turned out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from btcbt.config import WindowsConfig
from btcbt.forecasters.base import Forecaster, Postprocessor
from btcbt.forecasters.conformal import Adjustment, Calibration, Layout, Rates, Skeleton, adjust
from btcbt.records import (
    AMOUNT,
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    VOLUME,
    Float32Array,
    FloatArray,
    ForecastBatch,
    PathKind,
    Window,
)

_CHANNELS = 5  # open, high, low, close, volume; amount follows them
_CHUNK = 64  # origins whose paths are stretched at once: bounds the float64 copies
_SMALLEST, _LARGEST = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


class Calibrated(Postprocessor):
    """Widens, narrows and shifts the paths of another forecaster, step by step and channel by channel.

    Prices are calibrated as logarithms, volume as ``log(1 + volume / mean volume of the origin's paths)``, each by
    an online conformal tracker (`conformal`). The map is increasing, so in every channel and step a path keeps its
    rank among the paths; then high and low are set to hold open and close where they no longer do, and amount
    follows volume and the mean price. With one path, or where all paths agree, there is no width to change and
    the forecast passes through. So does that of an origin with a price that is not positive, from which nothing
    is learned.

    It begins with the forecasts as they are at the first origin of the walk; there is no other warm-up. What it
    does at an origin is a function of the windows and the base's paths up to that origin, in order: later
    origins change nothing, an earlier beginning does. An outcome is used at the first origin whose window holds
    it, so nothing is used before it is known; one that lies between two windows, in a gap of the history, is
    never used.

    Parameters
    ----------
    base : Forecaster
        Whose paths to calibrate; one whose forecasts depend on their own window alone.
    rates : Rates, optional
        How fast to learn.
    """

    kind: ClassVar[str] = "calibrated"
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
        """Calibrate a walk from its first origin on.

        Parameters
        ----------
        windows : iterable of Window
            Of every origin of the walk, in order of time.
        batches : iterable of ForecastBatch
            What the base forecast for them, in batches of any size.

        Yields
        ------
        ForecastBatch
            One for each batch; its paths do not depend on how the walk was cut.

        Raises
        ------
        ValueError
            If windows and batches are of different origins, or not in order of time.
        """
        walk, remaining = _Walk(self), iter(windows)
        for batch in batches:
            paths = np.empty(batch.paths.shape, dtype=np.float32)
            for start in range(0, len(batch), _CHUNK):
                rows = slice(start, start + _CHUNK)
                asked = list(islice(remaining, len(batch.origins[rows])))
                if [window.origin for window in asked] != batch.origins[rows].tolist():
                    raise ValueError("the windows are not those of the forecasts to calibrate")
                paths[rows] = walk.calibrate(asked, batch.paths[rows])
            yield ForecastBatch(batch.origins, paths, {**batch.provenance, "calibrated": f"version {self.version}"})

    def identity(self) -> Mapping[str, object]:
        """The base's identity, the numerical version and the rates.

        The origins from which it learned are not part of it; see `btcbt.storage.forecasts.history_digests`.
        """
        rates = {name: getattr(self.rates, name) for name in Rates.__dataclass_fields__}
        rates = {name: list(value) if isinstance(value, tuple) else value for name, value in rates.items()}
        return {"kind": self.kind, "version": self.version, "rates": rates, "base": dict(self.base.identity())}


class _Walk:
    """A calibrator on its way from origin to origin."""

    def __init__(self, forecaster: Calibrated) -> None:
        self._layout = Layout(forecaster.n_paths)
        self._state = Calibration(forecaster.horizon, _CHANNELS, self._layout, forecaster.rates)
        self._steps = np.arange(forecaster.horizon)
        self._volume_scale = np.ones(forecaster.horizon + 1)  # of the last H + 1 candles' forecasts
        self._last: int | None = None

    def calibrate(self, windows: Sequence[Window], paths: Float32Array) -> Float32Array:
        """Calibrate the next paths (B, S, H, 6) of the walk."""
        positive = (paths[..., :VOLUME] > 0.0).all(axis=(1, 2, 3))
        sound: NDArray[np.bool_] = np.logical_and(positive, np.isfinite(paths).all(axis=(1, 2, 3)))
        usable = sound[:, None, None, None]
        safe = np.where(usable, paths, np.float32(1.0))
        volume_scale = _volume_scale(safe)
        samples = _coordinates(safe, volume_scale)
        skeleton = self._layout.skeleton(samples)
        adjustments = [
            self._next(window, skeleton.at(row), float(volume_scale[row]), bool(sound[row]))
            for row, window in enumerate(windows)
        ]
        whole = Adjustment(
            np.stack([one.shift for one in adjustments]), np.stack([one.log_scale for one in adjustments])
        )
        calibrated = _candles(adjust(samples, skeleton, whole), safe, volume_scale)
        return np.where(usable, calibrated, paths)

    def _next(self, window: Window, skeleton: Skeleton, volume_scale: float, sound: bool) -> Adjustment:
        """Take in what has become known by an origin, and say what to do to its forecast."""
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
        return self._state.issue(now, skeleton)

    def _outcome(self, time: int, candle: FloatArray) -> FloatArray:
        """A candle in the coordinates of the forecasts made 1 .. H candles before, (H, 5)."""
        out = np.empty((len(self._steps), _CHANNELS))
        out[:, :VOLUME] = np.log(candle[:VOLUME])
        scale = self._volume_scale[(time - 1 - self._steps) % len(self._volume_scale)]
        out[:, VOLUME] = np.log1p(candle[VOLUME] / scale)
        return out


def _volume_scale(paths: Float32Array) -> FloatArray:
    """Mean volume over the paths and steps of each origin, (B,); 1 where there is none."""
    volume = np.maximum(np.ascontiguousarray(paths[..., VOLUME], dtype=np.float64), 0.0)
    mean = volume.reshape(len(volume), -1).mean(axis=1)
    return np.where(mean > 0.0, mean, 1.0)


def _coordinates(paths: Float32Array, volume_scale: FloatArray) -> FloatArray:
    """Paths (B, S, H, 6) as samples (B, H, 5, S) on the scales that are calibrated."""
    samples = np.ascontiguousarray(np.moveaxis(paths[..., :_CHANNELS], 1, -1), dtype=np.float64)
    samples[:, :, :VOLUME] = np.log(samples[:, :, :VOLUME])
    volume = np.maximum(samples[:, :, VOLUME], 0.0)
    samples[:, :, VOLUME] = np.log1p(volume / volume_scale[:, None, None])
    return samples


def _candles(samples: FloatArray, before: Float32Array, volume_scale: FloatArray) -> Float32Array:
    """Samples (B, H, 5, S) back to paths (B, S, H, 6) that are candles."""
    out = np.empty(before.shape, dtype=np.float32)
    by_path = np.moveaxis(samples, -1, 1)
    with np.errstate(over="ignore", under="ignore"):
        out[..., :VOLUME] = np.clip(np.exp(by_path[..., :VOLUME]), _SMALLEST, _LARGEST)
        volume = np.expm1(by_path[..., VOLUME]) * volume_scale[:, None, None]
    out[..., VOLUME] = np.clip(volume, 0.0, _LARGEST)
    out[..., HIGH] = np.maximum(out[..., HIGH], np.maximum(out[..., OPEN], out[..., CLOSE]))
    out[..., LOW] = np.minimum(out[..., LOW], np.minimum(out[..., OPEN], out[..., CLOSE]))
    old, new = (paths[..., :_CHANNELS].astype(np.float64) for paths in (before, out))
    traded = old[..., VOLUME] > 0.0
    growth = np.where(traded, new[..., VOLUME], 1.0) / np.where(traded, old[..., VOLUME], 1.0)
    growth *= new[..., :VOLUME].sum(axis=-1) / old[..., :VOLUME].sum(axis=-1)
    out[..., AMOUNT] = np.clip(before[..., AMOUNT] * growth, 0.0, _LARGEST)
    return out
