"""A forecaster that moves the paths of a Kronos forecaster to where the price is.

*Learned.* With e the tokenizer's reconstruction error of the last close and m the offset of the paths' median from that
close at a step, both in logarithms, the outcome y is regressed on e and on ``d = m - e``, what the model itself adds:
``y = a e + b d``. As decoded, paths assume a = b = 1; moved by the reconstruction error, a = 0 and b = 1; a random walk
has a = b = 0. The paths are moved so that their median is ``a e + b d``. Both sides are divided by the spread of the
paths, so that calm and wild hours count alike. Outcomes of neighbouring origins overlap, so one at step h counts as the
share of its h candles that are new. The coefficients are the posterior mean under a normal prior around a = b = 0, a
random walk, until outcomes say otherwise; a checkpoint can add what its own validation hours say
(`btcbt.models.kronos.checkpoints.location_prior`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from btcbt.config import LEARNED, WindowsConfig
from btcbt.errors import ForecasterError
from btcbt.forecasters.base import Forecaster, Postprocessor, change_in_order
from btcbt.models.kronos.checkpoints.location_prior import LocationPrior
from btcbt.models.kronos.inference.location import (
    LIMIT,
    kind_of_paths,
    move_prices,
    reconstruction_error,
    window_move,
)
from btcbt.records import CLOSE, VOLUME, DataRange, Float32Array, FloatArray, ForecastBatch, Window

LOOKED_AT = (
    DataRange("looked_at", 1_559_347_200_000, 1_569_888_000_000),
    DataRange("looked_at", 1_719_792_000_000, 1_735_689_600_000),
)
"""The error was found on 2019-06-01 .. 2019-10-01, and the method chosen on 2024-07-01 .. 2025-01-01."""
PRIOR_MEAN = (0.0, 0.0)
PRIOR_WEIGHT = (16.0, 16.0)
"""Inverse variances of a and b before any outcome: standard deviations of 0.25."""
EXTREME = 4.0
"""Outcomes and regressors are bounded by this many spreads, so that one candle does not decide."""
BOUND = (-1.0, 2.0)
"""Bounds of the coefficients."""

_CHUNK = 64  # origins moved at once: bounds the float64 copies
_NEVER = -(2**62)


class Located(Postprocessor):
    """Moves the paths of a Kronos forecaster, all prices of a step by one factor; volumes stay.

    A forecast of `learned` is a function of the windows and the base's paths up to its origin, in order, as that of
    `btcbt.forecasters.calibrated.Calibrated` is: it does not depend on later origins, but on where the walk-forward
    starts. An outcome is used at the first origin whose window contains it. An origin with a price that is not positive
    is left as it is and not learned from; so is, with `learned`, one whose paths are all equal.

    Parameters
    ----------
    base : Forecaster
        A Kronos forecaster, as decoded; its forecasts may depend only on their own window.
    location : str
        ``reconstruction``, ``driftless`` or ``learned``.
    """

    kind: ClassVar[str] = "located"
    looked_at = LOOKED_AT

    def __init__(self, base: Forecaster, location: str = LEARNED) -> None:
        super().__init__(base)
        self.location = location
        self.paths_are = kind_of_paths(location, base.paths_are)

    @classmethod
    def from_config(cls, config: Any, windows: WindowsConfig, seed: int, base: Forecaster | None = None) -> Self:
        """Build from a part of an experiment; see `Forecaster.from_config`."""
        if base is None:
            raise ValueError("a located forecaster needs its base")
        return cls(base, config.location)

    def follow(self, windows: Iterable[Window], batches: Iterable[ForecastBatch]) -> Iterator[ForecastBatch]:
        """Move the forecasts of all origins in order; see `Postprocessor.follow`.

        Raises
        ------
        ForecasterError
            If the base does not say how it encodes the last close.
        ValueError
            If windows and batches have different origins, or are not in order of time.
        """
        move = partial(self._move, LocationRegression(self.horizon, self.base.location_prior))
        note = {self.kind: self.location}
        yield from change_in_order(windows, batches, move, at_once=_CHUNK, verb="move", provenance=note)

    def _move(self, online: LocationRegression, windows: Sequence[Window], paths: Float32Array) -> Float32Array:
        """Move the paths (B, S, H, 6) of the next origins."""
        decoded = self.base.reconstruct(windows)
        if decoded is None:
            raise ForecasterError(
                f"forecaster of kind '{self.kind}': its base {type(self.base).__name__} has no tokenizer; "
                "name a Kronos forecaster as base"
            )
        last = np.array([window.values[-1, CLOSE] for window in windows])
        sound = np.isfinite(paths).all(axis=(1, 2, 3)) & (paths[..., :VOLUME] > 0.0).all(axis=(1, 2, 3)) & (last > 0.0)
        safe = np.where(sound[:, None, None, None], paths, np.float32(1.0))
        if self.location == LEARNED:
            moves = online.moves(windows, safe[..., CLOSE], reconstruction_error(decoded, last), sound)
        else:
            moves = window_move(self.location, safe, last, decoded)
        return np.where(sound[:, None, None, None], move_prices(safe, moves), paths)

    def identity(self) -> Mapping[str, object]:
        """The base's identity, the numerical version, the location and what it knows before the first origin."""
        prior = self.base.location_prior
        known = None if prior is None or self.location != LEARNED else prior.digest()
        return {
            "kind": self.kind,
            "version": self.version,
            "location": self.location,
            "prior_sha256": known,
            "base": dict(self.base.identity()),
        }


class LocationRegression:
    """The regression of `learned` at each step, while it moves from origin to origin.

    Parameters
    ----------
    horizon : int
        H.
    prior : LocationPrior, optional
        Sums of other hours; its last step stands for later ones.
    """

    def __init__(self, horizon: int, prior: LocationPrior | None = None) -> None:
        self.gram = np.zeros((horizon, 2, 2))
        self.moment = np.zeros((horizon, 2))
        if prior is not None:
            steps = np.minimum(np.arange(horizon), len(prior.moment) - 1)
            self.gram += prior.gram[steps]
            self.moment += prior.moment[steps]
        self._steps = np.arange(horizon)
        slots = horizon + 1
        self._time = np.full(slots, _NEVER)  # candle number of the origin in each slot
        self._close = np.ones(slots)
        self._spread = np.ones((slots, horizon))
        self._regressors = np.zeros((slots, horizon, 2))
        self._seen = np.full(horizon, _NEVER)  # candle number of the last outcome of each step
        self._last: int | None = None

    @property
    def coefficients(self) -> FloatArray:
        """The posterior mean of a and b at each step, (H, 2), within `BOUND`."""
        weight = np.diag(PRIOR_WEIGHT)
        moment = self.moment + weight @ np.asarray(PRIOR_MEAN)
        return np.clip(np.linalg.solve(self.gram + weight, moment[..., None])[..., 0], *BOUND)

    def moves(
        self, windows: Sequence[Window], closes: Float32Array, error: FloatArray, sound: NDArray[np.bool_]
    ) -> FloatArray:
        """Learn from the outcomes known by each origin, and return how far to move its paths, (B, H).

        Parameters
        ----------
        windows : sequence of Window
            In order of time.
        closes : float32 (B, S, H)
            Closes of the paths, positive.
        error : float64 (B,)
            Reconstruction errors of the last closes.
        sound : bool (B,)
            Origins to learn from.
        """
        log_closes = np.log(closes.astype(np.float64))
        median = np.median(log_closes, axis=1)
        spread = np.abs(log_closes - median[:, None]).mean(axis=1)
        moves = np.zeros(median.shape)
        for row, window in enumerate(windows):
            self._observe(window)
            usable = bool(sound[row]) and bool((spread[row] > 0.0).all())
            if not usable:
                continue
            last = float(window.values[-1, CLOSE])
            both = np.stack(
                [np.broadcast_to(error[row], median[row].shape), median[row] - np.log(last) - error[row]], 1
            )
            moves[row] = np.clip((both * (self.coefficients - 1.0)).sum(axis=1), -LIMIT, LIMIT)
            slot = (window.origin // window.interval_ms) % len(self._time)
            self._time[slot], self._close[slot] = window.origin // window.interval_ms, last
            self._spread[slot] = spread[row]
            self._regressors[slot] = np.clip(both / spread[row][:, None], -EXTREME, EXTREME)
        return moves

    def _observe(self, window: Window) -> None:
        """Learn from the candles that have closed since the previous origin."""
        now = window.origin // window.interval_ms
        if self._last is not None:
            if now <= self._last:
                raise ValueError(f"origin {window.origin} is not after the one before it")
            for age in range(min(now - self._last, len(window.values)), 0, -1):
                self._learn(now - age + 1, float(window.values[-age, CLOSE]))
        self._last = now

    def _learn(self, time: int, close: float) -> None:
        """Learn from the candle that closed at candle number `time`: the outcome of the last H forecasts."""
        slots = (time - 1 - self._steps) % len(self._time)
        known = self._time[slots] == time - 1 - self._steps
        if not known.any() or not close > 0.0:
            return
        fresh = np.where(known, np.minimum(1.0, (time - self._seen) / (self._steps + 1.0)), 0.0)
        self._seen[known] = time
        x = self._regressors[slots, self._steps]
        y = np.clip(np.log(close / self._close[slots]) / self._spread[slots, self._steps], -EXTREME, EXTREME)
        self.gram += fresh[:, None, None] * x[:, :, None] * x[:, None, :]
        self.moment += (fresh * y)[:, None] * x
