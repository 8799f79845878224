"""Where sampled paths lie: as the decoder puts them, continued from the last close, or without a mean return.

The model continues from where its tokenizer puts the last known candle, which is not where the price is: the
**reconstruction error**, ``log(decoded close / close)`` of the last candle of the context. Paths are moved in
logarithms, that is, multiplied: the returns between their candles stay what was sampled, prices stay positive, and as
all prices of a candle are multiplied by the same number, high and low enclose what they enclosed before. To move them
in scaled units by the difference instead would change the result by the error times the return since the last close.
"""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike

from btcbt.config import LEARNED, Location
from btcbt.errors import ConfigError
from btcbt.messages import did_you_mean
from btcbt.records import AMOUNT, CLOSE, VOLUME, Float32Array, FloatArray, PathKind

LIMIT = math.log(2.0)
"""Bound on the absolute move: a decoder that is off by a factor of two does not describe the price at all."""


def check_location(location: str) -> None:
    """Check that a location can be had from a window alone.

    Raises
    ------
    ConfigError
        If it is unknown, or `learned`.
    """
    known = get_args(Location)
    if location == LEARNED:
        raise ConfigError(
            "location 'learned' is fitted on the outcomes of earlier forecasts, and there are none here; use "
            "'reconstruction', or in an experiment a forecaster of its own: {kind: located, base: NAME}"
        )
    if location not in known:
        raise ConfigError(f"location '{location}' is unknown{did_you_mean(location, known)}; use {', '.join(known)}")


def kind_of_paths(location: str, before: PathKind) -> PathKind:
    """How paths are made after they were moved.

    The reconstruction error is known from the window, so independent paths stay independent. Paths that are moved by a
    statistic of themselves depend on each other: fair CRPS would be too small for them (`btcbt.metrics.ensembles`).
    """
    return before if location in ("as_decoded", "reconstruction") else "dependent"


def reconstruction_error(decoded: ArrayLike, last: ArrayLike) -> FloatArray:
    """Log of the decoded last closes (...) over the true ones, within +-`LIMIT`; 0 where a true one is not positive."""
    decoded, last = np.asarray(decoded, dtype=np.float64), np.asarray(last, dtype=np.float64)
    known = last > 0.0
    ratio = np.where(known, decoded, 1.0) / np.where(known, last, 1.0)
    return np.asarray(np.log(np.clip(ratio, math.exp(-LIMIT), math.exp(LIMIT))))


def mean_return(paths: Float32Array, last: ArrayLike) -> FloatArray:
    """Log of the paths' mean close over the last one (..., H), of paths (..., S, H, 6) and closes (...).

    A sample estimate. An estimate that does not depend on the paths that it moves takes further paths, as many again
    for a standard error equal to that of the sample; what is estimated from the sample is scored as dependent instead.
    """
    closes = paths[..., CLOSE].astype(np.float64).mean(axis=-2)
    return reconstruction_error(closes, np.asarray(last, dtype=np.float64)[..., None])


def window_move(location: str, paths: Float32Array, last: ArrayLike, decoded: ArrayLike | None = None) -> FloatArray:
    """How far to move paths, in logarithms, for a location that follows from the window.

    Parameters
    ----------
    location : Location
    paths : float32 (..., S, H, 6)
    last : float (...)
        The last close.
    decoded : float (...), optional
        The last close as decoded; only `reconstruction` needs it.

    Returns
    -------
    float64 (..., H)
    """
    moves = np.zeros((*paths.shape[:-3], paths.shape[-2]))
    if location == "reconstruction":
        if decoded is None:
            raise ValueError("the location 'reconstruction' needs the decoded closes")
        moves -= reconstruction_error(decoded, last)[..., None]
    elif location == "driftless":
        moves -= mean_return(paths, last)
    return moves


def move_prices(paths: Float32Array, moves: FloatArray) -> Float32Array:
    """Multiply the prices of paths (..., S, H, 6) by ``exp(moves)``, moves (..., H).

    Amounts, which are volume times a price, are multiplied as well; volumes are not.
    """
    factor = np.exp(moves)[..., None, :, None].astype(np.float32)
    moved = np.array(paths, dtype=np.float32)
    moved[..., :VOLUME] *= factor
    moved[..., AMOUNT] *= factor[..., 0]
    return moved
