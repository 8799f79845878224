"""A few decisions of every strategy before the first forecast is paid for: what is wrong with it shows in seconds.

The forecasts are those of a random walk, with as many paths as the strategy will see.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from btcbt.config import RandomWalkConfig, RunConfig, time_text
from btcbt.errors import StrategyError
from btcbt.forecasters import create_forecaster
from btcbt.forecasters.asking import ask
from btcbt.records import CHANNELS, Float32Array, Forecast
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward.decisions import asked_at, decide_all
from btcbt.walkforward.forecasters import Loaded
from btcbt.walkforward.traders import Trader
from btcbt.windows import Windows

ORIGINS = 24
"""Origins at which a strategy is tried: enough for most counters and averages to show."""


def try_strategies(
    config: RunConfig, loaded: Loaded, traders: Sequence[Trader], windows: Windows, decided: Windows
) -> None:
    """Let a new object of every strategy decide at the first origins, twice.

    Parameters
    ----------
    config : RunConfig
        The experiment.
    loaded : Loaded
        Its forecasters.
    traders : sequence of Trader
    windows, decided : Windows
        The origins with forecasts, and all of them.

    Raises
    ------
    StrategyError
        If a decision is not a finite number in [-1, 1], `decide` raises, or the same origins are decided differently
        the second time.
    """

    @cache
    def paths(n_paths: int) -> Float32Array:
        walk = create_forecaster(RandomWalkConfig(kind="random_walk", n_paths=n_paths), config.windows, config.seed)
        own = windows.with_context(walk.context)
        return ask(walk, [own[row] for row in range(min(ORIGINS, len(own)))]).paths

    for trader in {(one.use, tuple(map(repr, one.params.items()))): one for one in reversed(traders)}.values():
        strategy = load_strategy(trader.use, trader.params)
        asked = asked_at(strategy, windows, decided)
        count = min(ORIGINS, len(asked))
        seen = np.empty((count, 0, config.windows.horizon, len(CHANNELS)), dtype=np.float32)
        if trader.forecaster is not None:
            base = loaded.configs[trader.forecaster].based_on or trader.forecaster
            seen = paths(loaded.frozen[base].n_paths)
        forecasts = [Forecast(asked[row], seen[row]) for row in range(count)]
        first, second = (decide_all(strategy, forecasts, name=trader.name) for _ in range(2))
        differing = np.flatnonzero(first != second)
        if len(differing):
            at = int(differing[0])
            raise StrategyError(
                f"strategy '{trader.name}': it keeps state or draws random numbers: the same {count} origins, decided "
                f"twice, gave {first[at]:g} and then {second[at]:g} at {time_text(forecasts[at].origin)}; make it "
                "start afresh where holding.candles_held is 0, as strategies/stateful.py does"
            )
