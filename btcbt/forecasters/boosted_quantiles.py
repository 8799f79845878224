"""Quantiles of returns by gradient-boosted trees (LightGBM), turned into paths."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import ndtri

from btcbt.errors import ConfigError
from btcbt.forecasters.baseline import SMALLEST_UNIFORM
from btcbt.forecasters.fitted import FittedModel, Inputs
from btcbt.forecasters.quantile_paths import at_normal_quantile
from btcbt.forecasters.seasonality import (
    DAY_MS,
    LEVEL,
    MAX_MOVE,
    MAX_SIGMA,
    Pool,
    Profile,
    candles_from_steps,
    deseasonalised,
    fit_profile,
    fitted_volume,
    floored,
    make_pool,
    on_grid,
    range_variance,
    require_enough,
    slot_of,
    trailing_mean,
    weekday_of,
)
from btcbt.records import CLOSE, VOLUME, Candles, Float32Array, FloatArray, IntArray

PROBABILITIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
STEPS = (1, 2, 3, 6, 12, 24)
"""Steps ahead that are learned; the trees interpolate between them, and use the last one beyond."""
VARIANCE_LAGS = (1, 3, 6, 12, 24, 72)
RETURN_LAGS = (6, 24, LEVEL)
VOLUME_LAGS = (1, 24)
_CHUNK = 2048  # windows whose features are computed at once: 17 MB


@dataclass(frozen=True, slots=True, eq=False)
class BoostedState:
    """The fitted state.

    Attributes
    ----------
    profile : Profile
    models : tuple of str
        The trees for each of `PROBABILITIES`, in LightGBM's text format.
    pool : Pool
        Candles standardised by their expected volatility, which provide shape and volume.
    """

    profile: Profile
    models: tuple[str, ...]
    pool: Pool


class BoostedQuantiles(FittedModel[BoostedState]):
    """Quantiles of the return to each step by gradient boosting, and paths with these quantiles.

    For each of `PROBABILITIES` one ensemble of trees minimises the pinball loss (Koenker and Bassett, 1978; Ke et al.,
    2017, "LightGBM") of the log return from the origin to a step, divided by the volatility expected from profile
    and weekly level. Features: means of variance over `VARIANCE_LAGS` and the level itself, the last three
    returns and the sums over `RETURN_LAGS`, volumes, hour, weekday, and the step. Unlike the other fitted
    forecasters, it forecasts direction.

    Paths: quantiles that cross are sorted (Chernozhukov, Fernandez-Val and Galichon, 2010) and joined by lines over
    the normal quantile of their probability, with exponential tails outside; that is the distribution function of the
    close of each step. The ranks of a path over the steps are those of a Gaussian random walk whose steps have the
    profile's variances. So every close has its learned distribution, and paths of an origin are independent draws.
    Candles are made by `btcbt.forecasters.seasonality.candles_from_steps`. A window with constant prices gets constant
    paths.

    Parameters
    ----------
    rounds : int
        Trees for each probability.
    leaves : int
        Most leaves of a tree.
    learning_rate : float
        Shrinkage of each tree.
    leaf_size : int
        Fewest examples per leaf.

    Raises
    ------
    ConfigError
        If LightGBM is not installed.
    """

    kind: ClassVar[str] = "boosted_quantiles"

    def __init__(self, *, rounds: int = 60, leaves: int = 4, learning_rate: float = 0.05, leaf_size: int = 500) -> None:
        _lightgbm()
        self.rounds, self.leaves, self.learning_rate, self.leaf_size = rounds, leaves, learning_rate, leaf_size

    @property
    def needed_context(self) -> int:
        """Fewest candles in a window: 168, and the close before them."""
        return LEVEL + 1

    def parameters(self) -> Mapping[str, object]:
        """Parameters of the trees."""
        return {
            "rounds": self.rounds,
            "leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "leaf_size": self.leaf_size,
        }

    def fit(self, candles: Candles) -> BoostedState:
        """Fit profile and trees; deterministic, on one core.

        Raises
        ------
        CandleError
            If there are fewer than `btcbt.forecasters.seasonality.MIN_FIT` examples.
        """
        open_time, values = on_grid(candles)
        profile = fit_profile(open_time, values, candles.interval_ms)
        features, targets = examples(open_time, values, candles.interval_ms, profile)
        require_enough(len(targets) // len(STEPS), candles, "the quantile regression")
        models = self._grow(features, targets)
        factor = profile.variance[slot_of(open_time, candles.interval_ms)]
        variance = np.concatenate(([np.nan], range_variance(values))) / factor
        sigma = np.sqrt(trailing_mean(variance, LEVEL) * factor)
        pool = make_pool(values, sigma, fitted_volume(open_time, values, candles, profile))
        return BoostedState(profile, models, pool)

    def sample(self, state: BoostedState, inputs: Inputs, numbers: FloatArray) -> Float32Array:
        """Paths (B, S, H, 6); the first uniform of each pair draws the close, the second the shape of the candle."""
        return sample_quantile_paths(state, inputs, numbers)

    def _grow(self, features: FloatArray, targets: FloatArray) -> tuple[str, ...]:
        lightgbm = _lightgbm()
        common: dict[str, Any] = {
            "objective": "quantile",
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.leaf_size,
            "feature_fraction": 0.7,
            "max_bin": 63,
            "seed": 0,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbose": -1,
        }
        data = lightgbm.Dataset(features, targets, params=common)
        return tuple(
            lightgbm.train({**common, "alpha": probability}, data, self.rounds).model_to_string()
            for probability in PROBABILITIES
        )


def examples(
    open_time: IntArray, values: FloatArray, interval_ms: int, profile: Profile
) -> tuple[FloatArray, FloatArray]:
    """Features (M, F) and targets (M,) of all origins and `STEPS` of a history.

    Parameters
    ----------
    open_time : int64 (N,)
    values : float64 (N, 6)
        On the grid, NaN where absent.
    interval_ms : int
    profile : Profile

    Notes
    -----
    An origin is used if its window and all outcomes up to the last step are in the history without a gap.
    """
    context, horizon = LEVEL + 1, STEPS[-1]
    absent = np.concatenate(([0], np.cumsum(np.isnan(values[:, CLOSE]))))
    first = np.arange(max(len(values) - context - horizon + 1, 0))
    first = first[absent[first + context + horizon] == absent[first]]
    windows = np.moveaxis(sliding_window_view(values, context, axis=0), -1, 1) if len(first) else values[None, :0]
    times = sliding_window_view(open_time, context) if len(first) else open_time[None, :0]
    closes = np.log(values[:, CLOSE])
    rows, targets = [np.empty((0, 0))], [np.empty(0)]
    for start in range(0, len(first), _CHUNK):
        chunk = first[start : start + _CHUNK]
        inputs = Inputs(np.ascontiguousarray(windows[chunk]), times[chunk], interval_ms)
        learned, scale, still = features_of(inputs, profile, np.array(STEPS))
        last = chunk + context - 1
        returns = closes[last[:, None] + np.array(STEPS)] - closes[last, None]
        rows.append(learned[~still].reshape(-1, learned.shape[2]))
        targets.append((returns / scale)[~still].ravel())
    return np.concatenate(rows[1:] or rows), np.concatenate(targets)


def features_of(
    inputs: Inputs, profile: Profile, steps: IntArray
) -> tuple[FloatArray, FloatArray, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Features of the trees.

    Parameters
    ----------
    inputs : Inputs
        B windows; their newest ``LEVEL + 1`` candles are used.
    profile : Profile
    steps : int64 (K,)
        Steps ahead, from 1.

    Returns
    -------
    features : float64 (B, K, F)
    scale : float64 (B, K)
        Volatility up to each step expected from profile and level, the unit of returns.
    still : bool (B,)
        Windows with constant prices.
    """
    values, open_time = inputs.values[:, -LEVEL - 1 :], inputs.open_time[:, -LEVEL - 1 :]
    variance, still = deseasonalised(values, open_time, inputs.interval_ms, profile)
    slots = slot_of(open_time, inputs.interval_ms)
    returns = np.diff(np.log(values[:, :, CLOSE]), axis=1) / np.sqrt(profile.variance[slots[:, 1:]])
    volume = values[:, 1:, VOLUME] / profile.volume[slots[:, 1:]]
    level = variance.mean(axis=1)
    unit, usual = np.sqrt(level), volume.mean(axis=1)
    traded = np.where(usual > 0, usual, 1.0)
    origin = open_time[:, -1] + inputs.interval_ms
    columns = [np.log(floored(variance[:, -lag:].mean(axis=1), level) / level) for lag in VARIANCE_LAGS]
    columns += [np.log(level)]
    columns += [returns[:, -age] / unit for age in (1, 2, 3)]
    columns += [returns[:, -lag:].sum(axis=1) / (unit * np.sqrt(lag)) for lag in RETURN_LAGS]
    columns += [np.log(floored(volume[:, -lag:].mean(axis=1), traded) / traded) for lag in VOLUME_LAGS]
    columns += [(origin % DAY_MS).astype(np.float64), weekday_of(origin).astype(np.float64)]
    known = np.repeat(np.stack(columns, axis=1)[:, None], len(steps), axis=1)
    ahead = np.broadcast_to(steps.astype(np.float64), (len(values), len(steps)))[..., None]
    future = slot_of(inputs.future_open_time(int(steps[-1])), inputs.interval_ms)
    summed = np.cumsum(profile.variance[future], axis=1)[:, steps - 1]
    return np.concatenate((known, ahead), axis=2), np.sqrt(summed * level[:, None]), still


def sample_quantile_paths(state: BoostedState, inputs: Inputs, numbers: FloatArray) -> Float32Array:
    """Sample paths.

    Parameters
    ----------
    state : BoostedState
    inputs : Inputs
        B windows.
    numbers : float64 (B, S, H, 2)
        Uniforms.

    Returns
    -------
    float32 (B, S, H, 6)
    """
    steps = np.arange(1, numbers.shape[2] + 1)
    features, scale, still = features_of(inputs, state.profile, steps)
    flat = features.reshape(-1, features.shape[2])
    learned = np.stack([_booster(text).predict(flat, num_threads=1) for text in state.models], axis=-1)
    quantiles = np.sort(learned, axis=-1).reshape(*scale.shape, -1) * np.minimum(scale, MAX_SIGMA)[..., None]
    future = slot_of(inputs.future_open_time(len(steps)), inputs.interval_ms)
    factor = state.profile.variance[future]
    walk = np.cumsum(ndtri(np.maximum(numbers[..., 0], SMALLEST_UNIFORM)) * np.sqrt(factor)[:, None], axis=2)
    close = at_normal_quantile(PROBABILITIES, quantiles, walk / np.sqrt(np.cumsum(factor, axis=1))[:, None])
    close[still] = 0.0
    moves = np.clip(np.diff(close, axis=2, prepend=0.0), -MAX_MOVE, MAX_MOVE)
    sigma = np.minimum(np.sqrt(np.diff(scale**2, axis=1, prepend=0.0)), MAX_SIGMA)
    sigma[still] = 0.0
    return candles_from_steps(
        inputs, moves, np.repeat(sigma[:, None], moves.shape[1], axis=1), numbers[..., 1], state.pool, state.profile
    )


@lru_cache(maxsize=4 * len(PROBABILITIES))
def _booster(text: str) -> Any:
    return _lightgbm().Booster(model_str=text)


def _lightgbm() -> Any:
    """Import LightGBM, which is an extra.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        return importlib.import_module("lightgbm")
    except ImportError as error:
        raise ConfigError(
            "a forecaster of kind 'boosted_quantiles' needs LightGBM, which cannot be imported "
            f"({error}); install it with pip install 'btcbt[boost]'"
        ) from None
