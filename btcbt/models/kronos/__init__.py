"""Kronos (Shi et al., 2025, arXiv 2508.02739): upstream's three names, written from the architecture."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from btcbt.models.kronos.inference.predictor import KronosPredictor
    from btcbt.models.kronos.network.model import Kronos
    from btcbt.models.kronos.network.tokenizer import KronosTokenizer

__all__ = ["Kronos", "KronosPredictor", "KronosTokenizer"]

_MODULES = {
    "Kronos": "btcbt.models.kronos.network.model",
    "KronosPredictor": "btcbt.models.kronos.inference.predictor",
    "KronosTokenizer": "btcbt.models.kronos.network.tokenizer",
}


def __getattr__(name: str) -> object:
    # Recipes and shapes are read without torch: a network is imported when it is first used.
    if name not in _MODULES:
        raise AttributeError(f"module 'btcbt.models.kronos' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
