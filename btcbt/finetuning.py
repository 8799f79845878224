"""`btcbt finetune`: reads a recipe and its candles, and has the models fitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from btcbt.candles import read_candles
from btcbt.config import load_config
from btcbt.models.kronos.finetune import finetune
from btcbt.models.kronos.recipe import FinetuneConfig


def run_recipe(path: str | Path, report: Callable[[str], None]) -> Path:
    """Fit what a recipe describes; see `btcbt.models.kronos.finetune.finetune`.

    Raises
    ------
    ConfigError
        If the recipe is wrong; names file, line and key.
    """
    config = load_config(path, FinetuneConfig)
    histories = {name: read_candles(name, config.interval) for name in config.candles}
    return finetune(histories, config, report)
