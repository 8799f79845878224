"""Placebo forecasts: real forecasts whose information about the outcome has been destroyed.

A strategy may profit because the forecast is informative, or because its way of trading suits the market. To
separate the two, the same strategy trades on forecasts without information:

===============  ======================================================================================
kind             what is kept, and what is changed
===============  ======================================================================================
``shift``        all forecasts in their order, moved in time by at least a block and wrapped around
``flip``         the sizes; the direction of whole blocks is mirrored at random (in the first run, that of
                 all blocks)
``shuffle``      the forecasts of each block; the order of the blocks is random
``random_walk``  each path's moves, candle by candle, with a random sign each: a martingale in logs of the
                 same volatility
===============  ======================================================================================

A block is at least as long as the horizon, so that neighbouring forecasts agree as much as the real ones do and
positions are held about as long; otherwise the placebos would lose by costs alone. Forecasts from another time
are taken relative to their last close.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from btcbt.errors import StoreError
from btcbt.files import locked_file, temporary_name
from btcbt.records import (
    AMOUNT,
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    VOLUME,
    Float32Array,
    FloatArray,
    IntArray,
)

KINDS = ("shift", "flip", "shuffle", "random_walk")
_CHUNK = 64  # origins made at once; part of the key of the signs of a random walk


@dataclass(frozen=True, slots=True, eq=False)
class Placebo:
    """One placebo run over M origins.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    source : int64 (M,)
        Index of the origin whose forecast is used at each origin.
    sign : float64 (M,)
        -1 where the forecast is mirrored.
    seed : tuple of int
        Keys the signs of ``random_walk``.
    """

    kind: str
    source: IntArray
    sign: FloatArray
    seed: tuple[int, ...]


def make_placebos(origins: int, runs: int, block: int, seed: int) -> list[Placebo]:
    """Plan placebo runs, equally many of each kind.

    Parameters
    ----------
    origins : int
        Number of origins, M.
    runs : int
        Number of runs.
    block : int
        Consecutive origins whose forecasts stay together.
    seed : int
        The same seed gives the same placebos; a run does not depend on the number of runs.

    Raises
    ------
    ValueError
        If there are fewer than three blocks.
    """
    if origins < 3 * block:
        raise ValueError(f"{origins} origins are fewer than three blocks of {block}; nothing can be shuffled")
    return [_plan(KINDS[run % len(KINDS)], run // len(KINDS), origins, block, seed) for run in range(runs)]


class Paths(Protocol):
    """Paths (M, S, H, 6) in memory or on disk; indexing with rows (B,) returns a copy (B, S, H, 6)."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: IntArray, /) -> Float32Array: ...


class Spool:
    """Paths in a temporary file, of which any process of this machine can read some rows.

    Parameters
    ----------
    file : Path
        Holds float32 (M, S, H, 6), row after row.
    shape : (M, S, H, 6)
        Of the paths.
    """

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        self._file = file
        self._shape = shape

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, rows: IntArray, /) -> Float32Array:
        out = np.empty((len(rows), *self._shape[1:]), dtype=np.float32)
        stretches = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1)
        with self._file.open("rb") as file:
            for stretch in stretches:
                file.seek(4 * math.prod(self._shape[1:]) * int(rows[stretch[0]]))
                file.readinto(out[stretch[0] : stretch[-1] + 1].data)
        return out


@contextmanager
def spooled(parts: Iterable[Float32Array], scratch: Path) -> Iterator[Spool]:
    """Write paths to a temporary file, which is deleted at the end of the block.

    Parameters
    ----------
    parts : iterable of float32 (B, S, H, 6)
        Paths of consecutive origins; at least one part.
    scratch : Path
        Folder for the file, which is as large as the paths.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    path = temporary_name(scratch / "placebos")
    try:
        rows, shape = 0, tuple[int, ...]()
        with locked_file(path) as file:
            for part in parts:
                rows, shape = rows + len(part), part.shape[1:]
                try:
                    file.write(np.ascontiguousarray(part, dtype=np.float32).data)
                    file.flush()
                except OSError as error:
                    raise StoreError(
                        f"{path}: the temporary file of placebos cannot be written ({error.strerror}); the "
                        "forecasts are stored; make room or set placebos: 0, and run again"
                    ) from None
            yield Spool(path, (rows, *shape))
    finally:
        path.unlink(missing_ok=True)


class Source:
    """Real forecasts, and placebos made from them in chunks.

    Parameters
    ----------
    paths : Paths
        The real forecasts (M, S, H, 6), in order of time.
    last_close : float64 (M,)
        Last close before each origin.
    """

    def __init__(self, paths: Paths, last_close: FloatArray) -> None:
        self.paths = paths
        self.last_close = np.asarray(last_close, dtype=np.float64)

    def placebo(self, placebo: Placebo) -> Iterator[Float32Array]:
        """The forecasts of a placebo run, (S, H, 6) for each of M origins in order; in single precision."""
        for start in range(0, len(self.paths), _CHUNK):
            rows = slice(start, start + _CHUNK)
            source = placebo.source[rows]
            chunk = self.paths[source]
            if placebo.kind == "random_walk":
                rng = np.random.default_rng((*placebo.seed, start))
                self._sign_moves(chunk, source, rng)
            mirrored = placebo.sign[rows] < 0.0
            if mirrored.any():
                chunk[mirrored] = _mirror(chunk[mirrored], self.last_close[source[mirrored]])
            ratio = (self.last_close[rows] / self.last_close[source]).astype(np.float32)[:, None, None, None]
            chunk[..., :VOLUME] *= ratio
            chunk[..., AMOUNT:] *= ratio
            yield from chunk

    def _sign_moves(self, chunk: Float32Array, source: IntArray, rng: np.random.Generator) -> None:
        """Mirror each candle, in logs relative to the close before it, with probability one half."""
        moves = np.log(chunk[..., :VOLUME])
        before = np.empty(chunk.shape[:3], dtype=np.float32)
        before[:, :, 0] = np.log(self.last_close[source])[:, None]
        before[:, :, 1:] = moves[:, :, :-1, CLOSE]
        moves -= before[..., None]
        down = rng.integers(0, 2, moves.shape[:3], dtype=np.int8).astype(bool)
        high, low = moves[..., HIGH], moves[..., LOW]
        moves[..., HIGH], moves[..., LOW] = np.where(down, low, high), np.where(down, high, low)
        moves *= np.where(down, np.float32(-1.0), np.float32(1.0))[..., None]
        moves[:, :, 1:] += np.cumsum(moves[..., CLOSE], axis=2)[:, :, :-1, None]
        prices = np.exp(moves, out=moves)
        prices *= self.last_close[source].astype(np.float32)[:, None, None, None]
        _set_prices(chunk, prices)


def rank_p_value(real: float, placebos: ArrayLike) -> float:
    """Share of runs, the real one included, with at least its score: ``(1 + #(placebo >= real)) / (n + 1)``.

    One-sided; exact if the real run is exchangeable with the placebos (Phipson and Smyth, 2010, "Permutation
    p-values should never be zero"). NaN without placebos or where the real one is NaN; NaN placebos are
    left out.
    """
    others = np.asarray(placebos, dtype=np.float64)
    others = others[~np.isnan(others)]
    if np.isnan(real) or not len(others):
        return float("nan")
    return float((1 + np.count_nonzero(others >= real)) / (len(others) + 1))


def summarise_placebos(real: float, placebos: ArrayLike, kinds: list[str]) -> dict[str, float]:
    """Rank of a real score among those of placebo runs.

    Parameters
    ----------
    real : float
        Larger is better.
    placebos : float (n,)
        Scores of the placebo runs.
    kinds : list of str (n,)
        Their kinds.

    Returns
    -------
    dict of str to float
        ``p_value`` over all runs and ``KIND.p_value`` over those of a kind, ``runs``, and the placebos'
        ``mean``, ``q95`` and ``max``.
    """
    scores = np.asarray(placebos, dtype=np.float64)
    known = scores[~np.isnan(scores)]
    out = {"p_value": rank_p_value(real, scores), "runs": float(len(known))}
    if len(known):
        out |= {"mean": float(known.mean()), "q95": float(np.quantile(known, 0.95)), "max": float(known.max())}
    of = np.asarray(kinds)
    return out | {f"{kind}.p_value": rank_p_value(real, scores[of == kind]) for kind in KINDS if (of == kind).any()}


def _plan(kind: str, number: int, origins: int, block: int, seed: int) -> Placebo:
    key = (seed, KINDS.index(kind), number)
    rng = np.random.default_rng(key)
    rows, sign = np.arange(origins, dtype=np.int64), np.ones(origins)
    phase = int(rng.integers(block))  # so that block boundaries differ between runs
    blocks = (rows + phase) // block
    if kind == "shift":
        rows = (rows - int(rng.integers(block, origins - block + 1))) % origins
    elif kind == "flip":
        sign = np.where(rng.random(blocks[-1] + 1) < 0.5, -1.0, 1.0)[blocks] if number else -sign
    elif kind == "shuffle":
        rows = np.concatenate([rows[blocks == b] for b in rng.permutation(blocks[-1] + 1)])
    return Placebo(kind, rows, sign, key)


def _mirror(paths: Float32Array, last_close: FloatArray) -> Float32Array:
    """Replace every price p by ``last_close^2 / p``, which mirrors the log path."""
    close = last_close.astype(np.float32)[:, None, None, None]
    prices = close * (close / paths[..., [OPEN, LOW, HIGH, CLOSE]])
    _set_prices(paths, prices)
    return paths


def _set_prices(paths: Float32Array, prices: Float32Array) -> None:
    """Replace the prices of paths; amount scales with the mean price, and rounding may not invalidate a candle."""
    paths[..., AMOUNT] *= prices.sum(axis=-1) / paths[..., :VOLUME].sum(axis=-1)
    paths[..., :VOLUME] = prices
    opening, close = prices[..., OPEN], prices[..., CLOSE]
    np.maximum(paths[..., HIGH], np.maximum(opening, close), out=paths[..., HIGH])
    np.minimum(paths[..., LOW], np.minimum(opening, close), out=paths[..., LOW])
