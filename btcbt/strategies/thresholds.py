"""The rule that several strategies share: enter on one condition, stay on a weaker one; for many parameters at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btcbt.records import FloatArray

Conditions = NDArray[np.bool_]


def hold_between(
    weights: FloatArray,
    params: Sequence[Any],
    long: tuple[Conditions, Conditions],
    short: tuple[Conditions, Conditions],
) -> FloatArray:
    """Weights of `size`, 0 or, where allowed, minus `size` at consecutive origins.

    Parameters
    ----------
    weights : float64 (K,)
        Holdings before the first origin.
    params : sequence (K,)
        Parameters with `size` and `allow_short`.
    long, short : pair of bool (B, K)
        Whether to enter a position, and whether to keep one that is held.

    Returns
    -------
    float64 (B, K)
    """
    size = np.array([one.size for one in params], dtype=np.float64)
    allowed = np.array([one.allow_short for one in params], dtype=bool)
    enter_long, keep_long = long
    enter_short, keep_short = (condition & allowed for condition in short)
    targets = np.empty(enter_long.shape, dtype=np.float64)
    held = weights
    for row in range(len(targets)):
        up = enter_long[row] | ((held > 0) & keep_long[row])
        down = enter_short[row] | ((held < 0) & keep_short[row])
        held = np.where(up, size, np.where(down, -size, 0.0))
        targets[row] = held
    return targets


def column(params: Sequence[Any], name: str) -> FloatArray:
    """One parameter of each configuration, float64 (K,)."""
    return np.array([getattr(one, name) for one in params], dtype=np.float64)
