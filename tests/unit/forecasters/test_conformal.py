"""The calibrator's state machine against a slow twin, and what it does to forecasts that are wrong."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from btcbt.forecasters.conformal import (
    LEAST_SLOPE,
    LIMIT,
    Adjustment,
    Calibration,
    Mixture,
    OrderStatistics,
    QuantileSummary,
    Rates,
    adjust,
    stretch,
)
from btcbt.metrics.distribution import interval_coverage
from btcbt.records import FloatArray


@dataclass
class SlowMixture:
    """Bernstein online aggregation in one place, by the book."""

    prior: list[float]
    loss: list[float] = field(default_factory=list)
    square: list[float] = field(default_factory=list)
    bound: float = 0.0

    def __post_init__(self) -> None:
        self.weights = [p / sum(self.prior) for p in self.prior]
        self.loss = [0.0] * len(self.prior)
        self.square = [0.0] * len(self.prior)

    def update(self, excess: list[float]) -> None:
        if len(excess) == 1 or (not any(excess) and not self.bound):
            return
        self.bound = max(self.bound, *(abs(e) for e in excess))
        terms = []
        for k, e in enumerate(excess):
            self.square[k] += e * e
            rate = 0.5 / self.bound
            if self.square[k]:
                rate = min(rate, math.sqrt(math.log(len(excess)) / self.square[k]))
            self.loss[k] += e * (1.0 + rate * e)
            terms.append(self.prior[k] * rate * math.exp(-rate * self.loss[k]))
        self.weights = [term / sum(terms) for term in terms]


class SlowCalibration:
    """The same learning as `Calibration`, one number at a time, with every forecast kept."""

    def __init__(self, horizon: int, channels: int, n_paths: int, rates: Rates) -> None:
        self.order, self.rates = OrderStatistics(n_paths), rates
        self.horizon, self.channels = horizon, channels
        self.alpha = [2.0 * r / (n_paths + 1) for r in self.order.ranks.tolist()]
        moving = (1.0 - rates.still) / len(rates.shift_floors)
        self.places = [(h, c) for h in range(horizon) for c in range(channels)]
        self.shifts = {p: [0.0] * (1 + len(rates.shift_floors)) for p in self.places}
        self.scales = {p: [[0.0] * len(self.alpha) for _ in rates.floors] for p in self.places}
        self.shift_mix = {p: SlowMixture([rates.still, *[moving] * len(rates.shift_floors)]) for p in self.places}
        self.scale_mix = {p: SlowMixture([1.0] * len(rates.floors)) for p in self.places}
        self.evidence, self.last = [0.0] * horizon, [-(10**9)] * horizon
        self.pooled = 0.0
        self.issued: dict[int, dict] = {}

    def average(self, place):
        shift = sum(w * s for w, s in zip(self.shift_mix[place].weights, self.shifts[place], strict=True))
        weights, scales = self.scale_mix[place].weights, self.scales[place]
        scale = [sum(w * s[j] for w, s in zip(weights, scales, strict=True)) for j in range(len(self.alpha))]
        return shift, scale

    def issue(self, time: int, summary: QuantileSummary) -> Adjustment:
        shift, scale = np.zeros((self.horizon, self.channels)), np.zeros(summary.knots.shape[1:])
        kept = {}
        for place in self.places:
            shift[place], scale[place] = self.average(place)
            kept[place] = {
                "median": summary.median[place],
                "knots": (summary.knots[0][place].tolist(), summary.knots[1][place].tolist()),
                "shifts": list(self.shifts[place]),
                "shift": shift[place],
                "scales": [list(s) for s in self.scales[place]],
                "scale": list(scale[place]),
            }
        self.issued[time] = kept
        return Adjustment(shift, scale)

    def observe(self, time: int, values: FloatArray) -> None:
        known = [h for h in range(self.horizon) if time - h - 1 in self.issued]
        if not known:
            return
        fresh = {h: min(1.0, (time - self.last[h]) / (h + 1)) for h in known}
        share = sum(fresh.values()) / sum(1.0 / (h + 1) for h in range(self.horizon))
        for h in known:
            self.last[h] = time
            self.evidence[h] += fresh[h]
        self.pooled += share
        for c in range(self.channels):
            self._learn(time, c, known, fresh, share, values)

    def _learn(self, time, c, known, fresh, share, values):
        r = self.rates
        shift_push, scale_push = {}, {}
        for h in known:
            one = self.issued[time - h - 1][h, c]
            below, above = one["knots"]
            unit = (below[0] + above[0]) / 2
            error = values[h, c] - one["median"]
            if unit > 0:
                shift_push[h] = [sign(error / unit - s) for s in one["shifts"]]
                slope = sign(error / unit - one["shift"])
                self.shift_mix[h, c].update([fresh[h] * slope * (one["shift"] - s) for s in one["shifts"]])
            error -= one["shift"] * unit
            knots = above if error > 0 else below
            for j, knot in enumerate(knots):
                if knot > 0:
                    scale_push[h, j] = [
                        (abs(error) > half(knots, scale, j)) - self.alpha[j] for scale in [*one["scales"], one["scale"]]
                    ]
            excess = [
                sum(
                    scale_push[h, j][-1] * (one["scale"][j] - scale[j])
                    for j in range(len(knots))
                    if (h, j) in scale_push
                )
                for scale in one["scales"]
            ]
            self.scale_mix[h, c].update(excess)
        pooled = share * r.shift_pooled / (self.pooled + r.shift_pooled_evidence)
        for k, floor in enumerate(r.shift_floors, start=1):
            mean = weighted((fresh[h], push[k]) for h, push in shift_push.items())
            for h in range(self.horizon):
                rate = fresh.get(h, 0.0) * r.shift / (self.evidence[h] + r.shift_evidence)
                own = shift_push[h][k] if h in shift_push else 0.0
                self.shifts[h, c][k] += max(rate, floor * fresh.get(h, 0.0)) * own + pooled * mean
        pooled = share * r.pooled / (self.pooled + r.pooled_evidence)
        for j in range(len(self.alpha)):
            for k, floor in enumerate(r.floors):
                mean = weighted((fresh[h], push[k]) for (h, level), push in scale_push.items() if level == j)
                for h in range(self.horizon):
                    rate = fresh.get(h, 0.0) * r.own / (self.evidence[h] + r.own_evidence)
                    own = scale_push[h, j][k] if (h, j) in scale_push else 0.0
                    moved = (
                        self.scales[h, c][k][j] + max(rate, floor * math.sqrt(fresh.get(h, 0.0))) * own + pooled * mean
                    )
                    self.scales[h, c][k][j] = min(LIMIT, max(-LIMIT, moved))


def weighted(pairs) -> float:
    """Mean of (weight, value) pairs; 0 of none."""
    pairs = list(pairs)
    return sum(w * value for w, value in pairs) / sum(w for w, _ in pairs) if pairs else 0.0


def sign(x: float) -> float:
    return float(x > 0) - float(x < 0)


def half(knots: list[float], scale: list[float], level: int) -> float:
    """Where a knot comes to lie."""
    before = new = 0.0
    for j in range(level + 1):
        if knots[j] > before:
            factor = math.exp(scale[j])
            new = max(factor * knots[j], new + LEAST_SLOPE * factor * (knots[j] - before))
        before = knots[j]
    return new


def slow_adjust(samples: FloatArray, summary: QuantileSummary, adjustment: Adjustment) -> FloatArray:
    out = np.empty_like(samples)
    for place in np.ndindex(*samples.shape[:-1]):
        median, unit = summary.median[place], summary.unit[place]
        for p, x in enumerate(samples[place]):
            knots = summary.knots[1 if x > median else 0][place].tolist()
            scale = adjustment.log_scale[place].tolist()
            nodes = [0.0, *knots]
            moved = [0.0, *(half(knots, scale, j) for j in range(len(knots)))]
            distance = abs(x - median)
            if not knots or distance > knots[-1]:
                far = (moved[-1] + math.exp(scale[-1]) * (distance - nodes[-1])) if knots else distance
            else:
                far = np.interp(distance, nodes, moved)
            out[*place, p] = median + adjustment.shift[place] * unit + math.copysign(far, x - median)
    return out


def walk(rng: np.random.Generator, n: int, horizon: int, n_paths: int, scale: float = 1.0, offset: float = 0.0):
    """Random-walk outcomes and samples of them that are `scale` times too wide and off by `offset`."""
    steps = rng.standard_normal(n + horizon)
    level = np.concatenate([[0.0], np.cumsum(steps)])
    paths = np.cumsum(rng.standard_normal((n, n_paths, horizon)), axis=2)
    root = np.sqrt(np.arange(1, horizon + 1))
    samples = level[:n, None, None] + scale * paths + offset * root
    return level, np.moveaxis(samples, 1, -1)[:, :, None, :]  # (n, H, 1, S)


def calibrate(machine, level: FloatArray, samples: FloatArray, origins=None, summary_of=None) -> FloatArray:
    """Run a machine over a walk in which candle t closes at level[t]; adjusted samples."""
    horizon = samples.shape[1]
    summary = machine.order.summarise(samples)
    out, previous = [], None
    for t in range(len(samples)) if origins is None else origins:
        if previous is not None:
            for time in range(previous + 1, t + 1):
                machine.observe(time, np.full((horizon, samples.shape[2]), level[time]))
        one = summary.at(t)
        adjustment = machine.issue(t, one)
        out.append(adjust(samples[t], one, adjustment))
        previous = t
    return np.array(out)


@pytest.mark.parametrize(
    ("n_paths", "ranks"), [(30, [8, 3, 2, 1]), (1, []), (2, [1]), (3, [1]), (10, [3, 1]), (5, [2, 1])]
)
def test_knots_are_the_order_statistics_nearest_to_the_intervals(n_paths: int, ranks: list[int]) -> None:
    order = OrderStatistics(n_paths)
    assert order.ranks.tolist() == ranks
    assert order.levels == pytest.approx([100 * (1 - 2 * r / (n_paths + 1)) for r in ranks])


def test_the_levels_of_the_knots_are_what_an_exchangeable_forecast_covers(rng: np.random.Generator) -> None:
    order = OrderStatistics(10)
    draws = rng.standard_t(3, (40_000, 11))
    x, y = np.sort(draws[:, :10], axis=1), draws[:, 10]
    for rank, level in zip(order.ranks, order.levels, strict=True):
        inside = (y >= x[:, rank - 1]) & (y <= x[:, -rank])
        assert 100 * inside.mean() == pytest.approx(level, abs=0.8)


@pytest.mark.parametrize(
    ("n_paths", "origins"),
    [(7, None), (30, None), (8, [*range(9), *range(20, 30), *range(31, 60, 2)]), (30, list(range(0, 60, 5)))],
)
def test_the_vectorised_machine_learns_what_its_slow_twin_learns(rng, n_paths, origins) -> None:
    horizon, n = 4, 60
    rates = Rates(floors=(0.01, 0.05), shift_floors=(0.0, 0.02), still=0.6, pooled_evidence=10.0)
    level, samples = walk(rng, n, horizon, n_paths, scale=0.5, offset=0.4)
    samples = np.concatenate([samples, 1.7 * samples], axis=2)
    samples[5, 2, 0] = samples[5, 2, 0, 0]  # no width at all
    samples[6, 1, 1, : n_paths // 2 + 1] = samples[6, 1, 1].min()  # nothing below the median
    fast = Calibration(horizon, 2, OrderStatistics(n_paths), rates)
    slow = SlowCalibration(horizon, 2, n_paths, rates)
    got = calibrate(fast, level, samples, origins)
    expected = calibrate(slow, level, samples, origins)
    assert np.abs(fast.adjustment().log_scale).max() > 0.1
    assert np.abs(fast.adjustment().shift).max() > 0.001
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def test_stretching_equals_a_loop_and_keeps_ranks(rng: np.random.Generator) -> None:
    order = OrderStatistics(12)
    samples = np.round(rng.standard_normal((5, 3, 2, 12)), 1)  # with ties
    summary = order.summarise(samples)
    adjustment = Adjustment(rng.normal(size=(5, 3, 2)), rng.normal(size=(5, 3, 2, len(order.ranks))))
    got = adjust(samples, summary, adjustment)
    np.testing.assert_allclose(got, slow_adjust(samples, summary, adjustment), rtol=0, atol=1e-12)
    a, b = (np.sign(x[..., :, None] - x[..., None, :]) for x in (samples, np.round(got, 9)))
    assert np.array_equal(a, b)


def test_without_an_adjustment_nothing_moves(rng: np.random.Generator) -> None:
    order = OrderStatistics(30)
    samples = rng.standard_normal((4, 2, 1, 30))
    summary = order.summarise(samples)
    nothing = Adjustment(np.zeros((4, 2, 1)), np.zeros((4, 2, 1, 4)))
    np.testing.assert_allclose(adjust(samples, summary, nothing), samples, rtol=0, atol=1e-14)


def test_knots_move_by_their_own_factors() -> None:
    knots = np.array([1.0, 2.0, 4.0])
    moved = stretch(np.array([0.0, 0.5, 1.0, 3.0, 4.0, 5.0]), knots, np.log([2.0, 3.0, 2.0]))
    assert moved == pytest.approx([0.0, 1.0, 2.0, 7.0, 8.0, 10.0])


def test_a_knot_never_overtakes_the_next() -> None:
    moved = stretch(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.log([5.0, 1.0]))
    assert moved == pytest.approx([5.0, 5.0 + LEAST_SLOPE])


@pytest.mark.parametrize(("scale", "offset"), [(0.4, 0.0), (2.5, 0.0), (1.0, 0.6), (1.0, 0.0)])
def test_coverage_comes_right_whatever_the_paths_were(rng, scale: float, offset: float) -> None:
    level, samples = walk(rng, 1800, 3, 30, scale, offset)
    got = np.sort(calibrate(Calibration(3, 1, OrderStatistics(30)), level, samples), axis=-1)
    late = range(600, 1800)
    for h in range(3):
        outcome = np.array([level[t + h + 1] for t in late])
        for nominal in (50, 80, 90):
            held = 100 * interval_coverage(got[late, h, 0], outcome, nominal).mean()
            assert held == pytest.approx(nominal, abs=2.5), (h, nominal)


def test_misses_tend_to_alpha_on_adversarial_outcomes() -> None:
    """The bound of adaptive conformal inference holds whatever the data do: here they change scale all the time."""
    n, n_paths = 2000, 30
    samples = np.broadcast_to(np.linspace(-1, 1, n_paths), (n, 1, 1, n_paths))
    size = np.where(np.arange(n + 1) // 100 % 2, 0.2, 3.0)
    level = size * np.sin(np.arange(n + 1) ** 1.5)
    rate = 0.05
    rates = Rates(floors=(rate,), own=0.0, pooled=0.0, shift=0.0, shift_pooled=0.0, shift_floors=(0.0,))
    machine = Calibration(1, 1, OrderStatistics(n_paths), rates)
    got = np.sort(calibrate(machine, level, samples), axis=-1)[:, 0, 0]
    for rank, nominal in zip(machine.order.ranks, machine.order.levels, strict=True):
        outside = (level[1:] < got[:, rank - 1]) | (level[1:] > got[:, -rank])
        # LIMIT is never met, so the sum of (miss - alpha) is the log scale over the rate: at most 2 / 0.05.
        assert abs(np.mean(outside[:-1]) - (1 - nominal / 100)) < 2.0 / rate / n


def test_aggregation_follows_the_better_tracker_and_survives_silence() -> None:
    mixture = Mixture([1.0, 1.0], (2,))
    for _ in range(200):
        mixture.update(np.array([[0.1, 0.0], [-0.1, 0.0]]))
    assert mixture.weights[1, 0] > 0.9
    assert mixture.weights[:, 1] == pytest.approx([0.5, 0.5])


def test_aggregation_equals_its_slow_twin(rng: np.random.Generator) -> None:
    mixture, slow = Mixture([0.7, 0.2, 0.1], ()), SlowMixture([0.7, 0.2, 0.1])
    for _ in range(60):
        losses = rng.exponential(size=3)
        excess = losses - mixture.weights @ losses
        mixture.update(excess)
        slow.update(excess.tolist())
        assert mixture.weights == pytest.approx(slow.weights)


def test_scales_stop_at_their_limit() -> None:
    samples = np.broadcast_to(1e-9 * np.arange(4.0), (2000, 1, 1, 4))
    machine = Calibration(1, 1, OrderStatistics(4), Rates(floors=(0.05,)))
    calibrate(machine, 1e6 * np.ones(2001), samples)
    assert np.abs(machine.adjustment().log_scale).max() == LIMIT
    assert np.isfinite(machine.adjustment().shift).all()
