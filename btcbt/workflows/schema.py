"""JSON Schemas of the files that users write, for editors that complete and check them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from btcbt.config import Section
from btcbt.errors import ConfigError
from btcbt.messages import did_you_mean

SCHEMAS = {
    "experiment": "btcbt.config.experiment:RunConfig",
    "panel": "btcbt.config.experiment:PanelConfig",
    "sweep": "btcbt.config.sweep:SweepConfig",
    "recipe": "btcbt.models.kronos.training.recipe:FinetuneConfig",
}
"""``module:Class`` of each kind of file."""


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind of file.

    Raises
    ------
    ConfigError
        If there is no such kind.
    """
    if kind not in SCHEMAS:
        near = did_you_mean(kind, SCHEMAS)
        raise ConfigError(f"schema '{kind[:60]}': no such kind of file{near}; the kinds are {', '.join(SCHEMAS)}")
    module, _, name = SCHEMAS[kind].partition(":")
    model: type[Section] = getattr(import_module(module), name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(),
        "title": f"btcbt {kind}",
    }
