"""Tests across many forecasters or many configurations at once.

Among twenty configurations one is best even if none has skill. The model confidence set gives the forecasters
that are statistically indistinguishable from the best; superior predictive ability and StepM test whether any,
and which, configurations beat a benchmark, accounting for all that were tried; the probability of backtest
overfitting measures how the winner of one half of the record ranks in the other.

The bootstraps are those of `arch`. Series are first summed over consecutive blocks of one horizon
(`_horizon_sums`), which leaves means unchanged, absorbs the overlap inside a block, and reduces the cost of 17,000
hours to that of 700 days; the bootstrap then draws from these sums, so no block is shorter than the horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from btcbt.metrics.inference import bootstrap_widening
from btcbt.records import FloatArray, IntArray

MAX_SUMS = 2000
MIN_SUMS = 8
_MCS_BLOCK, _SPA_BLOCK = 3, 2  # mean block lengths, in horizons
# Correlation of sums of overlapping losses over neighbouring horizons, that of two neighbouring triangles.
_OVERLAP_CORRELATION = 0.25
_NAN = float("nan")


def model_confidence_set(
    losses: ArrayLike, names: Sequence[str], horizon: int, *, reps: int = 1000, seed: int = 0
) -> dict[str, float]:
    """P-values of the model confidence set (Hansen, Lunde and Nason, 2011), by `arch`.

    The set at confidence 1 - a holds the models whose p-value exceeds a; it contains the best with that
    probability. Range statistic; stationary bootstrap with blocks of three horizons on average, as losses
    of neighbouring origins overlap; rows with any NaN are dropped. Models with identical losses share a
    p-value.

    Parameters
    ----------
    losses : float (N, K)
        Loss of each model at each origin, in time order.
    names : sequence of str (K,)
        Names of the models.
    horizon : int
        Origins whose outcomes overlap.

    Returns
    -------
    dict of str to float
        By name; the best has 1. NaN with fewer than eight horizons of data.
    """
    from arch.bootstrap import MCS

    table = _table(losses, names)
    sums = _horizon_sums(table[np.isfinite(table).all(axis=1)], horizon)
    if len(sums) < MIN_SUMS:
        return dict.fromkeys(names, _NAN)
    unique, which = np.unique(sums, axis=1, return_inverse=True)
    if unique.shape[1] == 1:
        return dict.fromkeys(names, 1.0)
    scale = unique.std()
    unique = _widened(unique / scale, _MCS_BLOCK, _OVERLAP_CORRELATION if horizon > 1 else 0.0)
    test = MCS(unique, size=0.1, reps=reps, block_size=_MCS_BLOCK, seed=np.random.default_rng(seed))
    test.compute()
    p_values = test.pvalues["Pvalue"].sort_index().to_numpy()
    return {name: float(p_values[k]) for name, k in zip(names, which.ravel(), strict=True)}


@dataclass(frozen=True, slots=True)
class SuperiorAbility:
    """Outcome of `superior_predictive_ability`.

    Attributes
    ----------
    p_value, p_lower, p_upper : float
        Hansen's consistent p-value, and its lower and upper bounds (no poor model is relevant, or all are).
    best : int
        Column with the largest studentised mean excess, -1 if there is none to test.
    superior : tuple of int
        Columns that StepM finds better than the benchmark, at a familywise error rate of `size`.
    n : int
        Sums used.
    """

    p_value: float
    p_lower: float
    p_upper: float
    best: int
    superior: tuple[int, ...]
    n: int


def superior_predictive_ability(
    returns: ArrayLike,
    benchmark: ArrayLike | None = None,
    *,
    horizon: int = 24,
    size: float = 0.05,
    reps: int = 1000,
    seed: int = 0,
) -> SuperiorAbility:
    """Test whether the best of all configurations tried beats a benchmark, and which do.

    Superior predictive ability (Hansen, 2005) and StepM (Romano and Wolf, 2005), by `arch`. One-sided,
    greater. Stationary bootstrap, blocks of two horizons on average. Excess returns are divided by their
    standard deviation first: `arch` 8 compares raw means, with which one wild configuration hides the rest,
    and a studentised statistic is what both papers ask for. The statistic is floored at zero (Hansen, 2005,
    section 2): where no configuration has a mean above the benchmark's, the p-values are 1, and `arch` 8,
    which does not floor it, says less. Rows with any NaN are dropped; so are configurations whose excess does
    not vary (the benchmark itself among them); if none is left the p-value is 1.

    Parameters
    ----------
    returns : float (N, K)
        Net returns per candle of every configuration that was tried; the p-value is invalid if some are left out.
    benchmark : float (N,), optional
        Net returns of the benchmark (buy and hold); zeros, a flat account, if left out.
    horizon : int
        Shortest block, in candles.
    size : float
        Familywise error rate of StepM.
    """
    from arch.bootstrap import SPA, StepM

    table = np.asarray(returns, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"returns {table.shape} are not (N, K)")
    base = np.zeros(len(table)) if benchmark is None else np.asarray(benchmark, dtype=np.float64)
    if base.shape != (len(table),):
        raise ValueError(f"benchmark {base.shape} is not ({len(table)},)")
    excess = table - base[:, None]
    sums = _horizon_sums(excess[np.isfinite(excess).all(axis=1)], horizon)
    if len(sums) < MIN_SUMS:
        return SuperiorAbility(_NAN, _NAN, _NAN, -1, (), len(sums))
    spread = sums.std(axis=0, ddof=1)
    varying = np.flatnonzero(spread > 1e-12 * np.abs(sums).max(initial=1e-300))
    if len(varying) == 0:
        return SuperiorAbility(1.0, 1.0, 1.0, -1, (), len(sums))
    scaled = _widened(sums[:, varying] / spread[varying], _SPA_BLOCK, 0.0)
    zeros = np.zeros(len(scaled))
    spa = SPA(zeros, -scaled, block_size=_SPA_BLOCK, reps=reps, seed=np.random.default_rng(seed))
    spa.compute()
    # A column of zeros equals the benchmark; without it `arch` fails if all columns are superior.
    models = np.column_stack([-scaled, zeros])
    step = StepM(zeros, models, size=size, block_size=_SPA_BLOCK, reps=reps, seed=np.random.default_rng(seed))
    step.compute()
    # The observed record counts as one draw, so that no p-value is zero. Floored draws are never below a floored
    # statistic of zero, and the floor changes nothing above it.
    p = (1.0 + reps * spa.pvalues) / (1.0 + reps)
    if not scaled.mean(axis=0).max() > 0.0:
        p[:] = 1.0
    return SuperiorAbility(
        float(p["consistent"]),
        float(p["lower"]),
        float(p["upper"]),
        int(varying[np.argmax(scaled.mean(axis=0))]),
        tuple(sorted(int(varying[int(str(k))]) for k in step.superior_models)),
        len(sums),
    )


def held_where_missing(returns: ArrayLike, benchmark: ArrayLike) -> FloatArray:
    """Returns (N, K) whose missing hours, NaN, are those of the benchmark (N,).

    A configuration without a return in some hour is taken to hold the benchmark then, which changes the mean and the
    standard deviation of its excess by the same factor, so that tests keep their size
    (`tests/unit/metrics/test_size_and_power_proof.py`).
    """
    table, held = np.asarray(returns, dtype=np.float64), np.asarray(benchmark, dtype=np.float64)
    return np.where(np.isfinite(table), table, held[:, None])


@dataclass(frozen=True, slots=True)
class Overfitting:
    """Outcome of `backtest_overfitting`.

    Attributes
    ----------
    probability : float
        PBO: share of splits in which the winner of one half is at or below the median in the other.
    p_value : float
        Probability of a PBO as small if all configurations were equally good; a small value means that selecting
        among them has value.
    loss_probability : float
        Share of splits in which the winner loses money in the other half.
    splits : int
        Number of splits into halves.
    """

    probability: float
    p_value: float
    loss_probability: float
    splits: int


def backtest_overfitting(returns: ArrayLike, *, n_blocks: int = 10, reps: int = 499, seed: int = 0) -> Overfitting:
    """Probability of backtest overfitting by combinatorially symmetric cross-validation.

    Bailey, Borwein, Lopez de Prado and Zhu (2017), J. Computational Finance 20(4): the record is cut into
    `n_blocks` contiguous blocks; for each choice of half of them, the configuration with the best Sharpe
    ratio there is ranked by its Sharpe ratio in the rest.

    PBO has no fixed null distribution: it depends on the number of configurations and their correlation. The
    p-value compares it with PBOs of simulated records in which no configuration is better than another:
    normal block means with the correlations of the returns. One-sided, lower; blocks must be long compared with
    any serial dependence, as block means are taken as independent. Ties share their mean rank; a
    configuration without variance has a Sharpe ratio of zero; rows with any NaN are dropped, as are the
    oldest rows that fill no block.

    Parameters
    ----------
    returns : float (N, K)
        Net returns per candle of every configuration tried, K at least 2.
    n_blocks : int
        Even; 10 gives 252 splits.
    reps, seed : int
        Simulated records.
    """
    table = np.asarray(returns, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"returns {table.shape} are not (N, K) with K of at least 2")
    if n_blocks < 4 or n_blocks % 2 or n_blocks > 16:
        raise ValueError(f"n_blocks {n_blocks} is not even and in 4..16")
    table = table[np.isfinite(table).all(axis=1)]
    length = len(table) // n_blocks
    if length < 2:
        return Overfitting(_NAN, _NAN, _NAN, 0)
    table = table[len(table) - length * n_blocks :]
    blocks = table.reshape(n_blocks, length, -1)
    halves = _halves(n_blocks)
    inside, outside = _half_sharpes(blocks, halves)
    probability, winner = _overfit_share(inside, outside)
    realised = np.take_along_axis(outside, winner[:, None], axis=1)
    null = _null_shares(table, halves, reps, seed)
    return Overfitting(
        probability,
        float((1 + np.count_nonzero(null <= probability + 1e-12)) / (1 + reps)),
        float(np.mean(realised < 0.0)),
        len(halves),
    )


def _table(values: ArrayLike, names: Sequence[str]) -> FloatArray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(names) or not names:
        raise ValueError(f"losses {table.shape} are not (N, K={len(names)})")
    return table


def _horizon_sums(table: FloatArray, horizon: int) -> FloatArray:
    """Sums over blocks of `horizon` rows, longer to keep `MAX_SUMS` blocks; drops the oldest remainder."""
    if horizon < 1:
        raise ValueError(f"horizon {horizon} is below 1")
    length = max(horizon, -(-len(table) // MAX_SUMS))
    count = len(table) // length
    blocks = table[len(table) - count * length :].reshape(count, length, table.shape[1])
    return np.asarray(blocks.sum(axis=1))


def _widened(sums: FloatArray, block: int, correlation: float) -> FloatArray:
    """Scale deviations from the mean, to correct the width of a bootstrap in short records."""
    centre = sums.mean(axis=0)
    return np.asarray(centre + (sums - centre) * bootstrap_widening(len(sums), block, correlation))


def _halves(n_blocks: int) -> FloatArray:
    """Every choice of half the blocks, as rows of zeros and ones."""
    chosen = np.array(list(combinations(range(n_blocks), n_blocks // 2)))
    halves = np.zeros((len(chosen), n_blocks))
    np.put_along_axis(halves, chosen, 1.0, axis=1)
    return halves


def _half_sharpes(blocks: FloatArray, halves: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sharpe ratios (splits, K) in the chosen half and in the rest, from blocks (n_blocks, length, K)."""
    centre = blocks.mean(axis=(0, 1))  # centring avoids cancellation in sums of squares
    first, second = (blocks - centre).sum(axis=1), ((blocks - centre) ** 2).sum(axis=1)
    n = blocks.shape[1] * blocks.shape[0] // 2

    def sharpe(choice: FloatArray) -> FloatArray:
        mean = choice @ first / n
        variance = np.maximum((choice @ second - n * mean**2) / (n - 1), 0.0)
        flat = variance <= 1e-24 * np.maximum(centre**2, 1e-300)
        return np.asarray(np.where(flat, 0.0, (mean + centre) / np.sqrt(np.where(flat, 1.0, variance))))

    return sharpe(halves), sharpe(1.0 - halves)


def _overfit_share(inside: FloatArray, outside: FloatArray) -> tuple[float, IntArray]:
    """PBO and the winner of each split, from scores (splits, K) in both halves."""
    winner = np.argmax(inside, axis=1)
    won = np.take_along_axis(outside, winner[:, None], axis=1)
    rank = np.count_nonzero(outside < won, axis=1) + 0.5 * (np.count_nonzero(outside == won, axis=1) + 1)
    # logit(rank / (K + 1)) <= 0
    return float(np.mean(rank <= 0.5 * (outside.shape[1] + 1))), winner


def _null_shares(table: FloatArray, halves: FloatArray, reps: int, seed: int) -> FloatArray:
    """PBOs of simulated block means with equal expectations, and the correlations of the columns."""
    spread = table.std(axis=0)
    scaled = (table - table.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(table))
    # Configurations that are alike, such as the neighbours in a grid, span few dimensions.
    spanned = values > 1e-9 * values.max(initial=0.0)
    root = (vectors[:, spanned] * np.sqrt(values[spanned])).T
    rng = np.random.default_rng(seed)
    out = np.empty(reps)
    for i in range(reps):
        means = rng.standard_normal((halves.shape[1], len(root))) @ root
        inside = halves @ means
        out[i] = _overfit_share(inside, means.sum(axis=0) - inside)[0]
    return out
