"""The page of configuration keys, from the pydantic models."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from btcbt import strategies
from btcbt.config import Section, hypotheses, sweep
from btcbt.config import experiment as experiments
from btcbt.config import forecasters as forecaster_configs
from btcbt.metrics.regression import Rule, Tolerances
from btcbt.models.kronos.training import recipe
from btcbt.strategies import Strategy
from docs.builder.markdown import cell, prose, table

Model = type[BaseModel]
FORECASTERS: tuple[Model, ...] = get_args(forecaster_configs._BuiltIn)
SECTIONS: tuple[tuple[str, str, tuple[Model, ...]], ...] = (
    (
        "Experiments",
        "A file for `btcbt run`. See [Quick start](quickstart.md) for one that runs.",
        (
            experiments.RunConfig,
            experiments.CandlesConfig,
            experiments.WindowsConfig,
            experiments.StrategyConfig,
            experiments.PortfolioConfig,
            experiments.StoreConfig,
            experiments.ExecutorConfig,
            hypotheses.ForecastHypothesis,
            hypotheses.AccountHypothesis,
        ),
    ),
    (
        "Panels of symbols",
        "As an experiment, but for these sections; see [Panels](panel.md).",
        (experiments.PanelCandlesConfig, experiments.PanelPortfolioConfig),
    ),
    (
        "Forecasters",
        "`forecasters: {NAME: {kind: KIND, ...}}`; a class of your own has `use` in place of `kind`.",
        (
            *FORECASTERS,
            forecaster_configs.UserForecasterConfig,
            forecaster_configs.UserPostprocessorConfig,
            forecaster_configs.RefitConfig,
            forecaster_configs.FitConfig,
            forecaster_configs.LongFitConfig,
        ),
    ),
    (
        "Sweeps",
        "A file for `btcbt sweep`; see [Sweeps](sweeps.md).",
        (sweep.SweepConfig, sweep.RangeConfig, sweep.RandomConfig, sweep.SelectionConfig),
    ),
    (
        "Recipes",
        "A file for `btcbt finetune`; see [Fine-tuning](finetuning.md).",
        (
            recipe.FinetuneConfig,
            recipe.Span,
            recipe.Start,
            recipe.ModelShape,
            recipe.TokenizerShape,
            recipe.Optimizer,
            recipe.Lora,
        ),
    ),
    (
        "Tolerances",
        "A file for `btcbt check --tolerances`; see [the report](report.md#one-run-against-a-baseline).",
        (Tolerances, Rule),
    ),
)
INTRODUCTION = """\
# Configuration

Every key of every file, with its type and default, from the models that read them. Unknown keys, wrong types and
values out of range are errors that name file, line and key. `btcbt schema` prints the same as a JSON Schema for
editors.

Times are UTC. A *duration* is a number of minutes, hours or days, such as `90m`, `720h` or `30d`.
"""


def page() -> str:
    """The whole page, in Markdown."""
    parts = [INTRODUCTION]
    for title, text, models in SECTIONS:
        parts += [f"## {title}\n", f"{text}\n", *map(section, models)]
    parts += ["## Parameters of the strategies that ship\n", "`strategies: {NAME: {use: NAME, params: {...}}}`\n"]
    return "\n".join([*parts, *map(_strategy, built_in_strategies())])


def section(model: Model) -> str:
    """One model: what it is, and its keys."""
    return f"### {_title(model)}\n\n{prose(inspect.getdoc(model) or '')}\n\n{_keys(model)}"


def built_in_strategies() -> list[type[Strategy]]:
    """Those with a short name."""
    found = []
    for module in pkgutil.iter_modules(strategies.__path__):
        members = vars(importlib.import_module(f"{strategies.__name__}.{module.name}")).values()
        found += [one for one in members if _is_strategy(one, module.name)]
    return found


def _is_strategy(value: Any, name: str) -> bool:
    return isinstance(value, type) and value.__module__.endswith(f".{name}") and value.__name__ == _camel(name)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _strategy(strategy: type[Strategy]) -> str:
    name = strategy.__module__.rpartition(".")[2]
    keys = _keys(strategy.Params) if strategy.Params.model_fields else "It has no parameters.\n"
    return f"### `{name}`\n\n{prose((inspect.getdoc(strategy) or '').partition(chr(10) * 2)[0])}\n\n{keys}"


def _title(model: Model) -> str:
    kind = model.model_fields.get("kind")
    values = get_args(kind.annotation) if kind is not None else ()
    if len(values) == 1:
        claimed = "Hypothesis, " if model.__name__.endswith("Hypothesis") else ""
        return f"{claimed}`kind: {values[0]}`"
    words = re.findall(r"[A-Z][a-z]+", model.__name__.removesuffix("Config"))
    return " ".join(words).capitalize()


def _keys(model: Model) -> str:
    return table(("key", "type", "default", "what it is"), _rows(model))


def _rows(model: Model) -> Iterator[Sequence[str]]:
    properties = model.model_json_schema()
    definitions = properties.get("$defs", {})
    for name, field in model.model_fields.items():
        key = field.alias or name
        schema = _resolve(properties, definitions)["properties"][key]
        if "const" in schema:
            continue  # the kind, which is the heading
        if field.is_required():
            default = "**required**"
        else:
            default = f"`{_default(field.get_default(call_default_factory=True))}`"
        if not field.description:
            raise ValueError(f"{model.__name__}.{name} has no description; add a docstring below it")
        yield (
            f"`{key}`",
            "time" if field.annotation is datetime else cell(_type(schema, definitions)),
            default,
            prose(" ".join(field.description.split())),
        )


def _resolve(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The mapping of a schema that may be a reference, or a choice of a name and a mapping."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    options = [_resolve(one, definitions) for one in schema.get("anyOf", ())]
    return next((one for one in options if "properties" in one), schema)


def _default(value: Any) -> str:
    if isinstance(value, Section):
        return "as below"
    if value is PydanticUndefined:
        return ""
    return "none" if value is None else json.dumps(value, ensure_ascii=False).strip('"')


def _type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The type of a value in words, with its bounds."""
    if "$ref" in schema or "oneOf" in schema:
        return "section"
    if "anyOf" in schema:
        kinds = dict.fromkeys(_type(one, definitions) for one in schema["anyOf"] if one.get("type") != "null")
        return " or ".join(kinds)
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    match schema.get("type"):
        case "integer" | "number" as kind:
            return kind + _bounds(schema)
        case "array":
            items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
            return f"list of {_type(items, definitions)}"
        case "object":
            inner = schema.get("additionalProperties")
            return "sections by name" if isinstance(inner, dict) and inner.get("type") is None else "mapping"
        case "boolean":
            return "true or false"
        case "string":
            return "text"
    return "text or section"


def _bounds(schema: dict[str, Any]) -> str:
    bounds = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    return "".join(f", {sign} {_number(schema[key])}" for key, sign in bounds if key in schema)


def _number(value: float) -> str:
    return f"{value:,}" if 1 <= abs(value) < 1e12 else f"{value:.3g}"
