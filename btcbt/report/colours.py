"""The colour of each forecaster, the same in every figure and in the page."""

from __future__ import annotations

from collections.abc import Iterable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")
"""Colour-blind safe (Okabe and Ito, 2008), in order of use."""


def cycle(count: int) -> list[str]:
    """The first `count` colours, from the start again when they run out."""
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Colour by name, in the order of the names."""
    order = list(names)
    return dict(zip(order, cycle(len(order)), strict=True))
