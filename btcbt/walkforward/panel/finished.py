"""A finished run on several symbols: read instead of made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from btcbt.errors import StoreError
from btcbt.storage.panel_runs import PanelRun, load_panel_run
from btcbt.storage.runs import Run
from btcbt.walkforward.finished import whole
from btcbt.walkforward.panel.accounts import Books

FILES = (
    *("manifest.json", "metrics.json", "scores.parquet", "targets.parquet"),
    *("rankings.parquet", "equity.parquet", "trades.parquet", "orders.parquet", "report.html"),
)


def stored_panel(directory: Path, runs: Mapping[str, Run], books: Books) -> PanelRun | None:
    """The run in a directory, if it is whole and what would be made now.

    It is, if the run of each symbol is the one that it was made from, and all accounts decide the same (see
    `btcbt.walkforward.finished.stored_run`).

    Parameters
    ----------
    directory : Path
    runs : mapping
        The finished run of each symbol.
    books : Books
        The decisions, made now.
    """
    if not whole(directory, FILES):
        return None
    try:
        run = load_panel_run(directory)
        made_from = {
            symbol: (entry["digest"], entry.get("started")) for symbol, entry in run.manifest["symbols"].items()
        }
        stored = run.targets().to_numpy(dtype=np.float64)
    except (StoreError, KeyError, TypeError, ValueError):
        return None
    same = made_from == {symbol: (one.manifest["digest"], one.manifest["started"]) for symbol, one in runs.items()}
    decided = books.targets.reshape(len(books.targets), -1)
    return run if same and np.array_equal(stored, decided, equal_nan=True) else None
