"""The files that a newcomer starts from: an experiment, a strategy, and a notebook that reads the run."""

from __future__ import annotations

import json
from pathlib import Path

from btcbt.errors import ConfigError
from btcbt.files import write_whole
from btcbt.workflows.schema import json_schema

EXPERIMENT_FILE, STRATEGY_FILE, NOTEBOOK_FILE = "experiment.yaml", "my_strategy.py", "results.ipynb"
SCHEMA_FILE = "experiment.schema.json"

EXPERIMENT = """\
# yaml-language-server: $schema=experiment.schema.json
# Does a forecaster have an edge after costs? Run it with: btcbt run experiment.yaml
name: first

# Candle history: bundled here; your own with 'btcbt data import' or 'btcbt data download'.
candles: {path: "bundled:BTCUSD_1h", interval: 1h}

# A forecast at every hour of two weeks, from the last 168 candles, of the next 24.
windows:
  start: 2019-06-01
  end: 2019-06-15
  context: 168
  horizon: 24

# What forecasts. 'kind: kronos' is the neural one; it takes longer.
forecasters:
  random_walk: {kind: random_walk, n_paths: 100}
  ewma_volatility: {kind: ewma_volatility, n_paths: 100}

# What trades on the forecasts. The first is in my_strategy.py: change it.
strategies:
  mine:
    use: "my_strategy.py:Mine"
    params: {least: 0.55}
  threshold: {use: threshold}
  buy_and_hold: {use: buy_and_hold}

# Costs in basis points a side; max_short: 1 would allow short positions.
portfolio: {fee_bps: 10, slippage_bps: 2, max_short: 0}

seed: 7
"""

STRATEGY = '''\
"""A strategy of your own: change `decide`."""

from pydantic import Field

from btcbt.strategies import Params, Strategy


class MineParams(Params):
    """Values that an experiment may set under 'params'."""

    least: float = Field(0.55, gt=0, lt=1, description="Share of paths that must rise")


class Mine(Strategy):
    """Be long while enough of the sampled paths end above the last close."""

    Params = MineParams
    params: MineParams

    def decide(self, forecast, holding):
        """The fraction of equity to hold from the next open, between -1 and 1.

        forecast.returns() has one return a path, from the last close to the end of the horizon; forecast.window.values
        has the candles that are known, and holding.weight what is held now.
        """
        rising = (forecast.returns() > 0).mean()
        return 1.0 if rising >= self.params.least else 0.0
'''

CELLS = (
    ("markdown", "# The results of experiment.yaml\n\nRun `btcbt run experiment.yaml` first."),
    ("code", 'from btcbt import load_run\n\nresult = load_run("runs/first")\nresult.directory'),
    ("markdown", "Equity of every account after costs, and what was decided."),
    ("code", 'result.equity().plot(figsize=(9, 4), ylabel="equity");'),
    ("code", "result.targets().tail()"),
    ("markdown", "Skill of the forecasts: CRPS of the close in basis points, 1 and 24 hours ahead; lower is better."),
    (
        "code",
        'scores = result.scores()\ncrps = scores[(scores.metric == "crps_bps") & (scores.channel == "close")]\n'
        'crps = crps[(crps.group == "all") & crps.step.isin([1, 24])]\n'
        'crps.pivot(index="forecaster", columns="step", values="value")',
    ),
)


def write_start(directory: str | Path) -> list[Path]:
    """Write the files into a folder.

    Parameters
    ----------
    directory : path
        Created if it is missing.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ConfigError
        If one is there already, or the folder cannot be written.
    """
    folder = Path(directory)
    content = {
        EXPERIMENT_FILE: EXPERIMENT,
        STRATEGY_FILE: STRATEGY,
        NOTEBOOK_FILE: json.dumps(_notebook(), indent=1) + "\n",
        SCHEMA_FILE: json.dumps(json_schema("experiment"), indent=1) + "\n",
    }
    there = [name for name in content if (folder / name).exists()]
    if there:
        raise ConfigError(f"{folder / there[0]}: is there already; nothing was written, name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            write_whole(folder / name, text.encode())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
    return [folder / name for name in content]


def _notebook() -> dict[str, object]:
    """A notebook in nbformat 4.5."""
    cells: list[dict[str, object]] = []
    for number, (kind, text) in enumerate(CELLS):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
