"""Forecasters: windows of known candles in, sampled futures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from btcbt.config import (
    AnchoredKronosConfig,
    CalibratedConfig,
    DriftConfig,
    EwmaVolatilityConfig,
    ForecasterConfig,
    GarchConfig,
    KronosConfig,
    RandomWalkConfig,
    WindowsConfig,
)
from btcbt.forecasters.base import Forecaster
from btcbt.records import Refit

__all__ = ["Forecaster", "create_forecaster"]


def create_forecaster(
    config: ForecasterConfig,
    windows: WindowsConfig,
    seed: int,
    built: Mapping[str, Forecaster] | None = None,
    serving: Callable[[int], Refit] | None = None,
) -> Forecaster:
    """Build the forecaster that a part of an experiment describes.

    What a forecaster needs (torch, arch) is imported when one is built, not before.

    Parameters
    ----------
    config : ForecasterConfig
        Kind and parameters.
    windows : WindowsConfig
        Gives the context and the horizon.
    seed : int
        Keys the random numbers.
    built : mapping, optional
        Other forecasters of the experiment by name; one that is calibrated must find its base there.
    serving : callable, optional
        Origin (ms UTC) to the refit that serves it; one that is refitted needs it.

    Raises
    ------
    BtcbtError
        If a checkpoint is missing, broken or does not fit.
    """
    if isinstance(config, CalibratedConfig):
        from btcbt.forecasters.calibrated import Calibrated
        from btcbt.forecasters.conformal import Rates

        return Calibrated((built or {})[config.base], Rates(floors=config.rates))
    if isinstance(config, KronosConfig):
        from btcbt.forecasters.kronos import AnchoredKronos, KronosForecaster, load_refit
        from btcbt.forecasters.refitted import Refitted

        cls = AnchoredKronos if isinstance(config, AnchoredKronosConfig) else KronosForecaster
        base = cls.from_config(config, windows, seed)
        if config.refit is None:
            return base
        if serving is None:
            raise ValueError("a forecaster that is refitted needs its refits")
        return Refitted(base, serving, partial(load_refit, config, windows, seed), config.refit.model_dump(mode="json"))

    common: dict[str, Any] = {
        "context": windows.context,
        "horizon": windows.horizon,
        "n_paths": config.n_paths,
        "seed": seed,
        "batch_size": None if config.batch_size == "auto" else config.batch_size,
    }
    if isinstance(config, RandomWalkConfig):
        from btcbt.forecasters.random_walk import RandomWalk

        return RandomWalk(**common)
    if isinstance(config, DriftConfig):
        from btcbt.forecasters.random_walk import Drift

        return Drift(**common)
    if isinstance(config, EwmaVolatilityConfig):
        from btcbt.forecasters.ewma_volatility import EwmaVolatility

        return EwmaVolatility(**common, decay=config.decay)
    if isinstance(config, GarchConfig):
        from btcbt.forecasters.garch import Garch

        return Garch(**common)
    raise TypeError(f"no forecaster for {type(config).__name__}")
