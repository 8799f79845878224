"""The forecasters of an experiment, their order, and the weights that each uses at each origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from btcbt.config import RANDOM_WALK, ForecasterConfig, RandomWalkConfig, RunConfig
from btcbt.forecasters import Forecaster, create_forecaster
from btcbt.forecasters.registry import check_forecaster, on_history
from btcbt.records import Candles, Refit
from btcbt.walkforward.refits import Refitter, make_refitter
from btcbt.walkforward.stages import FORECAST, Plan, running
from btcbt.windows import plan_refits

Serving = Callable[[int], Refit]
"""Origin (ms UTC) to the refit that serves it."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """The forecasters of an experiment before any refit.

    Attributes
    ----------
    configs : mapping
        Configurations by name, in the order of forecasting.
    frozen : mapping
        Forecasters without a base, with their starting weights.
    fitted : mapping
        The same forecasters, bound to the history if they are fitted on it (`Forecaster.on_history`).
    refitters : mapping
        A `Refitter` for each refitted forecaster.
    others : tuple of Candles
        The histories of the other symbols of a panel, for forecasters that are fitted on all.
    """

    configs: Mapping[str, ForecasterConfig]
    frozen: Mapping[str, Forecaster]
    fitted: Mapping[str, Forecaster]
    refitters: Mapping[str, Refitter]
    others: tuple[Candles, ...] = ()

    @property
    def depends_on_history(self) -> bool:
        """Whether any forecaster is fitted or refitted on the history."""
        return bool(self.refitters) or any(self.fitted[name] is not one for name, one in self.frozen.items())

    @property
    def context(self) -> int:
        """The longest context of all forecasters, in candles.

        Forecasters are compared at the same origins, so an origin must suit all of them.
        """
        return max(forecaster.context for forecaster in self.frozen.values())


def forecasters_in_order(config: RunConfig) -> dict[str, ForecasterConfig]:
    """The configured forecasters, a random walk among them.

    The random walk comes first, since the others are compared with it; forecasters with a base come after their base.
    """
    configs: dict[str, ForecasterConfig] = dict(config.forecasters)
    if all(one.kind != RANDOM_WALK for one in configs.values()):
        configs[RANDOM_WALK] = RandomWalkConfig(kind="random_walk")
    names = sorted(configs, key=lambda name: (configs[name].kind != RANDOM_WALK, configs[name].based_on is not None))
    return {name: configs[name] for name in names}


def load_forecasters(
    config: RunConfig,
    candles: Candles,
    plan: Plan = plan_refits,
    known: Mapping[str, Forecaster] = MappingProxyType({}),
    until: int | None = None,
    others: tuple[Candles, ...] = (),
) -> Loaded:
    """Load every forecaster with its starting weights, and make the refitters.

    Parameters
    ----------
    config : RunConfig
        The experiment.
    candles : Candles
        Its history; refits are fitted on parts of it.
    plan : callable
        As `btcbt.windows.plan_refits`.
    known : mapping, optional
        Forecasters by name that are loaded already for the same experiment.
    until : int, optional
        Origins after this one (ms UTC) use the fits that serve it; for the audit.
    others : tuple of Candles, optional
        The histories of the other symbols of a panel.

    Raises
    ------
    BtcbtError
        If a checkpoint is missing, broken or does not fit.
    """
    configs = forecasters_in_order(config)
    frozen: dict[str, Forecaster] = {}
    fitted: dict[str, Forecaster] = {}
    refitters: dict[str, Refitter] = {}
    with running(FORECAST):
        for name, one in configs.items():
            if one.based_on is not None:
                check_forecaster(one)
                continue
            frozen[name] = known.get(name) or create_forecaster(
                one.without_refit(), config.windows, config.forecast_seed
            )
            fitted[name] = on_history(one, frozen[name], candles, config.windows, others, until)
            refitter = make_refitter(one, config, candles, frozen[name], plan)
            if refitter is not None:
                refitters[name] = refitter
    return Loaded(configs, frozen, fitted, refitters, others)


def build_forecasters(
    config: RunConfig, loaded: Loaded, serving: Mapping[str, Serving], candles: Candles
) -> dict[str, tuple[Forecaster, Callable[[], Forecaster]]]:
    """Every forecaster ready to forecast, and a function with which a worker process builds the same one.

    Parameters
    ----------
    config : RunConfig
        The experiment.
    loaded : Loaded
        Its forecasters before any refit.
    serving : mapping
        The refits of refitted forecasters.
    candles : Candles
        The history, sent to workers only with a forecaster that is fitted on it.
    """
    built: dict[str, Forecaster] = {}
    builders: dict[str, Callable[[], Forecaster]] = {}
    with running(FORECAST):
        for name, one in loaded.configs.items():
            build = partial(create_forecaster, one, config.windows, config.forecast_seed)
            if one.based_on is not None:
                build = partial(build, dict(built))
            elif name in serving:
                build = partial(build, None, serving[name])
            elif loaded.fitted[name] is not loaded.frozen[name]:
                build = partial(build, candles=candles, others=loaded.others if one.pooled else ())
            plain = name in loaded.fitted and name not in serving
            built[name] = loaded.fitted[name] if plain else build()
            builders[name] = build
    return {name: (built[name], builders[name]) for name in built}
