"""Scores of forecasts over all symbols of a panel, from the runs of the single symbols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from btcbt.config import PanelConfig, interval_ms
from btcbt.metrics.cross_section_scores import cross_section_rows
from btcbt.metrics.pooled_versus import pooled_versus
from btcbt.metrics.ranking import MEASURES, rank_symbols
from btcbt.metrics.score import POOLED, Row, comparison_steps
from btcbt.metrics.table import dotted_key, is_headline
from btcbt.metrics.versus import Losses
from btcbt.progress import Advance, Progress
from btcbt.records import CLOSE, IN_BPS, FloatArray, IntArray
from btcbt.storage.runs import Run, score_table
from btcbt.walkforward.scoring import Scores

if TYPE_CHECKING:
    import pandas as pd

PANEL = "panel"
"""The symbol of scores of all symbols together."""
READ_BATCH = 168
"""Origins whose forecasts are read at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Returns:
    """Forecast and realised log returns of the close, in bps, at the steps of the comparison.

    Attributes
    ----------
    origins : int64 (B,)
        Every origin of any symbol with a known outcome, ms UTC.
    forecasts : mapping of str to mapping of int to float64 (B, K)
        By forecaster and step: median of the paths for each symbol; NaN where it is not eligible.
    outcomes : mapping of int to float64 (B, K)
        By step: what happened.
    """

    origins: IntArray
    forecasts: Mapping[str, Mapping[int, FloatArray]]
    outcomes: Mapping[int, FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class Rankings:
    """RankIC over time.

    Attributes
    ----------
    origins : int64 (B,)
        ms UTC.
    columns : mapping of str to float64 (B,)
        By ``NAME.h24``: rank correlation of forecast and realised returns; NaN where nothing is ranked.
    """

    origins: IntArray
    columns: Mapping[str, FloatArray]


def score_panel(config: PanelConfig, runs: Mapping[str, Run], progress: Progress) -> tuple[Scores, Rankings]:
    """Compare forecasters over all symbols, and test how each ranks them.

    Parameters
    ----------
    config : PanelConfig
        The experiment.
    runs : mapping
        The finished run of each symbol.
    progress : Progress
        Receives the progress.

    Returns
    -------
    Scores
        Headline numbers ``origins.*``, ``forecast.NAME.pooled.*`` and ``forecast.NAME.cross_section.*``; losses are
        empty, since those of each symbol are in its run.
    Rankings
    """
    names = list(next(iter(runs.values())).manifest["forecasters"])
    with progress.stage("score the panel", len(names) * len(runs)) as advance:
        returns = read_returns(runs, names, config.windows.horizon, advance)
    eligible = np.unique(np.concatenate([milliseconds(run.origins().index) for run in runs.values()]))
    headline = {"origins.eligible": float(len(eligible)), "origins.scored": float(len(returns.origins))}
    if not len(returns.origins):
        progress.note("no origin has a known outcome yet, so there are no forecast errors")
        return Scores(headline, ()), Rankings(returns.origins, {})
    overlap = -(-config.windows.horizon // config.windows.stride)
    compared = read_losses(runs, names, returns.origins)
    opponent = config.opponent or names[0]
    rows: dict[str, list[Row]] = {}
    found = chain(
        pooled_versus(compared, opponent, tuple(runs), overlap),
        cross_section_rows(returns.forecasts, returns.outcomes, overlap, seed=config.seed),
    )
    for name, row in found:
        rows.setdefault(name, []).append(row)
        if is_headline(row, config.windows.horizon):
            headline[dotted_key(name, row)] = row.value
    ranked = {
        f"{name}.h{step}": rank_symbols(forecast, returns.outcomes[step]).values[MEASURES.index("rank_ic")]
        for name, own in returns.forecasts.items()
        for step, forecast in own.items()
    }
    tables = tuple(score_table(name, PANEL, own) for name, own in rows.items())
    return Scores(headline, tables), Rankings(returns.origins, ranked)


def read_losses(
    runs: Mapping[str, Run], names: Sequence[str], origins: IntArray
) -> dict[str, dict[tuple[str, int], Losses]]:
    """Losses (B, K) of each forecaster by loss and step, on the given origins; NaN where a symbol has none.

    The noise of few paths is not stored, so it is NaN.
    """
    found: dict[str, dict[tuple[str, int], Losses]] = {name: {} for name in names}
    for k, run in enumerate(runs.values()):
        frame = run.losses()
        rows = np.searchsorted(origins, milliseconds(frame.index))
        for name, own in found.items():
            for column in (one for one in frame.columns if one.startswith(f"{name}.")):
                loss, _, step = column.removeprefix(f"{name}.").partition(".h")
                if "." in loss:  # of a forecaster whose name begins with this one's
                    continue
                at = (loss, int(step) if step else POOLED)
                empty = np.full((len(origins), len(runs)), np.nan)
                table = own.setdefault(at, Losses(empty, np.full_like(empty, np.nan)))
                table.loss[rows, k] = frame[column].to_numpy()
    return found


def read_returns(runs: Mapping[str, Run], names: Sequence[str], horizon: int, advance: Advance) -> Returns:
    """Medians of the stored forecasts and what happened, one batch of one symbol in memory at a time."""
    steps = comparison_steps(horizon)
    frames = {symbol: run.origins() for symbol, run in runs.items()}
    scored = {symbol: milliseconds(frame.index[frame["scored"]]) for symbol, frame in frames.items()}
    origins = np.unique(np.concatenate([*scored.values(), np.empty(0, dtype=np.int64)]))
    shape = (len(origins), len(runs))
    outcomes = {step: np.full(shape, np.nan) for step in steps}
    forecasts = {name: {step: np.full(shape, np.nan) for step in steps} for name in names}
    for k, (symbol, run) in enumerate(runs.items()):
        last, realised = _realised(run, scored[symbol], steps)
        rows = np.searchsorted(origins, scored[symbol])
        for step in steps:
            outcomes[step][rows, k] = realised[step]
        for name in names:
            for at, medians in _medians(run, name, scored[symbol], last, steps):
                for step, column in zip(steps, medians.T, strict=True):
                    forecasts[name][step][np.searchsorted(origins, at), k] = column
            advance(1)
    return Returns(origins, forecasts, outcomes)


def _medians(
    run: Run, name: str, scored: IntArray, last: FloatArray, steps: Sequence[int]
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Origins of a batch and the medians (b, steps) of their log returns, bps."""
    for batch in run.forecasts(name).batches(READ_BATCH):
        known = np.isin(batch.origins, scored)
        at = batch.origins[known]
        closes = np.median(batch.paths[known][:, :, [step - 1 for step in steps], CLOSE].astype(np.float64), axis=1)
        yield at, np.log(closes / last[np.searchsorted(scored, at)][:, None]) * IN_BPS


def _realised(run: Run, scored: IntArray, steps: Sequence[int]) -> tuple[FloatArray, dict[int, FloatArray]]:
    """The last close at each origin with a known outcome, and the log returns from there, bps."""
    candles = run.candles()
    opens, close = milliseconds(candles.index), candles["close"].to_numpy(dtype=np.float64)
    rows = np.searchsorted(opens, scored - interval_ms(run.config.candles.interval))
    return close[rows], {step: np.log(close[rows + step] / close[rows]) * IN_BPS for step in steps}


def milliseconds(times: pd.Index[Any]) -> IntArray:
    """Times of an index, ms UTC."""
    return np.asarray(times.tz_convert(None).to_numpy(), dtype="datetime64[ms]").astype(np.int64)  # type: ignore[attr-defined]
