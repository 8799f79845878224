"""A forecaster that deals the closes of another one to its paths anew, as its own past errors went together.

The quantiles of a model say nothing of how one step goes with the next, and the order that a window suggests need not
be that of the model's errors: was the outcome that lay too low at the first step still too low at the twelfth? The
positions of past outcomes in their forecasts, step by step, are a sample of the copula of the errors (Pinson et al.,
2009, "From probabilistic forecasts to statistical scenarios of short-term wind power production", who fit a normal
copula to them). The closes of each step are given to the paths in the order of such a sample: the Schaake shuffle
(Clark et al., 2004, "The Schaake shuffle"), with past errors in the place of past weather.
Nothing is drawn at random, and every step keeps its closes to the last bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from btcbt.config import WindowsConfig
from btcbt.forecasters.base import Forecaster, Postprocessor, change_in_order
from btcbt.forecasters.candle_paths import LARGEST, SMALLEST
from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, Float32Array, FloatArray, ForecastBatch, IntArray, Window

OWN_WEIGHT = 25.0
"""Past forecasts, counted without overlap, at which half of the paths follow past errors and half their own order."""

_CHUNK = 64


class Reordered(Postprocessor):
    """Gives the closes of each step to other paths, so that steps go together as past errors did.

    A forecast is a function of the windows and the base's paths up to its origin, in order. An error is used at the
    first origin at which the outcomes of all of its steps are known; one with an outcome in a gap of the history never
    is. Before the first, paths are the base's; then more and more of them follow past errors (`OWN_WEIGHT`), and the
    others keep the order in which the base made them. A candle moves with its close: its gap is put to the close before
    it, and its wicks to the body that this gives. An origin with a price that is not positive, or with a step whose
    paths are all equal, is left as it is and not learned from.

    Parameters
    ----------
    base : Forecaster
        Its forecasts may depend only on their own window.
    errors : int
        Newest errors that make the template.
    """

    kind: ClassVar[str] = "reordered"

    def __init__(self, base: Forecaster, errors: int = 2000) -> None:
        super().__init__(base)
        self.errors = errors

    @classmethod
    def from_config(cls, config: Any, windows: WindowsConfig, seed: int, base: Forecaster | None = None) -> Self:
        """Build from a part of an experiment; see `Forecaster.from_config`."""
        if base is None:
            raise ValueError("a reordered forecaster needs its base")
        return cls(base, config.errors)

    def follow(self, windows: Iterable[Window], batches: Iterable[ForecastBatch]) -> Iterator[ForecastBatch]:
        """Reorder the forecasts of all origins in order; see `Postprocessor.follow`.

        Raises
        ------
        ValueError
            If windows and batches have different origins, or are not in order of time.
        """
        change = partial(_reorder, ErrorTemplate(self.horizon, self.errors))
        note = {self.kind: "Schaake shuffle of past errors"}
        yield from change_in_order(windows, batches, change, at_once=_CHUNK, verb="reorder", provenance=note)

    def identity(self) -> Mapping[str, object]:
        """The base's identity, the numerical version and the number of errors."""
        return {"kind": self.kind, "version": self.version, "errors": self.errors, "base": dict(self.base.identity())}


def _reorder(template: ErrorTemplate, windows: Sequence[Window], paths: Float32Array) -> Float32Array:
    """Reorder the paths (B, S, H, 6) of the next origins."""
    out = paths.copy()
    for row, window in enumerate(windows):
        template.observe(window)
        one, last = paths[row], float(window.values[-1, CLOSE])
        closes = one[..., CLOSE]
        sound = bool(np.isfinite(one).all() and (one[..., :VOLUME] > 0.0).all()) and last > 0.0
        if not sound or not (np.ptp(closes, axis=0) > 0.0).all():
            continue
        if template.rows:
            out[row] = join_candles(one, last, template.sources(closes))
        template.issue(window, closes)
    return out


class _Issued(NamedTuple):
    time: int  # candle number of the origin
    ordered: FloatArray  # logs of the closes, (S, H), increasing in S


class ErrorTemplate:
    """Positions of past outcomes in their forecasts, while a walk-forward moves on.

    Parameters
    ----------
    horizon : int
        H.
    errors : int
        Newest ones that are kept.

    Attributes
    ----------
    rows : deque of float64 (H,)
        The positions, in (0, 1), of the outcomes of one past forecast at each step; oldest first.
    """

    def __init__(self, horizon: int, errors: int) -> None:
        self.horizon = horizon
        self.rows: deque[FloatArray] = deque(maxlen=errors)
        self._fresh: deque[float] = deque(maxlen=errors)  # share of the candles of each that the one before had not
        self._issued: deque[_Issued] = deque()
        self._closes: dict[int, float] = {}  # log closes by candle number, those that an issued forecast waits for
        self._last: int | None = None
        self._learned = -horizon

    def observe(self, window: Window) -> None:
        """Learn from the forecasts whose last outcome has become known.

        Raises
        ------
        ValueError
            If the window is not after the one before it.
        """
        now = window.origin // window.interval_ms
        if self._last is not None:
            if now <= self._last:
                raise ValueError(f"origin {window.origin} is not after the one before it")
            for age in range(min(now - self._last, len(window.values))):
                close = float(window.values[-1 - age, CLOSE])
                if close > 0.0:
                    self._closes[now - age] = float(np.log(close))
        self._last = now
        while self._issued and self._issued[0].time + self.horizon <= now:
            self._learn(self._issued.popleft())
        oldest = self._issued[0].time if self._issued else now
        self._closes = {time: close for time, close in self._closes.items() if time > oldest}

    def issue(self, window: Window, closes: Float32Array) -> None:
        """Keep the forecast of the newest origin, closes (S, H), until its outcomes are known."""
        ordered = np.sort(np.log(closes.astype(np.float64)), axis=0)
        self._issued.append(_Issued(window.origin // window.interval_ms, ordered))

    def sources(self, closes: Float32Array) -> IntArray:
        """Which path's close each path gets at each step, (S, H), a permutation of the paths at every step.

        The first paths follow errors that are evenly spaced over the template, the others their own order.
        """
        n_paths = len(closes)
        by_close = closes.argsort(axis=0, kind="stable")
        own = by_close.argsort(axis=0, kind="stable")
        known = sum(self._fresh)
        n_led = round(n_paths * known / (known + OWN_WEIGHT))
        led = [self.rows[i] for i in ((np.arange(n_led) + 0.5) * len(self.rows) / max(n_led, 1)).astype(int)]
        positions = np.concatenate((np.reshape(led, (n_led, self.horizon)), (own[n_led:] + 0.5) / n_paths))
        ranks = positions.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
        return np.take_along_axis(by_close, ranks, axis=0).astype(np.int64, copy=False)

    def _learn(self, issued: _Issued) -> None:
        times = range(issued.time + 1, issued.time + self.horizon + 1)
        if all(time in self._closes for time in times):
            self.rows.append(positions_of(issued.ordered, np.array([self._closes[time] for time in times])))
            self._fresh.append(min(1.0, (issued.time - self._learned) / self.horizon))
            self._learned = issued.time


def positions_of(ordered: FloatArray, outcome: FloatArray) -> FloatArray:
    """Positions of outcomes (H,) among samples (S, H) that increase with S: a line between samples, in (0, 1).

    Beyond the outermost sample the position goes on with the distance from it over the mean absolute deviation, so that
    two outcomes that all samples missed are told apart.
    """
    n_samples = len(ordered)
    below = (ordered < outcome).sum(axis=0)
    low, high = (
        np.take_along_axis(ordered, np.clip(below + one, 0, n_samples - 1)[None], axis=0)[0] for one in (-1, 0)
    )
    spread = np.abs(ordered - np.median(ordered, axis=0)).mean(axis=0)
    beyond = np.abs(outcome - np.where(below == 0, high, low)) / spread
    width = np.where(high > low, high - low, 1.0)
    between = np.where(high > low, (outcome - low) / width, 0.5)
    share = np.where(below == 0, 1.0 / (1.0 + beyond), np.where(below == n_samples, beyond / (1.0 + beyond), between))
    return np.asarray((below + share) / (n_samples + 1.0))


def join_candles(paths: Float32Array, last: float, sources: IntArray) -> Float32Array:
    """Paths (S, H, 6) whose candle at each step is another path's, joined to the close before it.

    Parameters
    ----------
    paths : float32 (S, H, 6)
        With positive prices.
    last : float
        The last close.
    sources : int64 (S, H)
        Path from which each candle is taken.

    Returns
    -------
    float32 (S, H, 6)
        Closes, volumes and amounts are those taken, to the last bit.
    """
    taken = np.take_along_axis(paths, sources[..., None], axis=0)
    before = np.concatenate((np.full((len(paths), 1), last), paths[:, :-1, CLOSE]), axis=1)
    joined = np.concatenate((np.full((len(paths), 1), last), taken[:, :-1, CLOSE]), axis=1)
    with np.errstate(over="ignore"):
        opening = taken[..., OPEN].astype(np.float64) * joined / np.take_along_axis(before, sources, axis=0)
        body = np.stack((opening, taken[..., CLOSE].astype(np.float64)))
        old = np.sort(taken[..., [OPEN, CLOSE]].astype(np.float64), axis=-1)
        out = taken.copy()
        for channel, value in (
            (OPEN, opening),
            (HIGH, body.max(axis=0) * np.maximum(taken[..., HIGH] / old[..., 1], 1.0)),
            (LOW, body.min(axis=0) * np.minimum(taken[..., LOW] / old[..., 0], 1.0)),
        ):
            out[..., channel] = np.clip(value, SMALLEST, LARGEST)
    return out
