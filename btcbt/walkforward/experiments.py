"""An experiment, read and checked before anything heavy is imported or computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from btcbt.config import PanelConfig, RunConfig, load_experiment, located, one_symbol
from btcbt.config.changes import load_changed, parse_change
from btcbt.errors import at_key

Source = RunConfig | PanelConfig | Mapping[str, Any] | str | Path
"""An experiment on one symbol or on several: its file, the same as a mapping, or the configuration itself."""


def read_experiment(source: Source, changes: Sequence[str] = ()) -> RunConfig | PanelConfig:
    """Read an experiment, and check the classes of the user and the parameters that it names.

    Parameters
    ----------
    source : RunConfig, PanelConfig, mapping or path
        The experiment, or its YAML file.
    changes : sequence of str
        ``KEY=VALUE`` each, see `btcbt.config.changes.load_changed`; for files alone.

    Raises
    ------
    ConfigError, StrategyError, ForecasterError
        Names the file, the line and the key.
    """
    if isinstance(source, RunConfig | PanelConfig):
        return source
    if not isinstance(source, str | Path):
        return load_experiment(source)
    config = load_changed(source, changes)
    # Only for a valid file, since these import numpy.
    from btcbt.forecasters.registry import check_forecaster
    from btcbt.walkforward.panel.traders import make_panel_traders, on_one_symbol
    from btcbt.walkforward.traders import make_traders

    with located(source, [parse_change(change)[0] for change in changes]):
        if isinstance(config, PanelConfig):
            make_panel_traders(config)
            windows = config.windows
            make_traders(config.of(config.symbols[0], on_one_symbol(config), windows.start, windows.end))
        else:
            make_traders(config)
        for name, one in config.forecasters.items():
            with at_key("forecasters", name):
                check_forecaster(one)
    return config


def read_run(source: Source, changes: Sequence[str] = ()) -> RunConfig:
    """`read_experiment` for what takes an experiment on one symbol alone.

    Raises
    ------
    ConfigError
        If it is on several.
    """
    return one_symbol(source if isinstance(source, str | Path) else "experiment", read_experiment(source, changes))
