"""Placebo runs: the same strategies and accounts on forecasts without information."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import joblib
import numpy as np

from btcbt.config import PortfolioConfig, RunConfig
from btcbt.execution.local import on_processes
from btcbt.metrics.placebos import Paths, Placebo, Source, make_placebos, spooled, summarise_placebos
from btcbt.metrics.returns import equity_returns
from btcbt.metrics.sharpe import sharpe_ratio
from btcbt.portfolio import Simulation, simulate
from btcbt.progress import Progress
from btcbt.records import CLOSE, FloatArray, Forecast, FundingRates, IntArray
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward.decisions import closed_before, decide_together
from btcbt.walkforward.members import Member
from btcbt.walkforward.traders import Trader
from btcbt.windows import Windows

MIN_RUNS = 8
"""Fewer runs finish before a second process has started."""
TARGETS_AT_ONCE = 1 << 17
"""Targets (accounts x origins) that are simulated together: an account needs some 500 bytes for each."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A strategy on one forecaster: the name of its account, its class and its parameters."""

    name: str
    use: str
    params: Mapping[str, Any]


def run_placebos(
    candidates: Sequence[Candidate],
    windows: Windows,
    paths: Paths,
    real: Simulation,
    config: PortfolioConfig,
    *,
    runs: int,
    stride: int,
    seed: int,
    advance: Callable[[int], None],
    decided: IntArray | None = None,
    funding: FundingRates | None = None,
) -> dict[str, float]:
    """Rank strategies on one forecaster among placebo runs, by the net Sharpe ratio.

    An account that never trades counts as one with a ratio of zero. Time grows with candidates x runs x origins;
    runs are spread over the processors.

    Parameters
    ----------
    candidates : sequence of Candidate
        Strategies on this forecaster.
    windows : Windows
        M origins.
    paths : Paths (M, S, H, 6)
        Its forecasts, in memory or on disk (`btcbt.metrics.placebos.spooled`).
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
        Receives the number of finished runs.
    decided : int64, optional
        The origins of all accounts of the run, if they are more than those with forecasts.
    funding : FundingRates, optional
        The series that accounts pay.

    Returns
    -------
    dict of str to float
        ``placebo.<account>.<key>``; see `btcbt.metrics.placebos.summarise_placebos`. Empty if the origins are too few.
    """
    block = -(-windows.horizon // stride)
    if not candidates or len(windows) < 3 * block:
        return {}
    placebos = make_placebos(len(windows), runs, block, seed)
    source = Source(paths, windows.candles.values[windows.last, CLOSE])
    origins = windows.origins if decided is None else decided
    closed = closed_before(windows.candles, origins, windows.origins, config)
    decisions = _decisions(candidates, windows, source, closed, placebos)
    rows = np.searchsorted(origins, windows.origins)
    at_once = max(1, TARGETS_AT_ONCE // len(windows))
    scores: list[list[float]] = [[] for _ in candidates]
    while batch := list(islice(decisions, at_once)):
        names = [f"placebo {run}" for run in range(len(batch))]
        for column, own in enumerate(scores):
            targets = np.full((len(origins), len(batch)), np.nan)
            targets[rows] = np.column_stack([run[column] for run in batch])
            accounts = simulate(windows.candles, origins, targets, names, config, funding=funding)
            own += [_score(accounts, run) for run in range(len(batch))]
        advance(len(batch))
    numbers: dict[str, float] = {}
    kinds = [placebo.kind for placebo in placebos]
    for candidate, own in zip(candidates, scores, strict=True):
        summary = summarise_placebos(_score(real, real.names.index(candidate.name)), own, kinds)
        numbers |= {f"placebo.{candidate.name}.{key}": value for key, value in summary.items()}
    return numbers


def _decisions(
    candidates: Sequence[Candidate],
    windows: Windows,
    source: Source,
    closed: IntArray | None,
    placebos: Sequence[Placebo],
) -> Iterator[FloatArray]:
    """Targets of all candidates (K, M) in each placebo run, in order."""
    bare = replace(windows, skipped={})  # not needed by worker processes
    if len(placebos) < MIN_RUNS:
        yield from (_decide(candidates, bare, source, closed, placebo) for placebo in placebos)
        return
    yield from on_processes(partial(_decide, candidates, bare, source, closed), placebos, int(joblib.cpu_count()))


def _decide(
    candidates: Sequence[Candidate], windows: Windows, source: Source, closed: IntArray | None, placebo: Placebo
) -> FloatArray:
    strategies = {f"{one.name} on a placebo": load_strategy(one.use, one.params) for one in candidates}
    made = source.placebo(placebo)
    return decide_together(strategies, (Forecast(w, paths) for w, paths in zip(windows, made, strict=True)), closed)


def _score(simulation: Simulation, column: int) -> float:
    ratio = sharpe_ratio(equity_returns(simulation.equity[:, column], simulation.initial_cash))
    return 0.0 if np.isnan(ratio) else ratio


def placebo_numbers(
    traders: Sequence[Trader],
    members: Mapping[str, Member],
    windows: Windows,
    decided: IntArray,
    real: Simulation,
    config: RunConfig,
    progress: Progress,
    funding: FundingRates | None = None,
) -> dict[str, float]:
    """Rank every strategy that trades on a forecast among placebo runs; see `run_placebos`."""
    numbers: dict[str, float] = {}
    for member in members.values() if config.placebos else ():
        candidates = [Candidate(one.name, one.use, one.params) for one in traders if one.forecaster == member.name]
        if not candidates:
            continue
        parts = (batch.paths for batch in member.batches())
        stage = progress.stage(f"placebos {member.name}", config.placebos, unit="runs")
        with spooled(parts, config.store.folder) as paths, stage as advance:
            ranks = run_placebos(
                candidates,
                windows,
                paths,
                real,
                config.portfolio,
                runs=config.placebos,
                stride=config.windows.stride,
                seed=config.seed,
                advance=advance,
                decided=decided,
                funding=funding,
            )
        numbers |= ranks
        if not ranks:
            progress.note("too few origins to shuffle; no placebo was run")
    return numbers
