"""The decisions of every trader of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from btcbt.config import PortfolioConfig
from btcbt.progress import Advance, Progress
from btcbt.records import FloatArray, Forecast
from btcbt.walkforward.decisions import asked_at, closed_before, decide_all
from btcbt.walkforward.many_decisions import Stream, decide_in_columns
from btcbt.walkforward.members import READ_BATCH, Member
from btcbt.walkforward.stages import STRATEGY, running
from btcbt.walkforward.traders import Trader
from btcbt.windows import Windows

log = logging.getLogger(__name__)


def decide_targets(
    traders: Sequence[Trader],
    members: Mapping[str, Member],
    windows: Windows,
    decided: Windows,
    portfolio: PortfolioConfig,
    progress: Progress,
) -> FloatArray:
    """Decisions of every trader at every origin at which it has the candles that it needs.

    Parameters
    ----------
    traders : sequence of Trader
        K traders.
    members : mapping
        The forecasters that they trade on, with their forecasts stored.
    windows : Windows
        The origins with forecasts.
    decided : Windows
        M origins, those with forecasts among them; see `btcbt.windows.decision_windows`.
    portfolio : PortfolioConfig
        Says what happens to positions without a decision.
    progress : Progress
        Receives the progress.

    Returns
    -------
    float64 (M, K)
        Targets; NaN where a trader does not decide.
    """
    targets = np.full((len(decided), len(traders)), np.nan, dtype=np.float64)
    own = [asked_at(trader.strategy, windows, decided) for trader in traders]
    count = sum(len(one) for one in own)
    with progress.stage("decide", count, unit="decisions") as advance, running(STRATEGY):
        for column, (trader, asked) in enumerate(zip(traders, own, strict=True)):
            member = None if trader.forecaster is None else members[trader.forecaster]
            stream = Stream.of(asked, member)
            rows = np.searchsorted(decided.origins, asked.origins)
            closed = closed_before(decided.candles, decided.origins, asked.origins, portfolio)
            found = decide_in_columns([trader.strategy], stream, trader.name, closed)
            if found is None:
                forecasts = counted(stream.singly(), advance)
                targets[rows, column] = decide_all(trader.strategy, forecasts, name=trader.name, closed=closed)
            else:
                targets[rows, column] = found[:, 0]
                advance(len(asked))
    _warn_of_limits(traders, targets, portfolio)
    return targets


def _warn_of_limits(traders: Sequence[Trader], targets: FloatArray, portfolio: PortfolioConfig) -> None:
    """Say once which strategies ask for more than the portfolio allows, since that is clipped."""
    for side, most, key in ((-1, portfolio.max_short, "max_short"), (1, portfolio.max_long, "max_long")):
        beyond = np.count_nonzero(side * targets > most, axis=0)
        cut = [trader.name for trader, count in zip(traders, beyond, strict=True) if count]
        if cut:
            name, count = traders[int(beyond.argmax())].name, int(beyond.max())
            worst, others = side * float(np.nanmax(side * targets)), len(cut) - 1
            log.warning(
                "strategy '%s'%s decides on weights as far as %+.2f; at %s of its %s origins the weight is cut to "
                "%g, since portfolio.%s is %g: raise it to trade them",
                name,
                f" and {others} more" if others else "",
                worst,
                f"{count:,}",
                f"{int(np.isfinite(targets[:, int(beyond.argmax())]).sum()):,}",
                side * most + 0.0,
                key,
                most,
            )


def counted(forecasts: Iterable[Forecast], advance: Advance) -> Iterator[Forecast]:
    """The same forecasts, counted when they have been decided on, a few at once."""
    done = 0
    for forecast in forecasts:
        yield forecast
        done += 1
        if done == READ_BATCH:
            advance(done)
            done = 0
    advance(done)
