"""Load strategies and build them with validated parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from btcbt.errors import StrategyError, at_key
from btcbt.loading import Extension, load_class, make_params
from btcbt.messages import user_code
from btcbt.strategies.base import Strategy

_NOT_STRATEGIES = ("__init__", "base", "loading", "thresholds")

BUILT_IN: Mapping[str, str] = {
    file.stem: f"btcbt.strategies.{file.stem}:{file.stem.title().replace('_', '')}"
    for file in sorted(Path(__file__).parent.glob("*.py"))
    if file.stem not in _NOT_STRATEGIES
}
"""``module:Class`` of each built-in strategy by its short name, the name of its file, from which the class name follows
(``volatility_target`` is `btcbt.strategies.volatility_target.VolatilityTarget`)."""

STRATEGIES: Extension[Strategy] = Extension("strategy", "strategies", Strategy, StrategyError, BUILT_IN)  # type: ignore[type-abstract]


def load_strategy(use: str, params: Mapping[str, Any] | None = None) -> Strategy:
    """Import a strategy class and build it with validated parameters.

    Parameters
    ----------
    use : str
        A short name (`BUILT_IN`), such as ``threshold``; ``module:Class``; or ``path/to/file.py:Class``. See
        `btcbt.loading.load_class`.
    params : mapping, optional
        Values for the class's `Params`; its defaults if left out.

    Raises
    ------
    StrategyError
        The module cannot be imported, has no such class, the class is not a (complete) `Strategy`, or a
        parameter is unknown or invalid. One line; an error of the user's code is its ``__cause__``.
    """
    with at_key("use"):
        cls = load_class(STRATEGIES, use)
    values = make_params(STRATEGIES, use, cls, params)
    with user_code(lambda problem: StrategyError(f"strategy '{use}': cannot be built: {problem}")):
        return cls(values)
