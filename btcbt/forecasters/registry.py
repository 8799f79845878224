"""Build the forecaster of a configuration: a built-in kind, or a user-defined class."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from btcbt.config import ForecasterSection, UserForecasterConfig, UserPostprocessorConfig, WindowsConfig
from btcbt.errors import BtcbtError, CheckpointError, ForecasterError, at_key
from btcbt.forecasters.base import Forecaster, Postprocessor
from btcbt.loading import Extension, Params, load_class, make_params
from btcbt.messages import describe, user_code
from btcbt.records import Candles, DataRange, Refit

FORECASTERS: Extension[Forecaster] = Extension("forecaster", "forecasters", Forecaster, ForecasterError, {})  # type: ignore[type-abstract]

UserConfig = UserForecasterConfig | UserPostprocessorConfig


def create_forecaster(
    config: ForecasterSection,
    windows: WindowsConfig,
    seed: int,
    built: Mapping[str, Forecaster] | None = None,
    serving: Callable[[int], Refit] | None = None,
    candles: Candles | None = None,
) -> Forecaster:
    """Build the forecaster of a configuration.

    Dependencies of a forecaster (torch, arch, a user's module) are imported only when one is built.

    Parameters
    ----------
    config : ForecasterSection
        Kind and parameters, or a user-defined class and its parameters.
    windows : WindowsConfig
        Gives the context and the horizon.
    seed : int
        Keys the random numbers.
    built : mapping, optional
        Other forecasters of the experiment by name; it must contain the base, if there is one.
    serving : callable, optional
        Origin (ms UTC) to the refit that serves it; required if it is refitted.
    candles : Candles, optional
        The history; required if it is fitted on it (`Forecaster.on_history`).

    Raises
    ------
    ForecasterError
        If a user-defined class cannot be imported or built, or its parameters are invalid.
    BtcbtError
        If a checkpoint is missing, damaged or inconsistent.
    """
    base = None if config.based_on is None else (built or {})[config.based_on]
    if isinstance(config, UserConfig):
        return _create_user_defined(config, windows, seed, base)
    module, _, name = config.builds.partition(":")
    cls: type[Forecaster] = getattr(import_module(module), name)
    forecaster = cls.from_config(config, windows, seed, base)
    if candles is not None:
        forecaster = forecaster.on_history(candles, windows)
    if config.schedule is None:
        return forecaster
    if serving is None:
        raise ValueError("a forecaster that is refitted needs its refits")
    return refitted(forecaster, config, windows, serving)


def refitted(
    frozen: Forecaster, config: ForecasterSection, windows: WindowsConfig, serving: Callable[[int], Refit]
) -> Forecaster:
    """A forecaster that uses the weights of the refit that serves each origin.

    Parameters
    ----------
    frozen : Forecaster
        The forecaster with its starting weights.
    config : ForecasterSection
        Its configuration, with a schedule.
    windows : WindowsConfig
    serving : callable
        Origin (ms UTC) to the refit that serves it.
    """
    from btcbt.forecasters.refitted import Refitted

    if config.schedule is None:
        raise ValueError("the forecaster has no refit schedule")
    load = partial(type(frozen).from_refit, config, windows, frozen.seed)
    return Refitted(frozen, serving, load, config.schedule.model_dump(mode="json"))


def check_forecaster(config: ForecasterSection) -> None:
    """Check a user-defined class and its parameters without building it; built-in kinds are validated already.

    Raises
    ------
    ForecasterError
        As `create_forecaster`.
    """
    if isinstance(config, UserConfig):
        _load_user_defined(config)


def _load_user_defined(config: UserConfig) -> tuple[type[Forecaster], Params]:
    with at_key("use"):
        cls = load_class(FORECASTERS, config.use)
    if issubclass(cls, Postprocessor) and config.based_on is None:
        raise ForecasterError(
            f"forecaster '{config.use}': it needs the forecasts of another; name it by 'base', "
            f'such as {{use: "{config.use}", base: random_walk}}'
        )
    if not issubclass(cls, Postprocessor) and config.based_on is not None:
        raise ForecasterError(
            f"forecaster '{config.use}': '{cls.__name__}' makes its own forecasts and has no base; remove 'base', "
            "or derive it from btcbt.forecasters.Postprocessor"
        )
    return cls, make_params(FORECASTERS, config.use, cls, config.params)


def create_alike(create: Callable[[], Forecaster], identity: Mapping[str, object], name: str) -> Forecaster:
    """Build a forecaster in a worker process, which imports this module and not the walk-forward.

    Raises
    ------
    CheckpointError
        If its identity is another one than in the process that started the worker.
    """
    forecaster = create()
    if dict(forecaster.identity()) != identity:
        raise CheckpointError(
            f"forecaster '{name}': a worker reads other weights or source than the process that started it; "
            "give all machines the same files under the same paths"
        )
    return forecaster


def _create_user_defined(config: UserConfig, windows: WindowsConfig, seed: int, base: Forecaster | None) -> Forecaster:
    cls, params = _load_user_defined(config)
    make: Any = cls  # the constructors of the two base classes differ
    try:
        with user_code(lambda problem: ForecasterError(f"cannot be built: {problem}"), BtcbtError):
            if isinstance(config, UserForecasterConfig):
                shape = {"context": windows.context, "horizon": windows.horizon, "n_paths": config.n_paths}
                forecaster: Forecaster = make(params, **shape, seed=seed)
            else:
                forecaster = make(base, params)
            _check_built(forecaster)
    except BtcbtError as error:
        raise ForecasterError(f"forecaster '{config.use}': {error}") from (error.__cause__ or error)
    return forecaster


def _check_built(forecaster: Forecaster) -> None:
    """Check the attributes and methods of a user-defined forecaster."""
    lacks = [name for name in ("params", "context", "horizon", "n_paths", "seed") if not hasattr(forecaster, name)]
    if lacks:
        raise ForecasterError(
            f"has no {', '.join(lacks)} after it was built; call super().__init__(params, context=context, "
            "horizon=horizon, n_paths=n_paths, seed=seed) in its __init__"
        )
    size = forecaster.batch_size
    if not isinstance(size, int) or size < 1:
        raise ForecasterError(f"batch_size is {describe(size)}; expected a whole number of at least 1")
    identity = forecaster.identity()
    try:
        json.dumps(dict(identity), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ForecasterError(
            f"identity() returned {describe(identity)}, which is not a mapping of JSON values ({error}); "
            "give strings, numbers, lists and mappings of these"
        ) from None
    ranges = forecaster.data_ranges()
    sound = ranges is None or (isinstance(ranges, Sequence) and all(isinstance(one, DataRange) for one in ranges))
    if not sound:
        raise ForecasterError(
            f"data_ranges() returned {describe(ranges)}; expected a sequence of btcbt.records.DataRange, "
            "empty if nothing was fitted, or None if that is unknown"
        )
