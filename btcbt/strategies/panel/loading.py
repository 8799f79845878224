"""Load strategies on panels and build them with validated parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from btcbt.errors import StrategyError
from btcbt.loading import Extension, load_class, make_params
from btcbt.messages import user_code
from btcbt.strategies.panel.base import PanelStrategy

PANEL_BUILT_IN: Mapping[str, str] = {
    file.stem: f"btcbt.strategies.panel.{file.stem}:{file.stem.title().replace('_', '')}"
    for file in sorted(Path(__file__).parent.glob("*.py"))
    if file.stem not in ("__init__", "base", "loading")
}
"""``module:Class`` of each built-in strategy on panels by its short name; see `btcbt.strategies.loading.BUILT_IN`."""

PANEL_STRATEGIES: Extension[PanelStrategy] = Extension(
    "strategy",
    "strategies",
    PanelStrategy,  # type: ignore[type-abstract]
    StrategyError,
    PANEL_BUILT_IN,
)


def is_panel_strategy(use: str) -> bool:
    """Whether a name in an experiment is a complete strategy on panels; False if it cannot be loaded."""
    try:
        load_class(PANEL_STRATEGIES, use)
    except StrategyError:
        return False
    return True


def load_panel_strategy(use: str, params: Mapping[str, Any] | None = None) -> PanelStrategy:
    """As `btcbt.strategies.loading.load_strategy`, for strategies on panels."""
    cls = load_class(PANEL_STRATEGIES, use)
    values = make_params(PANEL_STRATEGIES, use, cls, params)
    with user_code(lambda problem: StrategyError(f"strategy '{use}': cannot be built: {problem}")):
        return cls(values)
