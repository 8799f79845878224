"""Changed histories: the same candles up to an origin, and different ones after it.

A candle is known at its close. Rows are assumed to have arrived in the order of the file: a row that follows
a later candle (a revision appended at the end) was not known before that candle's close.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, Candles, FloatArray, IntArray

ALL_NAN = "nan"
"""Every value after the origin is NaN."""
TRUNCATE = "truncate"
"""The history ends at the origin."""
_NOISE = 0.05
_SCALE = 1000.0


def known_at(candles: Candles) -> IntArray:
    """Earliest time at which each row was known, (N,) ms UTC, non-decreasing."""
    return np.maximum.accumulate(candles.open_time + candles.interval_ms)


def change_future(candles: Candles, origin: int, change: str, seed: int) -> Candles:
    """Change every candle that was not known at `origin`.

    Parameters
    ----------
    candles : Candles
        The true history.
    origin : int
        ms UTC.
    change : str
        One of `CHANGES`: ``noise`` (independent shocks of 5 %, volumes redrawn), ``flip`` (every rise from the
        last known price is a fall), ``scale`` (a thousand times the price and volume), ``gaps`` (half of the
        rows are missing, including the first), ``truncate`` (no candle follows), ``nan`` (every value is NaN).
    seed : int
        Keys the shocks; they differ from origin to origin.

    Returns
    -------
    Candles
        Read-only; bit for bit the same up to `origin`.
    """
    first = int(np.searchsorted(known_at(candles), origin, side="right"))
    rng = np.random.Generator(np.random.Philox(key=[seed, origin % 2**64]))
    times, values, filled = candles.open_time.copy(), candles.values.copy(), candles.filled
    if change in _ROWS:
        keep = np.concatenate([np.ones(first, dtype=bool), _ROWS[change](len(times) - first, rng)])
        times, values = times[keep], values[keep]
        filled = None if filled is None else filled[keep]
    elif first < len(values):
        last = float(values[max(first - 1, 0), CLOSE])
        values[first:] = _VALUES[change](values[first:], last, rng)
    times.setflags(write=False)
    values.setflags(write=False)
    digest = f"{candles.sha256}:{change}:{origin}"
    return replace(candles, open_time=times, values=values, filled=filled, sha256=digest)


def _noise(future: FloatArray, last: float, rng: np.random.Generator) -> FloatArray:
    del last
    out = future * np.exp(_NOISE * rng.standard_normal(future.shape))
    out[:, VOLUME:] = future[:, VOLUME:] * rng.exponential(size=(len(future), 1)) + rng.random((len(future), 1))
    return _ordered(out)


def _flip(future: FloatArray, last: float, rng: np.random.Generator) -> FloatArray:
    del rng
    out = future[::-1].copy()  # volumes in reverse order
    out[:, :VOLUME] = last * (last / future[:, [OPEN, LOW, HIGH, CLOSE]])
    return _ordered(out)


def _scale(future: FloatArray, last: float, rng: np.random.Generator) -> FloatArray:
    del last, rng
    return future * _SCALE


def _broken(future: FloatArray, last: float, rng: np.random.Generator) -> FloatArray:
    del last, rng
    return np.full_like(future, np.nan)


def _ordered(candles: FloatArray) -> FloatArray:
    """Make high the highest and low the lowest of the four prices."""
    candles[:, HIGH] = candles[:, :VOLUME].max(axis=1)
    candles[:, LOW] = candles[:, :VOLUME].min(axis=1)
    return candles


def _none(count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    del rng
    return np.zeros(count, dtype=bool)


def _half(count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    keep = rng.random(count) < 0.5
    keep[:1] = False
    keep[-1:] = True  # so that the range of the experiment is still inside the candles
    return keep


_VALUES: dict[str, Callable[[FloatArray, float, np.random.Generator], FloatArray]] = {
    "noise": _noise,
    "flip": _flip,
    "scale": _scale,
    ALL_NAN: _broken,
}
_ROWS: dict[str, Callable[[int, np.random.Generator], NDArray[np.bool_]]] = {TRUNCATE: _none, "gaps": _half}
CHANGES = ("noise", "flip", "scale", "gaps", TRUNCATE, ALL_NAN)
