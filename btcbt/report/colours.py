"""The colour of each forecaster, the same in every figure and in the page."""

from __future__ import annotations

from collections.abc import Iterable

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C564B",
    "#7F7F7F",
    "#8D0CF2",
    "#3D86F4",
    "#9AAC52",
    "#A34628",
)
"""In order of use: colour-blind safe (Okabe and Ito, 2008), then those farthest from all before them to eyes of all
kinds (CIELAB; Machado, Oliveira and Fernandes, 2009, IEEE TVCG 15)."""


def cycle(count: int) -> list[str]:
    """The first `count` colours, from the start again when they run out."""
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def colours_of(names: Iterable[str], main: str = "") -> dict[str, str]:
    """Colour by name: the first for `main`, if it is among them, then in the order of the names."""
    order = list(names)
    first = sorted(order, key=lambda name: name != main)
    found = dict(zip(first, cycle(len(first)), strict=True))
    return {name: found[name] for name in order}
