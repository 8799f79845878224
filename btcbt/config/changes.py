"""Changes to an experiment by dotted key: those of a command line, and those of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from btcbt.config.experiment import PanelConfig, RunConfig
from btcbt.config.known import known_keys
from btcbt.config.yaml import MAX_FILE_BYTES, experiment_schema, load_experiment, plain, read_yaml
from btcbt.errors import ConfigError
from btcbt.messages import did_you_mean, first_problem, short, unknown_key

Config = TypeVar("Config", RunConfig, PanelConfig)
Value = bool | int | float | str | None
Assignment = Mapping[str, Value]
"""Values by dotted key, such as ``strategies.threshold.params.entry_bps``."""


def load_changed(path: str | Path, changes: Sequence[str]) -> RunConfig | PanelConfig:
    """Read an experiment with some of its keys changed.

    Parameters
    ----------
    path : path
        YAML file of the experiment.
    changes : sequence of str
        ``KEY=VALUE`` each, the value in YAML: ``forecasters.kronos.n_paths=100``.

    Raises
    ------
    ConfigError
        If the file is invalid, a change is malformed or names nothing, or the result is invalid.
    """
    if not changes:
        return load_experiment(path)
    tree = plain(read_yaml(Path(path)))
    assignment = dict(map(parse_change, changes))
    if experiment_schema(tree) is PanelConfig:
        return configured("--set", tree, assignment, PanelConfig)
    return configured("--set", tree, assignment, RunConfig)


def parse_change(text: str) -> tuple[str, Value]:
    """Key and value of ``KEY=VALUE``.

    Raises
    ------
    ConfigError
        If it is not of that form, or the value is not YAML for a number, a text, true, false or null.
    """
    key, found, written = text.partition("=")
    if not found or not key.strip():
        raise ConfigError(f"--set {short(text)}: expected KEY=VALUE, such as forecasters.kronos.n_paths=100")
    try:
        value = YAML(typ="safe").load(written[:MAX_FILE_BYTES])
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"--set {key}: the value is not YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(value, Value):
        value = written.strip()  # a date stays as it is written
    return key.strip(), value


def configured(where: str | Path, tree: Mapping[str, Any], assignment: Assignment, schema: type[Config]) -> Config:
    """An experiment with some of its keys changed.

    Parameters
    ----------
    where : str or path
        Name of the source of the changes in messages.
    tree : mapping
        The experiment as plain values.
    assignment : mapping
        Values by dotted key.
    schema : type
        Of the experiment.

    Raises
    ------
    ConfigError
        If a key names nothing in the experiment, or the result is invalid.
    """
    changed: Any = dict(tree)
    for key, value in assignment.items():
        changed = _with(changed, key, value, f"{where}: '{key}'")
    try:
        return schema.model_validate(changed)
    except ValidationError as error:
        problem = first_problem(error)
        what = ", ".join(f"{key}={short(value)}" for key, value in assignment.items())
        at = ".".join(_keys(changed, problem.loc))
        if problem.kind == "unknown":
            why = unknown_key("key", at, problem, known_keys(schema, problem.loc))
        else:
            why = f"'{at}': {problem.text}{problem.more}"
        raise ConfigError(f"{where}: with {what}: {why}" if what else f"{where}: {why}") from None


def _with(tree: Any, key: str, value: Value, where: str) -> Any:
    """A copy of a tree of mappings with one value replaced or added; names may contain dots."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where} names nothing in the experiment; correct its spelling")
    head = max((name for name in tree if key.startswith(f"{name}.")), key=len, default=None)
    if head is not None:
        return {**tree, head: _with(tree[head], key[len(head) + 1 :], value, where)}
    if "." in key:
        first = key.partition(".")[0]
        if first not in ("params", "portfolio"):
            near = did_you_mean(first, map(str, tree))
            raise ConfigError(
                f"{where}: there is no '{first}' in the experiment{near}; it has {sorted(map(str, tree))}"
            )
        return {**tree, first: _with({}, key.partition(".")[2], value, where)}
    return {**tree, key: value}


def _keys(tree: Any, loc: Sequence[int | str]) -> list[str]:
    """The keys of a location that are in a tree: pydantic adds the branches of unions."""
    found, node = [], tree
    for key in loc:
        if isinstance(node, Mapping) and key in node:
            node = node[key]
            found.append(str(key))
    return found
