"""The stages of an experiment: the functions that a run calls, each of which can be replaced by another.

A run uses the defaults. The look-ahead audit calls the same functions on changed histories, and a user can put a step
of their own (resampling, merging, smoothing) in the place of one to have it audited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from btcbt.candles import read_candles
from btcbt.config import CandlesConfig, PortfolioConfig, RefitConfig, WindowsConfig
from btcbt.forecasters import Forecaster
from btcbt.portfolio import Simulation, simulate
from btcbt.records import Candles, DataRange, FloatArray, IntArray
from btcbt.strategies import Strategy
from btcbt.windows import RefitPeriod, Windows, contamination, make_windows, plan_refits

CANDLES, WINDOWS, REFIT, SCALING, FORECAST, CALIBRATION, STRATEGY, PORTFOLIO, LABELS = STAGE_NAMES = (
    "candles",
    "windows",
    "refit",
    "scaling",
    "forecast",
    "calibration",
    "strategy",
    "portfolio",
    "split",
)
"""The stages in the order in which they run; the last is about the labels that follow from the ranges of fits."""

Read = Callable[[CandlesConfig], Candles]
Prepare = Callable[[Candles], Candles]
Split = Callable[[Candles, WindowsConfig, int | None], Windows]
Simulate = Callable[[Candles, IntArray, FloatArray, Sequence[str], PortfolioConfig], Simulation]
Label = Callable[[IntArray, Sequence[DataRange] | None], NDArray[np.str_]]
Plan = Callable[[Candles, WindowsConfig, RefitConfig], tuple[RefitPeriod, ...]]

_running: list[tuple[str, str]] = []


@contextmanager
def running(stage: str, component: str = "") -> Iterator[None]:
    """Say that a stage, or one part of it, runs in this block, in whatever thread.

    Stages do not run side by side in one process.
    """
    _running.append((stage, component))
    try:
        yield
    finally:
        _running.pop()


def running_stage() -> tuple[str, str]:
    """The stage that runs now, the innermost one, and which part of it; the first stage if none has begun."""
    return _running[-1] if _running else (CANDLES, "")


def read(config: CandlesConfig) -> Candles:
    """Read the history that an experiment names."""
    return read_candles(config.path, config.interval)


def split(candles: Candles, config: WindowsConfig, context: int | None) -> Windows:
    """Windows at the origins with `context` contiguous candles before them (those of the configuration if None)."""
    return make_windows(candles, config, context=context)


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

    read: Read = read
    prepare: Prepare | None = None
    split: Split = split
    forecasters: Callable[[Candles], Mapping[str, Forecaster]] | None = None
    strategies: Callable[[Candles], Mapping[str, Strategy]] | None = None
    simulate: Simulate = simulate
    label: Label = contamination
    plan: Plan = plan_refits

    def raw(self, config: CandlesConfig) -> Candles:
        """The history as it is read."""
        with running(CANDLES):
            return self.read(config)

    def prepared(self, raw: Candles) -> Candles:
        """The history that windows are cut from."""
        with running(CANDLES):
            return raw if self.prepare is None else self.prepare(raw)

    def windows(self, candles: Candles, config: WindowsConfig, context: int | None = None) -> Windows:
        """The windows of a history; see `split`."""
        with running(WINDOWS):
            return self.split(candles, config, context)

    def accounts(
        self, candles: Candles, origins: IntArray, targets: FloatArray, names: Sequence[str], config: PortfolioConfig
    ) -> Simulation:
        """The accounts of some targets; see `btcbt.portfolio.simulate`."""
        with running(PORTFOLIO):
            return self.simulate(candles, origins, targets, names, config)
