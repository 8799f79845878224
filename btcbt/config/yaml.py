"""Experiment files: YAML restricted to plain data, read into closed models.

Unknown keys, duplicate keys, YAML tags, aliases and wrong types are errors that name the file, the line and the key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, NodeEvent

from btcbt.config.experiment import RunConfig
from btcbt.config.forecasters import BRANCHES
from btcbt.config.hypotheses import HYPOTHESIS_KINDS
from btcbt.config.known import known_keys
from btcbt.config.types import Section, is_url
from btcbt.errors import BtcbtError, ConfigError
from btcbt.files import read_file
from btcbt.messages import first_problem, printable, short, unknown_key

MAX_FILE_BYTES = 1 << 18
MAX_DEPTH = 32
MAX_NODES = 5000
"""Most keys, values, lists and mappings of a file: reading them with their positions takes about a second."""

SectionT = TypeVar("SectionT", bound=Section)


@overload
def load_config(path: str | Path) -> RunConfig: ...
@overload
def load_config(path: str | Path, kind: type[SectionT]) -> SectionT: ...
def load_config(path: str | Path, kind: type[Section] | None = None) -> Section:
    """Read an experiment file, or a file with another schema.

    Raises
    ------
    ConfigError
        Names the file, the line and the key, what was found and what was expected.
    """
    path, schema = Path(path), kind or RunConfig
    tree = read_yaml(path)
    try:
        return schema.model_validate(plain(tree))
    except ValidationError as error:
        raise ConfigError(_explain(path, tree, error, schema)) from None


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


def _explain(path: Path, tree: CommentedMap, error: ValidationError, schema: type[Section]) -> str:
    """One line for the first problem: file, line, key, value found, and remedy."""
    problem = first_problem(error)
    where, line, node = _locate(tree, problem.loc, missing=problem.kind == "missing")
    key = _excerpt(".".join(where))
    place = f"{path}:{line}" if where else f"{path}"
    if problem.kind == "unknown":
        return f"{place}: {unknown_key('key', key, problem, known_keys(schema, problem.loc))}"
    if problem.kind == "missing":
        return f"{place}: '{key}' is missing; add it{problem.more}"
    secret = isinstance(node, str) and is_url(node)  # may hold a password
    shown = isinstance(node, str | int | float | date | None) and not secret
    got = f", got {short(node)}" if shown else ""
    key = f"'{key}': " if key else ""
    return f"{place}: {key}{_excerpt(problem.text)}{got}{problem.more}"


def _locate(tree: CommentedMap, loc: tuple[int | str, ...], *, missing: bool) -> tuple[list[str], int, Any]:
    """The keys of a location in the file, the line, and the value found there."""
    node: Any = tree
    line, where = 1, []
    for key in loc:
        if isinstance(node, CommentedMap) and key in node:
            line = node.lc.key(key)[0] + 1
            node = node[key]
        elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
            line = node.lc.item(key)[0] + 1
            node = node[key]
        elif not missing or key in (*BRANCHES, *HYPOTHESIS_KINDS):
            continue  # the branch of a union: part of pydantic's location, not of the file
        where.append(str(key))
    return where, line, node


def _excerpt(text: str) -> str:
    """Text of a file for one line of a message: printable, at most 300 characters."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= 300 else text[:297] + "..."
