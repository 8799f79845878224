"""Finished runs on several symbols: the run of each symbol, and what was computed over all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from btcbt.config import PanelConfig
from btcbt.errors import StoreError
from btcbt.files import read_file
from btcbt.storage.runs import Run, latest, load_run, read_frame, require
from btcbt.storage.verdicts import MAX_JSON_BYTES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PanelRun:
    """A finished run on several symbols.

    Attributes
    ----------
    directory : Path
        Where it lies.
    config : PanelConfig
        The experiment, defaults filled in.
    manifest : mapping
        Where the numbers came from; ``symbols`` names the run of each symbol.
    metrics : mapping of str to float
        Headline numbers over all symbols under dotted keys; those of single symbols are in their runs.
    """

    directory: Path
    config: PanelConfig
    manifest: Mapping[str, Any]
    metrics: Mapping[str, float]

    def __repr__(self) -> str:
        what = f"{', '.join(self.symbols)}, {self.manifest['origins']['eligible']:,} origins"
        return f"<{type(self).__name__} {self.config.name}: {what}; {self.directory}>"

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols."""
        return tuple(self.manifest["symbols"])

    def symbol(self, symbol: str) -> Run:
        """The run of one symbol.

        Raises
        ------
        StoreError
            If there is no such symbol, or its run is not beside this one.
        """
        known: Mapping[str, Any] = self.manifest["symbols"]
        entry = known[require(symbol, known, "symbol", self.directory)]
        return load_run(self.directory.parent.parent / entry["name"] / entry["digest"])

    def scores(self) -> pd.DataFrame:
        """Scores over all symbols, columns as of `btcbt.storage.runs.Run.scores`; ``symbol`` is ``panel``."""
        return read_frame(self.directory, "scores")

    def targets(self) -> pd.DataFrame:
        """Decided weights, indexed by origin (UTC); columns are account and symbol, ``top_k@kronos/ETH``."""
        return read_frame(self.directory, "targets", index="origin")

    def equity(self) -> pd.DataFrame:
        """Equity of each account at each candle's close in quote units, indexed by open time (UTC)."""
        return read_frame(self.directory, "equity", index="open_time")

    def trades(self) -> pd.DataFrame:
        """One row per position, with its symbol (see `btcbt.portfolio.Simulation`)."""
        return read_frame(self.directory, "trades")

    def orders(self) -> pd.DataFrame:
        """One row per fill, with its symbol (see `btcbt.portfolio.Simulation`)."""
        return read_frame(self.directory, "orders")

    def rankings(self) -> pd.DataFrame:
        """RankIC of each forecaster at each origin (UTC): columns ``NAME.h24``; NaN where nothing is ranked."""
        return read_frame(self.directory, "rankings", index="origin")


def is_panel(directory: str | Path) -> bool:
    """Whether a folder, ``runs/<name>/<digest>`` or ``runs/<name>``, holds a run on several symbols."""
    folder = Path(directory)
    if not (folder / "manifest.json").is_file():
        folder = latest(folder) or folder
    try:
        manifest = json.loads(read_file(folder / "manifest.json", MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and "symbols" in manifest


def load_any_run(directory: str | Path) -> Run | PanelRun:
    """Open a finished run on one symbol or on several.

    Raises
    ------
    StoreError
        If there is no whole run.
    """
    return load_panel_run(directory) if is_panel(directory) else load_run(directory)


def load_panel_run(directory: str | Path) -> PanelRun:
    """Open a finished run on several symbols, ``runs/<name>/<digest>`` or ``runs/<name>``.

    Raises
    ------
    StoreError
        If there is no whole run on several symbols.
    """
    folder = Path(directory)
    if not (folder / "manifest.json").is_file():
        folder = latest(folder) or folder
    try:
        manifest = json.loads(read_file(folder / "manifest.json", MAX_JSON_BYTES))
        read = json.loads(read_file(folder / "metrics.json", MAX_JSON_BYTES))
        metrics = {key: math.nan if value is None else float(value) for key, value in read.items()}
        config = PanelConfig.model_validate_json(json.dumps(manifest["config"]))
        for entry in manifest["symbols"].values():
            if not all(
                isinstance(entry[key], str) and Path(entry[key]).name == entry[key] for key in ("name", "digest")
            ):
                raise ValueError("the run of a symbol is not named by a folder")
    except OSError as error:
        raise StoreError(f"{directory}: not a run ({error.strerror}: {error.filename}); give runs/NAME") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
        problem = " ".join(str(error).split())[:200]
        raise StoreError(f"{folder}: not a run on several symbols, damaged or of another version ({problem})") from None
    return PanelRun(folder, config, manifest, metrics)
