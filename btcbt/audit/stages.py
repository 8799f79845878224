"""The stages of an experiment as the audit runs them, each of which can be put in the place of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btcbt.candles import read_candles
from btcbt.config import (
    RANDOM_WALK,
    CandlesConfig,
    PortfolioConfig,
    RandomWalkConfig,
    RunConfig,
    WindowsConfig,
)
from btcbt.forecasters import Forecaster, create_forecaster
from btcbt.portfolio import Simulation, simulate
from btcbt.records import Candles, DataRange, Float32Array, FloatArray, IntArray, Window
from btcbt.strategies import Strategy
from btcbt.walkforward.refits import Plan, Refitter, make_refitter
from btcbt.walkforward.runner import Trader, make_traders
from btcbt.windows import Windows, contamination, make_windows, plan_refits

if TYPE_CHECKING:
    import pandas as pd

Simulate = Callable[[Candles, IntArray, FloatArray, Sequence[str], PortfolioConfig], Simulation]
Split = Callable[[Candles, WindowsConfig, int], Windows]
Label = Callable[[IntArray, Sequence[DataRange] | None], NDArray[np.str_]]


def read(config: CandlesConfig) -> Candles:
    """The history that an experiment names."""
    return read_candles(config.path, config.interval)


def split(candles: Candles, config: WindowsConfig, reach: int) -> Windows:
    """Windows at the origins that have `reach` candles before them."""
    return make_windows(candles, config, context=reach)


@dataclass(frozen=True, slots=True)
class Stages:
    """What an experiment is made of. The defaults are what `btcbt run` does.

    A part that is given a history is built anew for every changed one, and may keep it, as a careless user's
    would: that is what the audit is about. For the check in a fresh process the parts must be importable
    (functions and classes of modules).

    Attributes
    ----------
    read : callable
        Config to raw candles.
    prepare : callable, optional
        Raw candles to those that the experiment runs on: resampling, merging, filling, smoothing.
    split : callable
        Candles, config and the context of the forecaster that looks back farthest to windows.
    forecasters : callable, optional
        Prepared candles to named forecasters; those of the configuration if left out.
    strategies : callable, optional
        Prepared candles to named strategies, each run on each forecaster; those of the configuration if left
        out. Called once for each pair.
    simulate : callable
        As `btcbt.portfolio.simulate`.
    label : callable
        As `btcbt.windows.contamination`.
    plan : callable
        As `btcbt.windows.plan_refits`: which candles each refit is given.
    """

    read: Callable[[CandlesConfig], Candles] = read
    prepare: Callable[[Candles], Candles] | None = None
    split: Split = split
    forecasters: Callable[[Candles], Mapping[str, Forecaster]] | None = None
    strategies: Callable[[Candles], Mapping[str, Strategy]] | None = None
    simulate: Simulate = simulate
    label: Label = contamination
    plan: Plan = plan_refits

    def prepared(self, raw: Candles) -> Candles:
        """What the windows are cut from."""
        return raw if self.prepare is None else self.prepare(raw)


class Cast:
    """The forecasters and strategies of one or several histories.

    Parameters
    ----------
    config : RunConfig
    stages : Stages
    keep : bool
        Whether those that were built for the first history serve all others, too. If not, all are built for
        each history, but for the forecasters of a configuration: they know no history, and are costly. Those that
        are refitted know it; their refits are found where the candles that went into them are the same.

    Attributes
    ----------
    refitters : mapping of str to Refitter
        What refits the forecasters of the last history asked for.
    """

    def __init__(self, config: RunConfig, stages: Stages, *, keep: bool = False) -> None:
        self._config = config
        self._stages = stages
        self._keep = keep
        self._forecasters: Mapping[str, Forecaster] | None = None
        self._loaded: dict[str, Forecaster] = {}
        self._traders: list[Trader] | None = None
        self.refitters: dict[str, Refitter] = {}
        self._fitted = False  # whether some are fitted on the history

    def forecasters(self, candles: Candles, until: int | None = None) -> Mapping[str, Forecaster]:
        """Forecasters by name.

        Parameters
        ----------
        candles : Candles
            The history, for those that know it.
        until : int, optional
            What is refitted serves later origins than this (ms UTC) with the weights of this one: what comes after it
            need not be fit to learn from.
        """
        if self._forecasters is not None and self._keep:
            return self._forecasters
        if self._stages.forecasters is not None:
            self._forecasters = self._stages.forecasters(candles)
        elif self._forecasters is None or self.refitters or self._fitted:
            self._forecasters = self._build(candles, until)
        return self._forecasters

    def _build(self, candles: Candles, until: int | None) -> Mapping[str, Forecaster]:
        """Those of the configuration; as for `btcbt run`, a random walk is among them, and bases come first."""
        run = self._config
        configs: dict[str, Any] = dict(run.forecasters)
        if all(chosen.kind != RANDOM_WALK for chosen in configs.values()):
            configs[RANDOM_WALK] = RandomWalkConfig(kind="random_walk")
        built: dict[str, Forecaster] = {}
        for name in sorted(configs, key=lambda name: configs[name].based_on is not None):
            if configs[name].based_on is not None:
                built[name] = create_forecaster(configs[name], run.windows, run.seed, built)
                continue
            if name not in self._loaded:
                self._loaded[name] = create_forecaster(configs[name].without_refit(), run.windows, run.seed)
            built[name] = self._loaded[name].on_history(candles, run.windows, until)
            self._fitted |= built[name] is not self._loaded[name]
            refitter = make_refitter(configs[name], run, candles, self._loaded[name], self._stages.plan)
            if refitter is not None:
                self.refitters[name] = refitter
                built[name] = refitter.forecaster(partial(refitter.at, until=until))
        return built

    def traders(self, candles: Candles, forecasters: Sequence[str]) -> list[Trader]:
        """Each strategy on each forecaster that it trades on, every one an object of its own."""
        if self._traders is None or not self._keep:
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


def fill_times(orders: pd.DataFrame) -> IntArray:
    """Times of the fills in a table of orders, ms UTC."""
    return np.asarray(orders["time"].dt.tz_convert(None).to_numpy(), dtype="datetime64[ms]").astype(np.int64)


def answer(forecaster: Forecaster, windows: Sequence[Window]) -> Float32Array:
    """Ask for the forecasts of some windows, in calls of the size that the forecaster wants."""
    step = forecaster.batch_size
    parts = [forecaster.forecast(windows[i : i + step]).paths for i in range(0, len(windows), step)]
    return np.concatenate(parts)
