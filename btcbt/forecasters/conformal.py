"""Online conformal calibration of sampled paths, for all steps and channels of a forecast.

A forecast is summarised at each step and channel by the median of its paths and by the distances of some order
statistics, the **knots**, below and above it. Calibration moves the median by a multiple of the distance of the
innermost knots (a **shift**) and multiplies the distance of each knot by a factor (a **log scale**), with linear
interpolation for the paths between knots. Both are learned from outcomes as they become known.

*Tracking.* A log scale follows adaptive conformal inference (Gibbs and Candes, 2021, "Adaptive conformal inference
under distribution shift", equation 2), in the form that updates the interval directly (Angelopoulos, Candes and
Tibshirani, 2023, "Conformal PID control for time series prediction", section 2.1): it grows by ``rate x (1 - alpha)``
if the outcome was outside of the interval that was issued, and falls by ``rate x alpha`` if it was inside, so that the
share of misses tends to alpha for any data. The interval is the one between the r-th lowest and the r-th highest of S
paths, and alpha is ``2 r / (S + 1)``, the miss rate of a calibrated forecast: the definition of
`btcbt.metrics.distribution.interval_coverage`. The shift does the same for the median, with alpha = 1/2. Rates decay
with the evidence (Angelopoulos, Barber and Bates, 2024, "Online conformal prediction with decaying step sizes") down
to a floor. Outcomes of neighbouring origins overlap, so one at step h counts as the share of its h candles that are
new.

*Pooling.* A forecast that is too wide at one step is usually too wide at all steps. So every candle updates, besides
the scale of each step, those of all steps of its channel, by the mean over its outcomes weighted by the new share of
each, which gives most weight to short steps.

*Mixture.* The best floor depends on how fast conditions change. Several trackers run in parallel and are averaged by
Bernstein online aggregation (Wintenberger, 2017, "Optimal learning with Bernstein online aggregation") of their
linearised pinball losses, as AgACI does (Zaffran, Dieuleveut, Feron, Goude and Josse, 2022, "Adaptive conformal
predictions for time series"). The shift has one more tracker that stays at zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btcbt.records import FloatArray, IntArray

LEVELS = (50.0, 80.0, 90.0, 95.0)
"""Central intervals that are calibrated, percent, as far as the number of paths allows."""
LIMIT = 3.0
"""Bound on the absolute log scale: a factor of 20."""
SHIFT_LIMIT = 20.0
"""Bound on the absolute shift, in distances of the innermost knots."""
LEAST_SLOPE = 0.1
"""Smallest slope between two knots, as a share of the scale, so that paths keep their ranks."""

_NEVER = -(2**62)


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of the calibration: the step of a tracker for a miss.

    Attributes
    ----------
    floors : tuple of float
        Least rate of a log scale for outcomes without overlap, one tracker each. If only the share f of an outcome is
        new, the rate is multiplied by the root of f, so that scales are about equally stable at every step.
    shift_floors : tuple of float
        Least rate of the shift, multiplied by f; one tracker each.
    own, own_evidence : float
        Without a floor the rate of a step's own log scale is ``own / (own_evidence + n)`` after n independent
        outcomes.
    pooled, pooled_evidence : float
        The same for all steps of a channel together.
    shift, shift_evidence, shift_pooled, shift_pooled_evidence : float
        The same for the shift.
    still : float
        Initial weight of the tracker without a shift, in (0, 1).
    """

    floors: tuple[float, ...] = (0.005, 0.01, 0.02)
    shift_floors: tuple[float, ...] = (0.005, 0.02)
    own: float = 2.5
    own_evidence: float = 50.0
    pooled: float = 2.5
    pooled_evidence: float = 50.0
    shift: float = 0.1
    shift_evidence: float = 50.0
    shift_pooled: float = 0.1
    shift_pooled_evidence: float = 40.0
    still: float = 0.99


class OrderStatistics:
    """Which order statistics of S paths are knots.

    Attributes
    ----------
    ranks : int64 (L,)
        The r-th lowest and the r-th highest path, descending: those nearest to the ends of the intervals of `LEVELS`,
        and the outermost. Empty for a single path.
    levels : float64 (L,)
        Percent of outcomes between the two if the paths are calibrated, ``(S + 1 - 2 r) / (S + 1)``.
    """

    def __init__(self, n_paths: int) -> None:
        tails = (1.0 - np.asarray(LEVELS) / 100.0) / 2.0
        nearest = np.floor(tails * (n_paths + 1) + 0.5).astype(np.int64)
        ranks = np.unique([1, *nearest[nearest > 0]])[::-1]
        self.n_paths = n_paths
        self.ranks = ranks[2 * ranks <= n_paths]
        self.levels = 100.0 * (n_paths + 1 - 2 * self.ranks) / (n_paths + 1)

    def summarise(self, samples: FloatArray) -> QuantileSummary:
        """Summary of samples (..., S)."""
        x = np.sort(samples, axis=-1)
        middle = self.n_paths // 2
        median = x[..., middle] if self.n_paths % 2 else 0.5 * (x[..., middle - 1] + x[..., middle])
        below, above = median[..., None] - x[..., self.ranks - 1], x[..., -self.ranks] - median[..., None]
        return QuantileSummary(median, np.stack([below, above]))


@dataclass(frozen=True, slots=True, eq=False)
class QuantileSummary:
    """Summary of a forecast: median and knots. The first axis of distances is the side: below, above.

    Attributes
    ----------
    median : float64 (..., H, C)
        Median of the paths.
    knots : float64 (2, ..., H, C, L)
        Distances of the knots from the median, non-decreasing along L.
    """

    median: FloatArray
    knots: FloatArray

    @property
    def unit(self) -> FloatArray:
        """Mean distance of the innermost knots (..., H, C), in which shifts are measured; 0 without knots."""
        if not self.knots.shape[-1]:
            return np.zeros_like(self.median)
        return np.asarray(self.knots[..., 0].mean(axis=0))

    def at(self, row: int) -> QuantileSummary:
        """The summary of one origin."""
        return QuantileSummary(self.median[row], self.knots[:, row])


@dataclass(frozen=True, slots=True, eq=False)
class Adjustment:
    """Adjustment of a forecast: `shift` (..., H, C) in units, `log_scale` (..., H, C, L)."""

    shift: FloatArray
    log_scale: FloatArray


def stretch(distances: FloatArray, knots: FloatArray, log_scale: FloatArray) -> FloatArray:
    """Scale distances from the median so that each knot is multiplied by its own factor.

    Piecewise linear, through zero, strictly increasing wherever knots differ; beyond the last knot with its
    factor.

    Parameters
    ----------
    distances : float64 (..., M)
        Not negative.
    knots : float64 (..., L)
        Non-negative, non-decreasing.
    log_scale : float64 (..., L)

    Returns
    -------
    float64 (..., M)
    """
    scale = np.exp(log_scale)
    out = np.zeros(np.broadcast_shapes(distances.shape, (*scale.shape[:-1], 1)))
    knot, new = np.zeros(knots.shape[:-1]), np.zeros(scale.shape[:-1])
    for j in range(knots.shape[-1]):
        width = knots[..., j] - knot
        moved = np.maximum(scale[..., j] * knots[..., j], new + LEAST_SLOPE * scale[..., j] * width)
        moved = np.where(width > 0.0, moved, new)
        slope = (moved - new) / np.where(width > 0.0, width, 1.0)
        out += slope[..., None] * np.clip(distances - knot[..., None], 0.0, width[..., None])
        knot, new = knots[..., j], moved
    last = scale[..., -1:] if scale.shape[-1] else 1.0
    return np.asarray(out + last * np.maximum(distances - knot[..., None], 0.0))


def adjust(samples: FloatArray, summary: QuantileSummary, adjustment: Adjustment) -> FloatArray:
    """Calibrate samples (..., S): each keeps its rank."""
    distance = samples - summary.median[..., None]
    below, above = (
        stretch(np.maximum(side * distance, 0.0), knots, adjustment.log_scale)
        for side, knots in zip((-1.0, 1.0), summary.knots, strict=True)
    )
    centre = summary.median + adjustment.shift * summary.unit
    return np.asarray(centre[..., None] + above - below)


class Mixture:
    """Bernstein online aggregation of K trackers, separately for each element of an array.

    Parameters
    ----------
    prior : float (K,)
        Initial weights.
    shape : tuple of int
        Shape of the array.

    Attributes
    ----------
    weights : float64 (K, *shape)
        Non-negative, sum to one.

    Notes
    -----
    Losses are linearised at the average (the "gradient trick"), so that the average is nearly as good as the
    best fixed average of trackers. The learning rate falls with the squared losses seen (Wintenberger, 2017,
    section 4), so that it needs no tuning.
    """

    def __init__(self, prior: ArrayLike, shape: tuple[int, ...]) -> None:
        weights = np.asarray(prior, dtype=np.float64).reshape(-1, *(1,) * len(shape))
        self._prior = np.broadcast_to(weights / weights.sum(), (len(weights), *shape))
        self._loss = np.zeros(self._prior.shape)
        self._square = np.zeros(self._prior.shape)
        self._range = np.zeros(shape)
        self.weights = np.array(self._prior)

    def update(self, excess: FloatArray) -> None:
        """Update with each tracker's loss minus that of the average, (K, *shape); 0 where nothing was observed."""
        if len(excess) == 1:
            return
        self._range = np.maximum(self._range, np.abs(excess).max(axis=0))
        self._square += excess**2
        steepest = 0.5 / np.where(self._range > 0.0, self._range, 1.0)
        spread = np.where(self._square > 0.0, self._square, np.inf)
        rate = np.minimum(steepest, np.sqrt(np.log(len(excess)) / spread))
        self._loss += excess * (1.0 + rate * excess)
        score = -rate * self._loss
        # A tracker that never differed from the average has no rate yet; it gets the fastest.
        rate = np.where(rate > 0.0, rate, steepest)
        weights = self._prior * rate * np.exp(score - score.max(axis=0))
        self.weights = weights / weights.sum(axis=0)


@dataclass(slots=True, eq=False)
class _Issued:
    """The forecasts of the last H + 1 candles as issued, in R slots, with which outcomes are compared.

    `time` (R,) is the candle number of the origin; `shifts`, `scales` and `halves` (the distances of the scaled
    knots) have one entry per tracker, the average last.
    """

    time: IntArray
    median: FloatArray  # (R, H, C)
    unit: FloatArray  # (R, H, C)
    knots: FloatArray  # (R, H, C, 2, L)
    shifts: FloatArray  # (R, H, C, K' + 1)
    scales: FloatArray  # (R, H, C, K + 1, L)
    halves: FloatArray  # (R, H, C, 2, K + 1, L)


class Calibration:
    """The state of the calibration: call `observe` for each new candle, then `issue` at an origin.

    Times are candle numbers: milliseconds over the interval. The state depends only on the sequence of
    calls.

    Parameters
    ----------
    horizon, channels : int
        H and C.
    order : OrderStatistics
        Of the paths.
    rates : Rates
        Learning rates.
    """

    def __init__(self, horizon: int, channels: int, order: OrderStatistics, rates: Rates | None = None) -> None:
        rates = rates or Rates()
        places, n_levels, slots = (horizon, channels), len(order.levels), horizon + 1
        k, k_shift = len(rates.floors), len(rates.shift_floors) + 1
        moving = (1.0 - rates.still) / (k_shift - 1)
        self.order, self.rates = order, rates
        self._alpha = 1.0 - order.levels / 100.0
        self._steps = np.arange(horizon)
        self._shifts = np.zeros((*places, k_shift))
        self._scales = np.zeros((*places, k, n_levels))
        self._shift_mix = Mixture([rates.still, *(moving,) * (k_shift - 1)], places)
        self._scale_mix = Mixture(np.ones(k), places)
        self._evidence, self._last = np.zeros(horizon), np.full(horizon, _NEVER)
        self._pooled_evidence = 0.0
        self._issued = _Issued(
            time=np.full(slots, _NEVER),
            median=np.zeros((slots, *places)),
            unit=np.zeros((slots, *places)),
            knots=np.zeros((slots, *places, 2, n_levels)),
            shifts=np.zeros((slots, *places, k_shift + 1)),
            scales=np.zeros((slots, *places, k + 1, n_levels)),
            halves=np.zeros((slots, *places, 2, k + 1, n_levels)),
        )

    def issue(self, time: int, summary: QuantileSummary) -> Adjustment:
        """Return the adjustment of the forecast of an origin, and store it as issued.

        Parameters
        ----------
        time : int
            Candle number of the origin, larger than that of the previous one.
        summary : QuantileSummary (H, C)
            Of the forecast.
        """
        now, issued, slot = self.adjustment(), self._issued, time % len(self._issued.time)
        scales = np.concatenate([self._scales, now.log_scale[:, :, None]], axis=2)
        issued.time[slot] = time
        issued.median[slot], issued.unit[slot] = summary.median, summary.unit
        issued.shifts[slot] = np.concatenate([self._shifts, now.shift[:, :, None]], axis=2)
        issued.scales[slot] = scales
        for side in (0, 1):
            issued.knots[slot, :, :, side] = summary.knots[side]
            knots = np.broadcast_to(summary.knots[side, :, :, None], scales.shape)
            issued.halves[slot, :, :, side] = stretch(knots, knots, scales)
        return now

    def adjustment(self) -> Adjustment:
        """The current adjustment."""
        shift = np.einsum("khc,hck->hc", self._shift_mix.weights, self._shifts)
        scale = np.einsum("khc,hckl->hcl", self._scale_mix.weights, self._scales)
        return Adjustment(shift, scale)

    def observe(self, time: int, values: FloatArray) -> None:
        """Learn from the candle that closed at candle number `time`.

        Parameters
        ----------
        time : int
            Larger than that of the previous candle, and not beyond the next origin.
        values : float64 (H, C)
            The candle in the coordinates of the forecasts made h = 1 .. H candles ago; rows whose forecast was
            not issued are ignored.
        """
        slots = (time - 1 - self._steps) % len(self._issued.time)
        known = self._issued.time[slots] == time - 1 - self._steps
        if not known.any() or not len(self._alpha):
            return
        fresh, share = self._weigh(time, known)
        error = values - self._issued.median[slots, self._steps]
        self._learn_shift(slots, error, known, fresh, share)
        self._learn_scale(slots, error, known, fresh, share)

    def _weigh(self, time: int, known: NDArray[np.bool_]) -> tuple[FloatArray, float]:
        """Count the evidence: the new share of each step's outcome (H,), and the new share over all steps."""
        steps = self._steps + 1.0
        fresh = np.where(known, np.minimum(1.0, (time - self._last) / steps), 0.0)
        share = float(fresh.sum() / (1.0 / steps).sum())  # 1 if every candle is an origin
        self._last[known] = time
        self._evidence += fresh
        self._pooled_evidence += share
        return fresh, share

    def _learn_shift(
        self, slots: IntArray, error: FloatArray, known: NDArray[np.bool_], fresh: FloatArray, share: float
    ) -> None:
        rates = self.rates
        unit = self._issued.unit[slots, self._steps]
        usable = known[:, None] & (unit > 0.0)
        error = np.where(usable, error, 0.0) / np.where(unit > 0.0, unit, 1.0)
        shifts = self._issued.shifts[slots, self._steps]
        side = np.where(usable[..., None], np.sign(error[..., None] - shifts), 0.0)
        rate = fresh * rates.shift / (self._evidence + rates.shift_evidence)
        pooled = share * rates.shift_pooled / (self._pooled_evidence + rates.shift_pooled_evidence)
        moving = side[..., 1:-1]  # the first stays at zero, the last is the average
        floors = np.multiply.outer(fresh, rates.shift_floors)[:, None]
        self._shifts[..., 1:] += np.maximum(rate[:, None, None], floors) * moving
        self._shifts[..., 1:] += pooled * _mean_over_steps(moving, usable[..., None], fresh)
        np.clip(self._shifts, -SHIFT_LIMIT, SHIFT_LIMIT, out=self._shifts)
        excess = side[..., -1:] * (shifts[..., -1:] - shifts[..., :-1])
        # Overlapping outcomes carry mostly known information about the shift.
        self._shift_mix.update(np.moveaxis(fresh[:, None, None] * excess, -1, 0))

    def _learn_scale(
        self, slots: IntArray, error: FloatArray, known: NDArray[np.bool_], fresh: FloatArray, share: float
    ) -> None:
        rates, issued, steps = self.rates, self._issued, self._steps
        error = error - issued.shifts[slots, steps, :, -1] * issued.unit[slots, steps]
        above = (error > 0.0)[..., None]
        knots, halves, scales = issued.knots[slots, steps], issued.halves[slots, steps], issued.scales[slots, steps]
        usable = known[:, None, None] & (np.where(above, knots[:, :, 1], knots[:, :, 0]) > 0.0)
        half = np.where(above[..., None], halves[:, :, 1], halves[:, :, 0])
        missed = np.abs(error)[..., None, None] > half
        push = np.where(usable[:, :, None], missed - self._alpha, 0.0)  # (H, C, K + 1, L)
        rate = fresh * rates.own / (self._evidence + rates.own_evidence)
        pooled = share * rates.pooled / (self._pooled_evidence + rates.pooled_evidence)
        floors = np.multiply.outer(np.sqrt(fresh), rates.floors)[:, None, :, None]
        self._scales += np.maximum(rate[:, None, None, None], floors) * push[:, :, :-1]
        self._scales += pooled * _mean_over_steps(push[:, :, :-1], usable[:, :, None], fresh)
        np.clip(self._scales, -LIMIT, LIMIT, out=self._scales)
        excess = (push[:, :, -1:] * (scales[:, :, -1:] - scales[:, :, :-1])).sum(axis=-1)
        self._scale_mix.update(np.moveaxis(excess, -1, 0))


def _mean_over_steps(values: FloatArray, usable: NDArray[np.bool_], weights: FloatArray) -> FloatArray:
    """Weighted mean over usable entries of the first axis, which is kept; 0 where there are none."""
    share = weights.reshape(-1, *(1,) * (values.ndim - 1)) * usable
    total = share.sum(axis=0, keepdims=True)
    return np.asarray((share * values).sum(axis=0, keepdims=True) / np.where(total > 0.0, total, 1.0))
