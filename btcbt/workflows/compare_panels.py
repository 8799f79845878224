"""Differences of runs on several symbols: losses pooled over symbols, and rankings of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from btcbt.config import interval_ms
from btcbt.metrics.intervals import loss_difference
from btcbt.metrics.multiplicity import adjusted_tests
from btcbt.metrics.pooled import pooled_comparison
from btcbt.metrics.score import POOLED, comparison_steps
from btcbt.records import FloatArray, IntArray
from btcbt.report.figures import milliseconds
from btcbt.storage.panel_runs import PanelRun
from btcbt.storage.runs import Run

Rival = tuple[str, str, str]
"""Run, forecaster, and the forecaster of the first run that it is compared with."""


def pooled_differences(
    runs: Mapping[str, PanelRun],
    losses: Mapping[str, Mapping[str, pd.DataFrame]],
    common: Mapping[str, IntArray],
    origins: IntArray,
    rivals: Sequence[Rival],
) -> tuple[pd.DataFrame, str]:
    """The table of `RunComparison.differences`, pooled over symbols, and how p-values were adjusted.

    Parameters
    ----------
    runs : mapping of str to PanelRun
        By letter.
    losses : mapping
        By symbol and letter, as of `btcbt.storage.runs.Run.losses`.
    common : mapping of str to int64
        By symbol: origins that all runs have scored, ms UTC.
    origins : int64 (B,)
        Those of any symbol.
    rivals : sequence of Rival
    """
    horizons = {letter: run.config.windows.horizon for letter, run in runs.items()}
    first = next(iter(runs))
    rows: list[dict[str, Any]] = []
    pairs: list[tuple[FloatArray, FloatArray]] = []
    for letter, name, other in rivals:
        theirs = dict(places(runs[first], other))
        for step, column in places(runs[letter], name):
            if step in theirs and (step != POOLED or horizons[letter] == horizons[first]):
                rows.append({"run": letter, "forecaster": name, "against": other, "step": step})
                ours = _table(losses, letter, column, common, origins)
                pairs.append((ours, _table(losses, first, theirs[step], common, origins)))
    overlap = _overlap(runs, origins, max(row["step"] or horizons[first] for row in rows))
    found = [pooled_comparison(ours, theirs, overlap) for ours, theirs in pairs]
    tests = adjusted_tests(np.column_stack([one.series for one in found]), overlap)
    for row, one, p, adjusted in zip(rows, found, tests.p_value, tests.adjusted, strict=True):
        row |= {
            "difference_pct": one.pooled.difference,
            "low_pct": one.pooled.low,
            "high_pct": one.pooled.high,
            "detectable_pct": one.pooled.smallest_detectable,
            "p_value": float(p),
            "adjusted_p": float(adjusted),
            "effective_symbols": one.effective_symbols,
            "origins": one.pooled.n,
        }
    return pd.DataFrame(rows), tests.method


def ranking_differences(runs: Mapping[str, PanelRun], origins: IntArray, rivals: Sequence[Rival]) -> pd.DataFrame:
    """The table of `RunComparison.rankings`, on the origins that both have ranked."""
    first, tables = next(iter(runs)), {}
    for letter, run in runs.items():
        frame = run.rankings()
        tables[letter] = frame.set_axis(milliseconds(frame.index)).reindex(origins)
    rows: list[dict[str, Any]] = []
    series: list[FloatArray] = []
    overlap = _overlap(runs, origins, max(run.config.windows.horizon for run in runs.values()))
    for letter, name, other in rivals:
        for step in comparison_steps(runs[letter].config.windows.horizon):
            if f"{name}.h{step}" not in tables[letter] or f"{other}.h{step}" not in tables[first]:
                continue
            ours, theirs = (
                tables[where][f"{who}.h{step}"].to_numpy(dtype=np.float64)
                for where, who in ((letter, name), (first, other))
            )
            found = loss_difference(ours, theirs, overlap)
            series.append(ours - theirs)
            rows.append(
                {
                    "run": letter,
                    "forecaster": name,
                    "against": other,
                    "step": step,
                    "rank_ic": found.relative_to + found.difference,
                    "against_rank_ic": found.relative_to,
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                    "p_value": found.p_value,
                }
            )
    if rows:
        adjusted = adjusted_tests(np.column_stack(series), overlap).adjusted
        rows = [row | {"adjusted_p": float(p)} for row, p in zip(rows, adjusted, strict=True)]
    return pd.DataFrame(rows)


def panel_notes(runs: Mapping[str, PanelRun], symbols: Sequence[str]) -> Iterator[str]:
    """What a reader has to know of runs on several symbols."""
    if any(set(run.symbols) != set(symbols) for run in runs.values()):
        yield f"symbols differ: losses are pooled over {', '.join(symbols)}, and rankings are not compared"
    for letter, run in runs.items():
        for name, entry in run.manifest["forecasters"].items():
            counts = {label: count for label, count in entry["labels"].items() if label != "clean" and count}
            if counts:
                unclean = ", ".join(f"{count:,} {label}" for label, count in counts.items())
                yield f"{letter}'s {name}: {unclean} forecasts of its run; not evidence on new data"


def places(run: Run | PanelRun, name: str) -> Iterator[tuple[int, str]]:
    """Steps of a forecaster's losses, `POOLED` for the whole path, and their columns."""
    for step in comparison_steps(run.config.windows.horizon):
        yield step, f"{name}.crps_bps.h{step}"
    yield POOLED, f"{name}.energy_bps"


def _table(
    losses: Mapping[str, Mapping[str, pd.DataFrame]],
    letter: str,
    column: str,
    common: Mapping[str, IntArray],
    origins: IntArray,
) -> FloatArray:
    """Losses (B, K) on the common origins of each symbol; NaN elsewhere."""
    found = np.full((len(origins), len(losses)), np.nan)
    for k, (symbol, frames) in enumerate(losses.items()):
        frame = frames[letter]
        at = np.isin(milliseconds(frame.index), common[symbol])
        found[np.searchsorted(origins, common[symbol]), k] = frame[column].to_numpy(dtype=np.float64)[at]
    return found


def _overlap(runs: Mapping[str, PanelRun], origins: IntArray, longest: int) -> int:
    """Origins whose outcomes overlap at the longest step."""
    apart = int(np.diff(origins).min()) if len(origins) > 1 else 1
    first = next(iter(runs.values()))
    return math.ceil(longest / max(1, apart // interval_ms(first.config.candles.interval)))
