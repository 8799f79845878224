"""Keyed randomness: uniform numbers that are a pure function of their key.

A number depends on (seed, origin, path, step, lane) and on nothing else, so batch size, sharding, resuming
and added origins cannot change a path. The counter-based generator is Philox 4x64 (Salmon, Moraes, Dror and
Shaw, 2011, "Parallel random numbers: as easy as 1, 2, 3") as in `numpy.random.Philox`: the key is
(seed, origin), the counter runs over (path, step, lane).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from btcbt.records import FloatArray, IntArray

MAX_HORIZON = 1024
"""Steps that the counters of a path reserve numbers for."""
LANES = 2
"""Independent numbers per step: one for each sub-token of a candle."""

_BLOCKS_PER_PATH = MAX_HORIZON * LANES // 4  # a Philox block yields four 64-bit numbers
_WORD = 2**64 - 1


def uniforms(seed: int, origins: IntArray | Sequence[int], n_paths: int, horizon: int) -> FloatArray:
    """Uniform numbers in [0, 1) for the paths of some origins.

    Parameters
    ----------
    seed : int
        Seed of the experiment, 0 <= seed < 2**63.
    origins : int64 (B,)
        Origins, ms UTC.
    n_paths, horizon : int
        S and H; `horizon` at most `MAX_HORIZON`.

    Returns
    -------
    float64 (B, S, H, 2)
        ``[b, s, h, lane]`` does not depend on B, S or H.
    """
    if not 1 <= horizon <= MAX_HORIZON:
        raise ValueError(f"horizon {horizon} is outside 1..{MAX_HORIZON}")
    out = np.empty((len(origins), n_paths, horizon * LANES), dtype=np.float64)
    # Setting the state of one generator is several times faster than building or advancing one per path, and numpy
    # reads a state of lists twice as fast as one of arrays.
    philox = np.random.Philox(key=0)
    fill = np.random.Generator(philox).random  # a double is the upper 53 bits of a word, times 2**-53
    key, counter = [0, seed], [0, 0, 0, 0]
    state: Any = philox.state
    state |= {"state": {"key": key, "counter": counter}, "buffer": [0, 0, 0, 0]}
    for origin, rows in zip(origins, out, strict=True):
        key[0] = int(origin) & _WORD
        for s, row in enumerate(rows):
            counter[0] = s * _BLOCKS_PER_PATH
            philox.state = state
            fill(out=row)
    return out.reshape(len(origins), n_paths, horizon, LANES)


def systematic(seed: int, origins: IntArray | Sequence[int], n_paths: int, horizon: int) -> FloatArray:
    """Uniform numbers that are spread evenly over the paths of an origin.

    At each (step, lane) the unit interval is cut into S equal strata; every path gets one of them, in a fresh random
    order, at one common offset (systematic sampling; Madow and Madow, 1944). Each number is uniform,
    and those of one path are independent, so a path's distribution is what `uniforms` gives; the paths together
    cover it more evenly, so that means and quantiles over them vary less.

    Parameters
    ----------
    seed, origins, n_paths, horizon
        As for `uniforms`.

    Returns
    -------
    float64 (B, S, H, 2)
        Depends on S (unlike `uniforms`), but not on B or H.
    """
    numbers = uniforms(seed, origins, n_paths + 1, horizon)
    strata = numbers[:, :n_paths].argsort(axis=1).argsort(axis=1)
    return np.minimum((strata + numbers[:, n_paths:]) / n_paths, 1 - 2.0**-53)  # the sum may round up to S
