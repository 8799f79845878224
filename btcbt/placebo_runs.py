"""Placebo runs of strategies: the same decisions and accounts, on forecasts that know nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import joblib
import numpy as np

from btcbt.config import PortfolioConfig
from btcbt.metrics.returns import equity_returns
from btcbt.metrics.sharpe import sharpe_ratio
from btcbt.placebo import Placebo, Source, make_placebos, summarise_placebos
from btcbt.portfolio import Simulation, simulate
from btcbt.records import CLOSE, Float32Array, FloatArray, Forecast
from btcbt.strategy import decide_all, load_strategy
from btcbt.windows import Windows

MIN_RUNS = 8
"""Fewer runs are done before a second process has started."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A strategy that trades on a forecaster: the name of its account, and how to build it again."""

    name: str
    use: str
    params: Mapping[str, Any]


def run_placebos(
    candidates: Sequence[Candidate],
    windows: Windows,
    paths: Float32Array,
    real: Simulation,
    config: PortfolioConfig,
    *,
    runs: int,
    stride: int,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, float]:
    """Rank the strategies on one forecaster among placebo runs, by the net Sharpe ratio.

    An account that never trades counts as one with a ratio of zero. Time grows with candidates x runs x origins;
    runs are spread over the processors.

    Parameters
    ----------
    candidates : sequence of Candidate
        Strategies on this forecaster.
    windows : Windows
        M origins.
    paths : float32 (M, S, H, 6)
        Its forecasts.
    real : Simulation
        Holds the candidates' accounts.
    config : PortfolioConfig
        Costs and limits.
    runs : int
        Placebo runs of each candidate.
    stride : int
        Candles between neighbouring origins.
    seed : int
        Keys the placebos.
    advance : callable
        Told of every finished run.

    Returns
    -------
    dict of str to float
        ``placebo.<account>.<key>``; see `btcbt.placebo.summarise_placebos`. Empty if the origins are too few.
    """
    block = -(-windows.horizon // stride)
    if not candidates or len(windows) < 3 * block:
        return {}
    placebos = make_placebos(len(windows), runs, block, seed)
    source = Source(paths, windows.candles.values[windows.last, CLOSE])
    targets = np.empty((len(candidates), len(windows), runs))
    for run, decided in enumerate(_decisions(candidates, windows, source, placebos)):
        targets[:, :, run] = decided
        advance(1)
    names = [f"placebo {run}" for run in range(runs)]
    numbers: dict[str, float] = {}
    for candidate, decided in zip(candidates, targets, strict=True):
        accounts = simulate(windows.candles, windows.origins, decided, names, config)
        scores = [_score(accounts, column) for column in range(runs)]
        own = _score(real, real.names.index(candidate.name))
        summary = summarise_placebos(own, scores, [placebo.kind for placebo in placebos])
        numbers |= {f"placebo.{candidate.name}.{key}": value for key, value in summary.items()}
    return numbers


def _decisions(
    candidates: Sequence[Candidate], windows: Windows, source: Source, placebos: Sequence[Placebo]
) -> Iterator[FloatArray]:
    """Targets of all candidates (K, M) in each placebo run, in order."""
    bare = replace(windows, skipped={})  # what a process is not sent
    if len(placebos) < MIN_RUNS:
        yield from (_decide(candidates, bare, source, placebo) for placebo in placebos)
        return
    pool = joblib.Parallel(n_jobs=joblib.cpu_count(), backend="loky", return_as="generator", batch_size=1)
    yield from pool(joblib.delayed(_decide)(candidates, bare, source, placebo) for placebo in placebos)


def _decide(candidates: Sequence[Candidate], windows: Windows, source: Source, placebo: Placebo) -> FloatArray:
    forecasts = list(source.placebo(placebo))
    return np.stack(
        [
            decide_all(
                load_strategy(one.use, one.params),
                (Forecast(window, paths) for window, paths in zip(windows, forecasts, strict=True)),
                name=f"{one.name} on a placebo",
            )
            for one in candidates
        ]
    )


def _score(simulation: Simulation, column: int) -> float:
    ratio = sharpe_ratio(equity_returns(simulation.equity[:, column], simulation.initial_cash))
    return 0.0 if np.isnan(ratio) else ratio
