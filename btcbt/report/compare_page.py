"""The page of a comparison: one HTML file that loads nothing, of the parts of a run's page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from btcbt.config import time_text
from btcbt.errors import ConfigError
from btcbt.files import write_whole
from btcbt.metrics.score import POOLED
from btcbt.report.colours import cycle
from btcbt.report.compare import (
    RunComparison,
    accounts_table,
    differences_table,
    rankings_table,
    settings_table,
    verdict,
)
from btcbt.report.figures import costs_of, heading_of
from btcbt.report.page.blobs import pack, pack_json
from btcbt.report.page.content import Table, as_table
from btcbt.report.page.render import page_text
from btcbt.report.panel_figures import panel_heading
from btcbt.storage.panel_runs import PanelRun
from btcbt.storage.runs import Run

MOST_POINTS = 1500
"""Points of a curve."""
MOST_CURVES = 60
"""Curves of equity."""


def write_comparison(found: RunComparison, file: Path) -> Path:
    """Write the page of a comparison.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    text = page_text("compare", _content(found), _blobs(found))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text.encode())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror}); choose another file") from None
    return file


def _content(found: RunComparison) -> dict[str, Any]:
    first, last = (time_text(int(found.origins[end])) for end in (0, -1))
    about = {
        letter: [
            run.config.name,
            _heading(run).partition(": ")[2].strip(),
            ", ".join(run.manifest["forecasters"]),
            costs_of(run),
            str(run.directory),
        ]
        for letter, run in found.runs.items()
    }
    heads = ("name", "candles and origins", "forecasters", "accounts", "folder")
    rows = [[head, *cells] for head, cells in zip(heads, zip(*about.values(), strict=True), strict=True)]
    runs = Table("Runs", ["", *about], rows, left=range(len(about) + 1))
    return {
        "title": " and ".join(dict.fromkeys(run.config.name for run in found.runs.values())),
        "about": f"{len(found.origins):,} common origins, {first} to {last}",
        "verdict": [text.plain for text in verdict(found)],
        "notes": found.notes,
        "runs": runs,
        "differences": as_table(differences_table(found, repeat=True)),
        "rankings": as_table(rankings_table(found)) if len(found.rankings) else None,
        "accounts": as_table(accounts_table(found, repeat=True)) if len(found.accounts) else None,
        "settings": as_table(settings_table(found)) if len(found.settings) else None,
        "command": "btcbt compare " + " ".join(str(run.directory) for run in found.runs.values()),
    }


def _heading(run: Run | PanelRun) -> str:
    return panel_heading(run) if isinstance(run, PanelRun) else heading_of(run)


def _blobs(found: RunComparison) -> dict[str, str]:
    colours = dict(zip(found.runs, cycle(len(found.runs)), strict=True))
    at = np.unique(np.linspace(0, len(found.hours) - 1, min(len(found.hours), MOST_POINTS)).round().astype(np.int64))
    names = list(dict.fromkeys(name for _, name in found.returns))
    shared = [name for name in names if sum(one == name for _, one in found.returns) > 1] or names
    curves = [pair for pair in found.returns if pair[1] in shared][:MOST_CURVES]
    growth = [np.cumprod(1.0 + found.returns[pair])[at] for pair in curves]
    meta = {
        "runs": [
            {"name": letter, "title": found.runs[letter].config.name, "colour": colour}
            for letter, colour in colours.items()
        ],
        "differences": list(_rows(found)),
        "times": found.hours[at].tolist(),
        "curves": [{"run": letter, "account": name} for letter, name in curves],
    }
    return {"meta": pack_json(meta), "growth": pack(np.array(growth, dtype="<f4"))}


def _rows(found: RunComparison) -> list[Mapping[str, Any]]:
    """What the chart of differences draws."""
    shown = found.differences[["run", "forecaster", "against", "step", "difference_pct", "low_pct", "high_pct"]]
    return [
        {
            "run": row["run"],
            "name": row["forecaster"],
            "ahead": "path" if row["step"] == POOLED else str(row["step"]),
            **{key: _short(row[f"{key}_pct"]) for key in ("difference", "low", "high")},
        }
        for row in shown.to_dict("records")
    ]


def _short(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
