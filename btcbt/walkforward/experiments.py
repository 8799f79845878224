"""An experiment, read and checked before anything heavy is imported or computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from btcbt.config import RunConfig, located
from btcbt.config.changes import configured, load_changed, parse_change
from btcbt.errors import ConfigError, at_key
from btcbt.messages import describe

Source = RunConfig | Mapping[str, Any] | str | Path
"""An experiment: its file, the same as a mapping, or the configuration itself."""


def read_experiment(source: Source, changes: Sequence[str] = ()) -> RunConfig:
    """Read an experiment, and check the classes of the user and the parameters that it names.

    Parameters
    ----------
    source : RunConfig, mapping or path
        The experiment, or its YAML file.
    changes : sequence of str
        ``KEY=VALUE`` each, see `btcbt.config.changes.load_changed`; for files alone.

    Raises
    ------
    ConfigError, StrategyError, ForecasterError
        Names the file, the line and the key.
    """
    if isinstance(source, RunConfig):
        return source
    if isinstance(source, Mapping):
        return configured("experiment", dict(source), {})
    if not isinstance(source, str | Path):
        raise ConfigError(
            f"experiment: got {describe(source)}; expected the path of a YAML file, a mapping or a RunConfig"
        )
    config = load_changed(source, changes)
    # Only for a valid file, since these import numpy.
    from btcbt.forecasters.registry import check_forecaster
    from btcbt.walkforward.traders import make_traders

    with located(source, [parse_change(change)[0] for change in changes]):
        make_traders(config)
        for name, one in config.forecasters.items():
            with at_key("forecasters", name):
                check_forecaster(one)
    return config
