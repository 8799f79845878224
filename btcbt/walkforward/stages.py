"""The stages of an experiment: the functions that a run calls, each replaceable.

A run uses the defaults. The look-ahead audit calls the same functions on changed histories, and a user can replace one
by their own step (resampling, merging, smoothing) to have it audited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from btcbt.candles import fill_gaps, read_candles, read_funding, require_cover
from btcbt.config import CandlesConfig, PortfolioConfig, RefitConfig, WindowsConfig
from btcbt.forecasters import Forecaster
from btcbt.portfolio import Simulation, simulate
from btcbt.records import Candles, DataRange, FloatArray, FundingRates, IntArray
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
"""The stages in the order in which they run; ``split`` stands for contamination labels and embargoes."""

Read = Callable[[CandlesConfig], Candles]
Prepare = Callable[[Candles], Candles]
Split = Callable[[Candles, WindowsConfig, int | None], Windows]
Simulate = Callable[..., Simulation]
"""Of (candles, origins, targets, names, config), and of `funding` by its name where the experiment has a series."""
Label = Callable[[IntArray, Sequence[DataRange] | None], NDArray[np.str_]]
Plan = Callable[[Candles, WindowsConfig, RefitConfig], tuple[RefitPeriod, ...]]

_running: list[tuple[str, str]] = []


@contextmanager
def running(stage: str, component: str = "") -> Iterator[None]:
    """Mark a stage, or one component of it, as running in this block, in any thread.

    Stages do not run concurrently in one process.
    """
    _running.append((stage, component))
    try:
        yield
    finally:
        _running.pop()


def running_stage() -> tuple[str, str]:
    """The innermost stage that is running and its component; the first stage if none has begun."""
    return _running[-1] if _running else (CANDLES, "")


def read(config: CandlesConfig) -> Candles:
    """Read the history of an experiment."""
    return read_candles(config.path, config.interval)


def split(candles: Candles, config: WindowsConfig, context: int | None) -> Windows:
    """Windows at the origins with `context` contiguous candles before them (those of the configuration if None)."""
    return make_windows(candles, config, context=context)


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of an experiment. The defaults are those of `btcbt run`.

    In an audit, components that are built from a history are rebuilt for every changed one; they may keep it, since
    finding that misuse is the purpose of the audit. For the check in a fresh process the functions and classes must
    be importable.

    Attributes
    ----------
    read : callable
        Config to raw candles.
    prepare : callable, optional
        Raw candles to the candles of the experiment: resampling, merging, smoothing. Gaps are filled after it.
    split : callable
        Candles, config and the longest context of all forecasters to windows.
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
        As `btcbt.windows.plan_refits`: the candles of each refit.
    funding : FundingRates, optional
        The series that accounts pay; `with_funding` reads the one of the configuration.
    others : tuple of Candles
        The histories of the other symbols of a panel, for forecasters that are fitted on all.
    """

    read: Read = read
    prepare: Prepare | None = None
    split: Split = split
    forecasters: Callable[[Candles], Mapping[str, Forecaster]] | None = None
    strategies: Callable[[Candles], Mapping[str, Strategy]] | None = None
    simulate: Simulate = simulate
    label: Label = contamination
    plan: Plan = plan_refits
    funding: FundingRates | None = None
    others: tuple[Candles, ...] = ()

    def with_funding(self, config: PortfolioConfig, windows: Windows) -> Self:
        """These stages with the funding series of a configuration, if it names one.

        Raises
        ------
        ConfigError
            If the file breaks its contract, or does not cover the period in which accounts trade.
        """
        if config.funding is None:
            return self
        funding = read_funding(config.funding)
        candles, origins = windows.candles, windows.origins
        stride = int(np.diff(origins).min()) if len(origins) > 1 else candles.interval_ms
        end = min(int(origins[-1]) + stride, int(candles.open_time[-1]) + candles.interval_ms)
        require_cover(funding, int(origins[0]), end)
        return replace(self, funding=funding)

    def raw(self, config: CandlesConfig) -> Candles:
        """The history as read."""
        with running(CANDLES):
            return self.read(config)

    def prepared(self, raw: Candles, config: CandlesConfig) -> Candles:
        """The history that windows are cut from, its short gaps filled as the configuration says."""
        with running(CANDLES):
            return fill_gaps(raw if self.prepare is None else self.prepare(raw), config.fill_gaps)

    def history(self, config: CandlesConfig) -> Candles:
        """The history of an experiment, read and prepared."""
        return self.prepared(self.raw(config), config)

    def windows(self, candles: Candles, config: WindowsConfig, context: int | None = None) -> Windows:
        """The windows of a history; see `split`."""
        with running(WINDOWS):
            return self.split(candles, config, context)

    def accounts(
        self, candles: Candles, origins: IntArray, targets: FloatArray, names: Sequence[str], config: PortfolioConfig
    ) -> Simulation:
        """Accounts of the given targets; see `btcbt.portfolio.simulate`."""
        with running(PORTFOLIO):
            if self.funding is None:
                return self.simulate(candles, origins, targets, names, config)
            return self.simulate(candles, origins, targets, names, config, funding=self.funding)
