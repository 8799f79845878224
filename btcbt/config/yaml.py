"""Experiment files: YAML restricted to plain data, read into closed models.

Unknown keys, duplicate keys, YAML tags, aliases and wrong types are errors that name the file, the line and the key. A
mapping in Python is read like a file that holds it; its errors name the key.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, NodeEvent

from btcbt.config.experiment import PanelConfig, RunConfig
from btcbt.config.forecasters import BRANCHES
from btcbt.config.hypotheses import HYPOTHESIS_KINDS
from btcbt.config.known import known_keys
from btcbt.config.types import Section, is_url
from btcbt.errors import BtcbtError, ConfigError
from btcbt.files import read_file
from btcbt.messages import describe, first_problem, printable, short, unknown_key

MAX_FILE_BYTES = 1 << 18
MAX_DEPTH = 32
MAX_NODES = 5000
"""Most keys, values, lists and mappings of a file: reading them with their positions takes about a second."""

SectionT = TypeVar("SectionT", bound=Section)
Source = str | Path | Mapping[str, Any]
"""A file, or a mapping like that which a file would hold."""


@overload
def load_config(source: Source) -> RunConfig: ...
@overload
def load_config(source: Source, kind: type[SectionT]) -> SectionT: ...
def load_config(source: Source, kind: type[Section] | None = None) -> Section:
    """Read an experiment from a file or a mapping, or one with another schema.

    Parameters
    ----------
    source : path or mapping
        A YAML file, or the same keys and values in Python.
    kind : type of Section, optional
        The schema; that of an experiment if left out.

    Raises
    ------
    ConfigError
        Names the file, the line and the key, what was found and what was expected.
    """
    if kind is None:
        return one_symbol(source if isinstance(source, str | Path) else "experiment", load_experiment(source))
    where, tree = _tree(source)
    return _validated(where, tree, kind)


def load_experiment(source: Source) -> RunConfig | PanelConfig:
    """Read an experiment on one symbol or on several from a file or a mapping.

    Raises
    ------
    ConfigError
        As `load_config`.
    """
    where, tree = _tree(source)
    return _validated(where, tree, experiment_schema(tree))


def one_symbol(where: str | Path, config: RunConfig | PanelConfig) -> RunConfig:
    """An experiment that must be on one symbol.

    Raises
    ------
    ConfigError
        If it is on several.
    """
    if isinstance(config, PanelConfig):
        raise ConfigError(
            f"{where}: 'candles.symbols' makes a panel; expected an experiment on one symbol, 'candles.path'"
        )
    return config


def experiment_schema(tree: Mapping[str, Any]) -> type[RunConfig] | type[PanelConfig]:
    """The schema of an experiment given as plain values: a panel if its candles have symbols."""
    candles = tree.get("candles")
    return PanelConfig if isinstance(candles, Mapping) and "symbols" in candles else RunConfig


def _tree(source: Source) -> tuple[str, CommentedMap]:
    """Keys and values of an experiment, and how messages name it."""
    if isinstance(source, Mapping):
        return "experiment", _from_python(source)
    if isinstance(source, str | Path):
        return str(source), read_yaml(Path(source))
    raise ConfigError(f"experiment: the path of a file or a mapping is expected, got {describe(source)}")


def _validated(where: str, tree: CommentedMap, kind: type[SectionT]) -> SectionT:
    try:
        return kind.model_validate(plain(tree))
    except ValidationError as error:
        raise ConfigError(_explain(where, tree, error, kind)) from None


@contextmanager
def located(path: str | Path, changes: Collection[str] = ()) -> Iterator[None]:
    """Begin messages of errors that name a key of an experiment (`BtcbtError.key`) with its file and line.

    Parameters
    ----------
    path : path
        File of the experiment.
    changes : collection of str
        Dotted keys that were changed on the command line; an error at one of them begins with that instead.
    """
    try:
        yield
    except BtcbtError as error:
        key = error.key
        if not key:
            raise
        dotted = ".".join(key)
        if any(dotted == one or dotted.startswith(f"{one}.") for one in changes):
            place = f"--set {dotted}"
        else:
            place = f"{path}:{_locate(read_yaml(Path(path)), key, missing=False)[1]}"
        error.args, error.key = (f"{place}: {error}",), ()
        raise


def read_yaml(path: Path) -> CommentedMap:
    """Read a YAML mapping with line numbers; tags, aliases and oversized files are rejected.

    Raises
    ------
    ConfigError
        If the file is missing, too large, not UTF-8, not YAML, or not a mapping.
    """
    text = _read_text(path)
    try:
        _refuse_features(path, text)
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        # The values of a duplicate key are not repeated: they may be long, or secret.
        problem = _excerpt((error.problem or "not YAML").partition(" with value")[0])
        raise ConfigError(f"{path}:{line}: {problem}; correct the YAML there") from None
    except (YAMLError, ValueError, OverflowError) as error:
        problem = _excerpt(str(error))
        raise ConfigError(f"{path}: not readable as YAML ({problem}); correct it") from None
    if not isinstance(tree, CommentedMap):
        got = "nothing" if tree is None else type(plain(tree)).__name__
        raise ConfigError(f"{path}:1: an experiment is a mapping of keys to values; got {got}")
    return tree


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: a folder; give the path of an experiment file")
        return read_file(path, MAX_FILE_BYTES).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give an experiment file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _refuse_features(path: Path, text: str) -> None:
    """Reject features with which a small file could name a type, grow without bound, or exhaust the stack."""
    depth = nodes = 0
    for event in YAML(typ="rt").parse(text):
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise ConfigError(
                f"{path}:{line}: YAML tag '{_excerpt(str(event.tag))}'; remove it, tags are not supported"
            )
        if getattr(event, "anchor", None) is not None:
            anchor = _excerpt(str(event.anchor))
            raise ConfigError(f"{path}:{line}: YAML anchor or alias '{anchor}'; write the value out")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        nodes += isinstance(event, NodeEvent)
        if nodes > MAX_NODES:
            raise ConfigError(f"{path}:{line}: more than {MAX_NODES:,} keys and values; an experiment needs fewer")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{path}:{line}: more than {MAX_DEPTH} levels deep; an experiment needs fewer")


def plain(node: Any) -> Any:
    """The same tree in builtin types, since ruamel's types keep the formatting of numbers."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    for builtin in (bool, int, float, str):
        if isinstance(node, builtin):
            return builtin(node)
    return node


def _from_python(tree: Mapping[str, Any]) -> Any:
    """A mapping with the types that a file would give: lists, builtin numbers, and paths as text."""
    try:
        return _plain_python(tree)
    except RecursionError:
        raise ConfigError("experiment: nested too deep, or inside of itself; write the values out") from None


def _plain_python(node: Any) -> Any:
    match node:
        case Mapping():
            return {key: _plain_python(value) for key, value in node.items()}
        case list() | tuple():
            return [_plain_python(value) for value in node]
        case os.PathLike():
            return os.fspath(node)
        case bool():
            return node
        case Integral():  # numpy's numbers, too
            return int(node)
        case Real():
            return float(node)
    return node


def _explain(path: str, tree: Any, error: ValidationError, schema: type[Section]) -> str:
    """One line for the first problem: file, line, key, value found, and remedy."""
    problem = first_problem(error)
    where, line, node = _locate(tree, problem.loc, missing=problem.kind == "missing")
    key = _excerpt(".".join(where))
    place = f"{path}:{line}" if where and line else path
    if problem.kind == "unknown":
        return f"{place}: {unknown_key('key', key, problem, known_keys(schema, problem.loc))}"
    if problem.kind == "missing":
        return f"{place}: '{key}' is missing; add it{problem.more}"
    secret = isinstance(node, str) and is_url(node)  # may hold a password
    shown = isinstance(node, str | int | float | date | None) and not secret
    got = f", got {short(node)}" if shown else ""
    key = f"'{key}': " if key else ""
    return f"{place}: {key}{_excerpt(problem.text)}{got}{problem.more}"


def _locate(tree: Any, loc: tuple[int | str, ...], *, missing: bool) -> tuple[list[str], int, Any]:
    """The keys of a location in the file, the line (0: not of a file), and the value found there."""
    node: Any = tree
    line, where = int(isinstance(tree, CommentedMap)), []
    for key in loc:
        if isinstance(node, dict) and key in node:
            line = node.lc.key(key)[0] + 1 if isinstance(node, CommentedMap) else 0
            node = node[key]
        elif isinstance(node, list) and isinstance(key, int) and key < len(node):
            line = node.lc.item(key)[0] + 1 if isinstance(node, CommentedSeq) else 0
            node = node[key]
        elif not missing or key in (*BRANCHES, *HYPOTHESIS_KINDS):
            continue  # the branch of a union: part of pydantic's location, not of the file
        where.append(str(key))
    return where, line, node


def _excerpt(text: str) -> str:
    """Text of a file for one line of a message: printable, at most 300 characters."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= 300 else text[:297] + "..."
