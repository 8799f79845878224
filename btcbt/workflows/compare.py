"""Compare finished runs on the origins and hours that they share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd

from btcbt.config import interval_ms, time_text
from btcbt.errors import ConfigError, StoreError
from btcbt.metrics.score import POOLED
from btcbt.metrics.versus import paired_differences
from btcbt.records import FloatArray, IntArray
from btcbt.report.cells import NONE
from btcbt.report.compare import RunComparison
from btcbt.report.figures import milliseconds, primary
from btcbt.report.panel_tables import main_forecaster
from btcbt.storage.panel_runs import PanelRun, load_any_run
from btcbt.storage.runs import Run
from btcbt.trees import leaves
from btcbt.workflows.compare_accounts import common_times, compared_accounts
from btcbt.workflows.compare_panels import panel_notes, places, pooled_differences, ranking_differences

SHOWN_OF_MANIFEST = ("code", "packages")
"""Parts of the manifest whose differences are listed after those of the experiments."""


def compare(*runs: Run | PanelRun | str | Path, against: str | None = None) -> RunComparison:
    """Compare finished runs on common origins and common hours; the first is the one that all others are compared with.

    Every forecaster is compared with the one of its name in the first run, or with the first run's main forecaster if
    there is none of its name. Losses, tests and adjustment are those of `btcbt.metrics.versus`; nothing is forecast or
    traded again.

    Parameters
    ----------
    runs : Run, PanelRun or path
        Two or more, of the same candles; all on one symbol, or all on several.
    against : str, optional
        A forecaster of the first run that all others, of the first run too, are compared with.

    Returns
    -------
    RunComparison

    Raises
    ------
    ConfigError
        If the runs cannot be compared: fewer than two, one of them twice, other candles, no common origin, or no
        forecaster `against`.
    StoreError
        If a run is missing, damaged or of an older version.

    Examples
    --------
    >>> print(compare("runs/walkforward", "runs/refit"))  # doctest: +SKIP
    """
    opened = _lettered([one if isinstance(one, Run | PanelRun) else load_any_run(one) for one in runs])
    if any(isinstance(run, PanelRun) for run in opened.values()):
        return _compare_panels(_panels(opened), against)
    return _compare_singles({letter: run for letter, run in opened.items() if isinstance(run, Run)}, against)


def _compare_singles(opened: Mapping[str, Run], against: str | None) -> RunComparison:
    losses = {letter: _losses(run) for letter, run in opened.items()}
    _require_same_candles(list(opened.values()))
    origins = common_times([milliseconds(frame.index) for frame in losses.values()])
    if not len(origins):
        spans = "; ".join(f"{run.directory}: {_span(losses[letter])}" for letter, run in opened.items())
        raise ConfigError(f"the runs have no common origin ({spans}); compare runs of the same hours")
    shared = {letter: frame.loc[np.isin(milliseconds(frame.index), origins)] for letter, frame in losses.items()}
    table, method = _differences(opened, shared, origins, _rivals(opened, against))
    hours, accounts, returns = compared_accounts(opened)
    return RunComparison(
        opened,
        origins,
        table,
        method,
        accounts,
        hours,
        returns,
        _settings(opened),
        pd.DataFrame(),
        tuple(_notes(opened, origins, hours)),
    )


def _compare_panels(opened: Mapping[str, PanelRun], against: str | None) -> RunComparison:
    """Runs on several symbols: losses pooled over the symbols that all have, and rankings."""
    symbols = [name for name in opened["A"].symbols if all(name in run.symbols for run in opened.values())]
    each = {symbol: {letter: run.symbol(symbol) for letter, run in opened.items()} for symbol in symbols}
    losses = {symbol: {letter: _losses(run) for letter, run in runs.items()} for symbol, runs in each.items()}
    for runs in each.values():
        _require_same_candles(list(runs.values()))
    common = {
        symbol: common_times([milliseconds(frame.index) for frame in frames.values()])
        for symbol, frames in losses.items()
    }
    origins = np.unique(np.concatenate([np.empty(0, np.int64), *common.values()]))
    if not len(origins):
        spans = "; ".join(f"{run.directory}: {', '.join(run.symbols)}" for run in opened.values())
        raise ConfigError(f"the runs have no symbol with a common origin ({spans}); compare runs of the same hours")
    rivals = _rivals(opened, against)
    table, method = pooled_differences(opened, losses, common, origins, rivals)
    hours, accounts, returns = compared_accounts(opened)
    same = all(run.symbols == opened["A"].symbols for run in opened.values())
    rankings = ranking_differences(opened, origins, rivals) if same else pd.DataFrame()
    notes = [*_common_notes(opened, hours), *panel_notes(opened, symbols)]
    settings = _settings(opened)
    return RunComparison(opened, origins, table, method, accounts, hours, returns, settings, rankings, tuple(notes))


def _panels(opened: Mapping[str, Run | PanelRun]) -> dict[str, PanelRun]:
    """The runs, if all are on several symbols."""
    found = {letter: run for letter, run in opened.items() if isinstance(run, PanelRun)}
    for run in opened.values():
        if not isinstance(run, PanelRun):
            panel = next(iter(found.values()))
            single = panel.symbol(panel.symbols[0]).directory
            raise ConfigError(
                f"{run.directory}: a run on one symbol, and {panel.directory} is on several; compare runs of one kind, "
                f"such as that of one of its symbols, {single}"
            )
    return found


def _lettered(runs: Sequence[Run | PanelRun]) -> dict[str, Run | PanelRun]:
    if not 2 <= len(runs) <= len(ascii_uppercase):
        raise ConfigError(f"{len(runs)} runs to compare; expected 2 to {len(ascii_uppercase)}, such as runs/a runs/b")
    folders = [run.directory.resolve() for run in runs]
    for k, folder in enumerate(folders):
        if folder in folders[:k]:
            raise ConfigError(f"{runs[k].directory}: given twice; compare a run with another one")
    for run in runs:
        of = "symbols" if isinstance(run, PanelRun) else "candles"
        absent = [key for key in ("forecasters", "strategies", "origins", of, "code") if key not in run.manifest]
        if absent:
            raise StoreError(
                f"{run.directory}: its manifest has no '{absent[0]}', the run is of an older version; run it again"
            )
    return dict(zip(ascii_uppercase, runs, strict=False))


def _losses(run: Run) -> pd.DataFrame:
    """Losses by origin, checked."""
    try:
        frame = run.losses()
        times = milliseconds(frame.index)
        # Reading every column as numbers here keeps damage out of the tests.
        frame = frame.astype(np.float64)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise StoreError(f"{run.directory / 'losses.parquet'}: damaged ({problem}); run the experiment again") from None
    if np.any(np.diff(times) <= 0):
        raise StoreError(f"{run.directory / 'losses.parquet'}: origins are not in order; run the experiment again")
    wanted = [column for name in run.manifest["forecasters"] for _, column in places(run, name)]
    absent = [column for column in wanted if column not in frame.columns]
    if absent:
        raise StoreError(f"{run.directory / 'losses.parquet'}: no column '{absent[0]}'; run the experiment again")
    return frame


def _require_same_candles(runs: Sequence[Run]) -> None:
    """Refuse runs whose closes differ where both have a candle: their losses are not of the same outcomes."""
    first = runs[0]
    closes, interval = first.candles()["close"], first.config.candles.interval
    for run in runs[1:]:
        if interval_ms(run.config.candles.interval) != interval_ms(interval):
            raise ConfigError(
                f"{run.directory}: candles of {run.config.candles.interval}, those of {first.directory} are of "
                f"{interval}; compare runs on the same candles"
            )
        both = pd.concat([closes, run.candles()["close"]], axis=1, join="inner").to_numpy(dtype=np.float64)
        wrong = np.flatnonzero(both[:, 0] != both[:, 1])
        if len(wrong):
            when = closes.index.intersection(run.candles().index)[wrong[0]]
            raise ConfigError(
                f"{run.directory}: {len(wrong):,} of {len(both):,} closes are not those of {first.directory}, the "
                f"first at {when:%Y-%m-%dT%H:%M} ({both[wrong[0], 1]:g} and {both[wrong[0], 0]:g}); compare runs "
                "on the same candles"
            )


def _span(losses: pd.DataFrame) -> str:
    times = milliseconds(losses.index)
    return f"{time_text(int(times[0]))} .. {time_text(int(times[-1]))}" if len(times) else "none"


def _rivals(runs: Mapping[str, Run] | Mapping[str, PanelRun], against: str | None) -> list[tuple[str, str, str]]:
    """Run, forecaster, and the forecaster of the first run that it is compared with, main forecasters first."""
    first, *others = runs
    known = list(runs[first].manifest["forecasters"])
    if against is not None and against not in known:
        raise ConfigError(f"{runs[first].directory}: no forecaster '{against}'; it has {', '.join(known)}")
    found = []
    for letter in ([first] if against is not None else []) + others:
        main = _main(runs[letter])
        names = sorted(runs[letter].manifest["forecasters"], key=lambda name: name != main)
        for name in names:
            other = against or (name if name in known else _main(runs[first]))
            if (letter, name) != (first, against):
                found.append((letter, name, other))
    return found


def _main(run: Run | PanelRun) -> str:
    return main_forecaster(run) if isinstance(run, PanelRun) else primary(run)


def _differences(
    runs: Mapping[str, Run],
    losses: Mapping[str, pd.DataFrame],
    origins: IntArray,
    rivals: Sequence[tuple[str, str, str]],
) -> tuple[pd.DataFrame, str]:
    """The table of `RunComparison.differences`, and how p-values were adjusted."""
    first = next(iter(runs))
    horizons = {letter: run.config.windows.horizon for letter, run in runs.items()}
    rows: list[dict[str, Any]] = []
    pairs: list[tuple[FloatArray, FloatArray]] = []
    for letter, name, other in rivals:
        theirs = dict(places(runs[first], other))
        for step, column in places(runs[letter], name):
            # Paths of other lengths have energy scores of other scales.
            if step not in theirs or (step == POOLED and horizons[letter] != horizons[first]):
                continue
            rows.append({"run": letter, "forecaster": name, "against": other, "step": step})
            pairs.append((losses[letter][column].to_numpy(), losses[first][theirs[step]].to_numpy()))
    stride = (
        max(1, int(np.diff(origins).min()) // interval_ms(runs[first].config.candles.interval))
        if len(origins) > 1
        else 1
    )
    longest = max(row["step"] or horizons[first] for row in rows)
    tests, method = paired_differences(pairs, math.ceil(longest / stride))
    for row, one in zip(rows, tests, strict=True):
        row |= {**one.numbers, "origins": one.found.n}
    return pd.DataFrame(rows), method


def _settings(runs: Mapping[str, Run] | Mapping[str, PanelRun]) -> pd.DataFrame:
    """Keys of the experiments that differ, then those of code and packages."""
    trees = {}
    for letter, run in runs.items():
        made = {part: run.manifest.get(part) for part in SHOWN_OF_MANIFEST}
        trees[letter] = {**dict(leaves(run.manifest["config"])), **dict(leaves(made))}
    keys = dict.fromkeys(key for tree in trees.values() for key in tree)
    rows = []
    for key in keys:
        # A mapping without keys says no more than keys that are absent.
        values = [None if tree.get(key) == {} else tree.get(key) for tree in trees.values()]
        if any(a != b for a, b in pairwise(values)):
            rows.append(
                {"key": key} | {letter: NONE if v is None else str(v) for letter, v in zip(trees, values, strict=True)}
            )
    return pd.DataFrame(rows, columns=["key", *trees])


def _notes(runs: Mapping[str, Run], origins: IntArray, hours: IntArray) -> Iterator[str]:
    """What a reader has to know of the comparison."""
    for letter, run in runs.items():
        table = run.origins()
        at = np.isin(milliseconds(table.index), origins)
        for name in run.manifest["forecasters"]:
            counts = table.loc[at, f"label.{name}"].value_counts()
            unclean = ", ".join(f"{count:,} {label}" for label, count in counts.items() if label != "clean" and count)
            if unclean:
                yield f"{letter}'s {name}: {unclean} of {len(origins):,} origins; not evidence on new data"
    yield from _common_notes(runs, hours)


def _common_notes(runs: Mapping[str, Run] | Mapping[str, PanelRun], hours: IntArray) -> Iterator[str]:
    horizons = {letter: run.config.windows.horizon for letter, run in runs.items()}
    if len(set(horizons.values())) > 1:
        each = ", ".join(f"{letter} {horizon}" for letter, horizon in horizons.items())
        yield f"horizons differ ({each} candles): compared at the steps that are stored in both, and not over the path"
    for letter, run in runs.items():
        entries = run.manifest["forecasters"].items()
        plain = [name for name, entry in entries if entry.get("paths_are") == "dependent"]
        if plain:
            yield f"scored by the plain CRPS, as their paths depend on each other: {letter}'s {', '.join(plain)}"
    if not len(hours):
        trading = [letter for letter, run in runs.items() if run.manifest["strategies"]]
        why = "have no common hour" if len(trading) > 1 else "trade in fewer than two of the runs"
        yield f"accounts are not compared: they {why}"
