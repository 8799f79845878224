"""Keyed randomness: uniform numbers that are a pure function of what they are for.

A number depends on (seed, origin, path, step, lane) and on nothing else, so batch size, sharding, resuming and
added origins cannot change a path. The counter-based generator is Philox 4x64 (Salmon, Moraes, Dror and Shaw,
2011, "Parallel random numbers: as easy as 1, 2, 3") as in `numpy.random.Philox`: the key is (seed, origin), the
counter runs over (path, step, lane).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from btcbt.records import FloatArray, IntArray

MAX_HORIZON = 1024
"""Steps for which a path has numbers set aside."""
LANES = 2
"""Independent numbers per step: one for each sub-token of a candle."""

_BLOCKS_PER_PATH = MAX_HORIZON * LANES // 4  # a Philox block yields four 64-bit numbers
_TO_UNIT = 2.0**-53


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
    numbers = horizon * LANES
    rest = _BLOCKS_PER_PATH - (numbers + 3) // 4
    out = np.empty((len(origins), n_paths, numbers), dtype=np.float64)
    for b, origin in enumerate(origins):
        generator = np.random.Philox(key=(seed << 64) | (int(origin) & (2**64 - 1)))
        for s in range(n_paths):
            if s:
                generator.advance(rest)
            out[b, s] = (generator.random_raw(numbers) >> np.uint64(11)) * _TO_UNIT
    return out.reshape(len(origins), n_paths, horizon, LANES)
