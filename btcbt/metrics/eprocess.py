"""E-processes: evidence against "it is no better" that may be looked at after every hour, and stopped on.

An e-process starts at 1 and, under its null, has an expectation of at most 1 whenever one stops. To claim an edge once
it reaches 20 is to be wrong in at most 5 % of all records, however often one looks (Ville).

Forecasts that overlap. An outcome of origin i is known `lag` origins later. Origins i, i + lag, i + 2 lag ... make a
sequence in which each outcome is known when the next forecast is made; there are `lag` such sequences, each with
its own product of bets, and the evidence is their average (Henzi and Ziegel, 2022; Arnold, Henzi and Ziegel, 2023).
That average is no supermartingale in hourly time, as its authors corrected (Biometrika 109(4), 1181-1182): when one
stops, lag - 1 bets are still open, and the expectation is bounded only once they are settled. So what is returned
here takes every open bet at the worst outcome that it can have. If that reaches 20, so will the average when they
are settled, which the corrected proposition 2 bounds.

Differences must have bounds that are known when the forecasts are made. Those of CRPS and energy scores have:
`crps_difference_bound`, `energy_difference_bound`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from btcbt.records import FloatArray

_MOST_STAKED = 0.5  # share of the bound that a bet may lose
_PRIOR = 1.0  # squared scaled differences that the first bets are tempered by, per sequence
_RATES = 0.5 * np.geomspace(0.01, 0.7, 8)  # mixed over by the e-process of averages; each below 1 / 2


@dataclass(frozen=True, slots=True)
class EProcess:
    """Evidence over time that the first forecaster is better.

    Attributes
    ----------
    values : float64 (n, ...)
        Entry t may be looked at once the outcome of origin t is known. Open bets count at their worst.
    p_value : float64 (n, ...)
        Anytime-valid: 1 over the largest value so far, at most 1.
    """

    values: FloatArray
    p_value: FloatArray

    def rejects(self, size: float = 0.05) -> FloatArray:
        """Whether the evidence ever sufficed, 1 or 0 for each record (...)."""
        return np.asarray(np.max(self.values, axis=0) >= 1.0 / size, dtype=np.float64)


def conditional_e_process(difference: ArrayLike, bound: ArrayLike, lag: int) -> EProcess:
    """Evidence against "at no hour is its expected loss the smaller, given what is known".

    Henzi and Ziegel (2022), Biometrika 109(3), with their correction: products of ``1 - lambda_i d_i / b_i``,
    averaged over the `lag` interleaved sequences. The stake lambda_i is chosen at origin i from the outcomes known
    then: the mean of ``-d / b`` over its mean square, tempered at first, and in [0, 1/2]. Any stake known at the
    origin is valid.

    One-sided: large values say that the first forecaster is better (swap signs for the other side, and share the size
    between both). The null is that of Giacomini and White, at every origin, so a forecaster that is better in some
    regime alone is against it too; for "better on average" see `average_e_process`. Dependence: any. NaN
    differences (no outcome, or no score) count as zero; they must not be missing because of what the outcome was.

    Parameters
    ----------
    difference : float (n, ...)
        Loss less reference loss in time order; further axes are further records.
    bound : float (n, ...)
        The most that the difference can be in size, known at the origin; a scalar will do.
    lag : int
        Origins whose outcomes overlap, itself included.

    Raises
    ------
    ValueError
        If a difference exceeds its bound.
    """
    x = _scaled(difference, bound, lag)
    stakes = _stakes(x, lag)
    return _combine(np.log1p(stakes[: len(x)] * x), np.log1p(-stakes), lag)


def average_e_process(difference: ArrayLike, bound: ArrayLike, lag: int) -> EProcess:
    """Evidence against "on average over the hours so far, its expected scaled loss has at no time been the smaller".

    Choe and Ramdas (2023), Operations Research 72(4): the empirical-Bernstein process behind their theorem 2, which is
    theorem 4 of Howard, Ramdas, McAuliffe and Sekhon (2021), Annals of Statistics 49(2). With ``x = -d / b`` in
    [-1, 1] and g_i the mean of the x known at origin i, ``exp(lambda sum x - psi(lambda) sum (x - g)^2)``, where
    ``psi(l) = (-log(1 - 2 l) - 2 l) / 4``, mixed evenly over eight values of lambda in (0, 1/2) and averaged over
    the `lag` interleaved sequences. The null is about the average in each of these sequences.

    It may not bet on regimes, so it finds less than `conditional_e_process`, and says more. Parameters, sides, NaN and
    errors are the same.
    """
    x = _scaled(difference, bound, lag)
    centre = _known_mean(x, lag)
    gains, worst = [], []
    for rate in _RATES:
        psi = (-np.log1p(-2.0 * rate) - 2.0 * rate) / 4.0
        gains.append(rate * x - psi * (x - centre[: len(x)]) ** 2)
        # Concave in x, so smallest at an end.
        low, high = -rate - psi * (1.0 + centre) ** 2, rate - psi * (1.0 - centre) ** 2
        worst.append(np.minimum(low, high))
    parts = [_combine(gain, open_bet, lag).values for gain, open_bet in zip(gains, worst, strict=True)]
    return _evidence(np.mean(parts, axis=0))


def crps_difference_bound(samples: ArrayLike, reference: ArrayLike) -> FloatArray:
    """The most that two forecasts' CRPS can differ by in size, whatever happens.

    ``E|X - y| - E|X' - y|`` is piecewise linear in the outcome y with bends at the paths, so its extremes are there, or
    far outside, where it is the difference of means. The spread terms do not depend on y. Holds for fair and plain
    estimators together: it takes whichever spread terms give the larger bound.

    Parameters
    ----------
    samples : float (n, S)
        Paths of the first forecaster at one step.
    reference : float (n, R)
        Of the other.

    Returns
    -------
    float64 (n,)
        In the unit of the samples; NaN where any path is.
    """
    a, b = np.asarray(samples, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    apart = a.mean(axis=1) - b.mean(axis=1)
    low, high = np.minimum(apart, -apart), np.maximum(apart, -apart)
    step = max(1, 2**22 // ((a.shape[1] + b.shape[1]) * max(a.shape[1], b.shape[1])))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        y = np.concatenate([a[rows], b[rows]], axis=1)[:, :, None]
        gap = np.abs(a[rows, None, :] - y).mean(axis=2) - np.abs(b[rows, None, :] - y).mean(axis=2)
        low[rows], high[rows] = np.minimum(low[rows], gap.min(axis=1)), np.maximum(high[rows], gap.max(axis=1))
    (a_low, a_high), (b_low, b_high) = _spread_terms(a), _spread_terms(b)
    return np.asarray(np.maximum(high - a_low + b_high, -(low - a_high + b_low)))


def energy_difference_bound(samples: ArrayLike, reference: ArrayLike) -> FloatArray:
    """A bound on how much two forecasts' energy scores can differ in size, whatever happens.

    ``|E|X - y| - E|X' - y|| <= E|X - X'|`` by the triangle inequality, plus the difference of the spread terms, the
    larger of the fair and the plain one.

    Parameters
    ----------
    samples : float (n, S, D)
    reference : float (n, R, D)

    Returns
    -------
    float64 (n,)
        NaN where any path is.
    """
    from scipy.spatial.distance import cdist

    ours, theirs = np.asarray(samples, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    out = np.full(len(ours), np.nan)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if np.isnan(a).any() or np.isnan(b).any():
            continue
        halves = [(cdist(x, x).sum() / (2.0 * len(x) ** 2), len(x) / max(len(x) - 1.0, 1.0)) for x in (a, b)]
        apart = max(abs(halves[0][0] * f - halves[1][0] * g) for f in (1.0, halves[0][1]) for g in (1.0, halves[1][1]))
        out[i] = cdist(a, b).mean() + apart
    return out


def _spread_terms(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Half the mean distance of two paths, (n,): plain, and fair, which is the larger."""
    ordered, n = np.sort(x, axis=1), x.shape[1]
    plain = ordered @ (2.0 * np.arange(n) - n + 1.0) / n**2
    return plain, plain * n / max(n - 1.0, 1.0)


def _scaled(difference: ArrayLike, bound: ArrayLike, lag: int) -> FloatArray:
    """Turn losses into gains in [-1, 1], zero where there is none."""
    if lag < 1:
        raise ValueError(f"lag {lag} is below 1")
    d, b = np.broadcast_arrays(np.asarray(difference, dtype=np.float64), np.asarray(bound, dtype=np.float64))
    known = np.isfinite(d) & (b > 0.0)
    beyond = np.abs(d) > b * (1.0 + 1e-9) + 1e-300
    if np.any(beyond & np.isfinite(d)):
        first = int(np.argwhere(beyond & np.isfinite(d))[0][0])
        raise ValueError(f"the difference of origin {first} exceeds its bound; bounds must hold for every outcome")
    return np.where(known, np.clip(-d / np.where(known, b, 1.0), -1.0, 1.0), 0.0)


def _past_sums(x: FloatArray, lag: int) -> FloatArray:
    """Sums (n + lag - 1, ...) of what is known at each origin, those with open outcomes at the end included."""
    return np.concatenate([np.zeros((lag, *x.shape[1:])), np.cumsum(x, axis=0)])[: len(x) + lag - 1]


def _stakes(x: FloatArray, lag: int) -> FloatArray:
    """Stake at each origin (n + lag - 1, ...), from the outcomes known there."""
    stake = _past_sums(x, lag) / (_past_sums(x**2, lag) + _PRIOR * lag)
    return np.clip(stake, 0.0, _MOST_STAKED)


def _known_mean(x: FloatArray, lag: int) -> FloatArray:
    known = np.maximum(np.arange(len(x) + lag - 1) - lag + 1, 0).reshape(-1, *(1,) * (x.ndim - 1))
    return np.asarray(_past_sums(x, lag) / np.maximum(known, 1))


def _combine(gain: FloatArray, worst: FloatArray, lag: int) -> EProcess:
    """Average the sequences' products of log gains (n, ...), open bets at their worst (n + lag - 1, ...)."""
    n, rest = len(gain), gain.shape[1:]
    padded = np.zeros((-(-n // lag) * lag, *rest))
    padded[:n] = gain
    product = np.exp(np.cumsum(padded.reshape(-1, lag, *rest), axis=0)).reshape(-1, *rest)[:n]
    before = np.concatenate([np.ones((min(lag, n + lag - 1), *rest)), product])[: n + lag - 1]
    held = before * np.exp(worst)  # value of each origin's sequence if its bet goes as badly as it can
    values = product.copy()
    for ahead in range(1, lag):
        values += held[ahead : ahead + n]
    return _evidence(values / lag)


def _evidence(values: FloatArray) -> EProcess:
    return EProcess(values, np.minimum(1.0, 1.0 / np.maximum.accumulate(values, axis=0)))
