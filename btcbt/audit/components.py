"""The forecasters and strategies under audit, built for one history or shared by several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from btcbt.config import RunConfig
from btcbt.forecasters import Forecaster
from btcbt.records import Candles, Float32Array, Window
from btcbt.walkforward.forecasters import Serving, build_forecasters, load_forecasters
from btcbt.walkforward.refits import Refitter
from btcbt.walkforward.stages import FORECAST, STRATEGY, Stages, running
from btcbt.walkforward.traders import Trader, make_traders

if TYPE_CHECKING:
    pass


class Components:
    """Builds the forecasters and strategies for a history, with the functions that a run uses.

    Parameters
    ----------
    config : RunConfig
        The experiment.
    stages : Stages
        Its stages; `Stages.forecasters` and `Stages.strategies` replace the configured ones.
    keep : bool
        Whether the objects built for the first history are reused for all others. If not, they are rebuilt for
        each history, except configured forecasters that do not depend on the history, which are costly to load.
        Refitted ones are rebuilt; a refit is reused if its candles are the same.

    Attributes
    ----------
    refitters : mapping of str to Refitter
        The refitters of the most recent history, by forecaster.
    """

    def __init__(self, config: RunConfig, stages: Stages, *, keep: bool = False) -> None:
        self._config = config
        self._stages = stages
        self._keep = keep
        self._forecasters: Mapping[str, Forecaster] | None = None
        self._frozen: Mapping[str, Forecaster] = {}
        self._depends_on_history = False
        self._traders: list[Trader] | None = None
        self.refitters: Mapping[str, Refitter] = {}

    def forecasters(self, candles: Candles, until: int | None = None) -> Mapping[str, Forecaster]:
        """Forecasters by name.

        Parameters
        ----------
        candles : Candles
            The history, for forecasters that are fitted on it.
        until : int, optional
            Origins after this one (ms UTC) are forecast with the weights of this one, since candles after it may not
            be usable for a fit.
        """
        if self._forecasters is not None and self._keep:
            return self._forecasters
        if self._stages.forecasters is not None:
            with running(FORECAST):
                self._forecasters = self._stages.forecasters(candles)
        elif self._forecasters is None or self._depends_on_history:
            loaded = load_forecasters(
                self._config, candles, self._stages.plan, self._frozen, until, self._stages.others
            )
            self._depends_on_history = loaded.depends_on_history
            self._frozen, self.refitters = loaded.frozen, loaded.refitters
            serving: dict[str, Serving] = {
                name: partial(refitter.at, until=until) for name, refitter in loaded.refitters.items()
            }
            built = build_forecasters(self._config, loaded, serving, candles)
            self._forecasters = {name: forecaster for name, (forecaster, _) in built.items()}
        return self._forecasters

    def traders(self, candles: Candles, forecasters: Sequence[str]) -> list[Trader]:
        """One `Trader` for each strategy and each forecaster that it trades on, each with its own strategy object."""
        if self._traders is None or not self._keep:
            with running(STRATEGY):
                self._traders = self._new_traders(candles, forecasters)
        return self._traders

    def _new_traders(self, candles: Candles, forecasters: Sequence[str]) -> list[Trader]:
        if self._stages.strategies is None:
            return make_traders(self._config)
        traders: list[Trader] = []
        for forecaster in forecasters:
            for name, strategy in self._stages.strategies(candles).items():
                on = forecaster if strategy.uses_forecast else None
                label = f"{name}@{forecaster}" if strategy.uses_forecast else name
                if all(trader.name != label for trader in traders):
                    traders.append(Trader(label, strategy, type(strategy).__qualname__, {}, on))
        return traders


def forecast_paths(forecaster: Forecaster, windows: Sequence[Window]) -> Float32Array:
    """Forecast windows in calls of the forecaster's batch size; paths (B, S, H, 6)."""
    step = forecaster.batch_size
    parts = [forecaster.forecast(windows[i : i + step]).paths for i in range(0, len(windows), step)]
    return np.concatenate(parts)
