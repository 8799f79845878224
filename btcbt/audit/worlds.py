"""Other futures: the same candles up to a moment, and different ones after it.

A candle is known at its close. Rows are taken to have arrived in the order of the history: a row that comes
after a later candle (a revision appended at the end) was not known before that candle's close.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, Candles, FloatArray, IntArray

BROKEN = "nan"
"""The world whose future is no candle at all."""
SHORT = "truncate"
"""The world that ends at the origin."""
_NOISE = 0.05
_SCALE = 1000.0


def known_at(candles: Candles) -> IntArray:
    """When each row can first have been known, (N,) ms UTC, never decreasing."""
    return np.maximum.accumulate(candles.open_time + candles.interval_ms)


def change_future(candles: Candles, origin: int, world: str, seed: int) -> Candles:
    """Make every candle that was not known at `origin` different.

    Parameters
    ----------
    candles : Candles
        The true history.
    origin : int
        ms UTC.
    world : str
        One of `WORLDS`: ``noise`` (independent shocks of 5 %, volumes redrawn), ``flip`` (every rise from the
        last known price is a fall), ``scale`` (a thousand times the price and volume), ``gaps`` (half of the
        rows are missing, the first among them), ``truncate`` (nothing follows), ``nan`` (no value is a number).
    seed : int
        Keys the shocks; they differ from origin to origin.

    Returns
    -------
    Candles
        Read-only, with the same bits up to `origin`.
    """
    first = int(np.searchsorted(known_at(candles), origin, side="right"))
    rng = np.random.Generator(np.random.Philox(key=[seed, origin % 2**64]))
    times, values = candles.open_time.copy(), candles.values.copy()
    if world in _ROWS:
        keep = np.concatenate([np.ones(first, dtype=bool), _ROWS[world](len(times) - first, rng)])
        times, values = times[keep], values[keep]
    elif first < len(values):
        last = float(values[max(first - 1, 0), CLOSE])
        values[first:] = _VALUES[world](values[first:], last, rng)
    times.setflags(write=False)
    values.setflags(write=False)
    return Candles(times, values, candles.interval_ms, candles.source, f"{candles.sha256}:{world}:{origin}")


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
    """Keep high the highest and low the lowest price."""
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
    BROKEN: _broken,
}
_ROWS: dict[str, Callable[[int, np.random.Generator], NDArray[np.bool_]]] = {SHORT: _none, "gaps": _half}
WORLDS = ("noise", "flip", "scale", "gaps", SHORT, BROKEN)
