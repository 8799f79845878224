"""User-defined classes: import, checks, validated parameters, and digests of their source.

A class is named by ``module:Class``, where the module is looked up as Python does and then in the current directory, or
by ``path/to/file.py:Class``. Strategies and forecasters are loaded by the same code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from btcbt.config import Section
from btcbt.errors import BtcbtError, at_key
from btcbt.messages import describe, did_you_mean, explain, explain_invalid, first_problem, user_code

T = TypeVar("T")

_STANDARD_LIBRARY = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))


class Params(Section):
    """Base of the parameters of a strategy or forecaster: closed (unknown keys are errors), frozen, finite numbers."""


@dataclass(frozen=True, slots=True)
class Extension(Generic[T]):
    """A kind of class that users can add.

    Attributes
    ----------
    noun : str
        ``strategy`` or ``forecaster``, for messages.
    nouns : str
        Its plural.
    base : type
        Required base class.
    error : type of BtcbtError
        Error that is raised.
    built_in : mapping of str to str
        ``module:Class`` of built-in classes, by short name.
    """

    noun: str
    nouns: str
    base: type[T]
    error: type[BtcbtError]
    built_in: Mapping[str, str]


# -- loading ----------------------------------------------------------------------------------------------


def load_class(kind: Extension[T], use: str) -> type[T]:
    """Import a class and check that it is complete.

    Parameters
    ----------
    kind : Extension
        Kind of class.
    use : str
        The short name of a built-in class, ``module:Class`` or ``path/to/file.py:Class``. A module is
        looked up as Python does, and then in the current directory; a path may be relative to it.

    Raises
    ------
    BtcbtError
        Of type `kind.error`: there is no such class, its module cannot be imported, or it is not a complete subclass.
        One line; an error of the user's code is its ``__cause__``.
    """
    where, _, name = kind.built_in.get(use, use).rpartition(":")
    if not where or not name.isidentifier():
        raise kind.error(f"{kind.noun} '{use}': {_expected(kind, use)}")
    try:
        module = _import_path(where) if where.endswith(".py") else _import_name(where)
    except _NotLoadedError as error:
        raise kind.error(f"{kind.noun} '{use}': {error}") from error.__cause__
    found = getattr(module, name, None)
    if found is None:
        has = sorted(key for key, value in vars(module).items() if _is_a(kind, value) and value is not kind.base)
        raise kind.error(
            f"{kind.noun} '{use}': {module.__file__ or where} has no class '{name}'; "
            f"its {kind.nouns} are {', '.join(has) or 'none'}"
        )
    if not _is_a(kind, found):
        raise kind.error(
            f"{kind.noun} '{use}': '{name}' is {describe(found)}; expected a subclass of "
            f"{kind.base.__module__}.{kind.base.__name__}; derive it from that"
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise kind.error(f"{kind.noun} '{use}': '{name}' lacks {', '.join(missing)}; define it")
    source_sha256(found)  # digested now, since the file may change after the import
    return found  # type: ignore[no-any-return]


def make_params(kind: Extension[T], use: str, cls: type[T], values: Mapping[str, Any] | None) -> Params:
    """Parameters of a class, validated by its `Params`.

    Raises
    ------
    BtcbtError
        Of type `kind.error`: a parameter is unknown, missing or out of range, or `Params` is not a schema.
    """
    schema = getattr(cls, "Params", None)
    if not (isinstance(schema, type) and issubclass(schema, Params)):
        raise kind.error(f"{kind.noun} '{use}': Params is {describe(schema)}; derive it from btcbt.{kind.nouns}.Params")
    try:
        with user_code(
            lambda problem: kind.error(f"{kind.noun} '{use}': invalid parameters: {problem}"), ValidationError
        ):
            params = schema.model_validate(dict(values or {}))
            params.model_dump_json()  # they become part of a run's digest and manifest
    except ValidationError as error:
        problem = explain_invalid(error, "parameter", schema.model_fields)
        with at_key("params", *map(str, first_problem(error).loc)):
            raise kind.error(f"{kind.noun} '{use}': {problem}") from None
    return params


def _expected(kind: Extension[T], use: str) -> str:
    own = f"a {kind.noun} of your own is a file and its class, such as 'my_{kind.nouns}.py:Mine', or 'module:Class'"
    if not kind.built_in:
        return own
    near = did_you_mean(use, kind.built_in)
    return f"no such built-in {kind.noun}{near}; the built-in ones are {', '.join(kind.built_in)}; {own}"


def _is_a(kind: Extension[T], value: object) -> bool:
    return isinstance(value, type) and issubclass(value, kind.base)


class _NotLoadedError(Exception):
    """A module cannot be imported. The message says why; the cause is the error of the user's code, if any."""


def _import_name(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise _NotLoadedError(f"'{name}' is not a module name; expected 'module:Class' or 'path/to/file.py:Class'")
    # `python -m btcbt` looks in the current directory, the `btcbt` script does not.
    here = Path.cwd()
    _search_last(here)
    try:
        with user_code(lambda problem: _NotLoadedError(f"cannot be imported: {problem}"), ModuleNotFoundError):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise _NotLoadedError(f"cannot be imported: {explain(error)}; install it") from error
        file = here.joinpath(*name.split(".")).with_suffix(".py")
        if not file.is_file():
            raise _NotLoadedError(
                f"there is no module '{name}' (nor {file}); correct its name, or run from the folder that holds it"
            ) from None
        # A folder of the user with the same name as an installed package.
        return _execute(name, file)


def _import_path(path: str) -> ModuleType:
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise _NotLoadedError(f"there is no file {file}; correct the path, which is relative to the current directory")
    # Files of the same name in different folders are different modules.
    name = f"_btcbt_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    _search_last(file.parent)  # for imports from the same folder
    return _execute(name, file)


def _search_last(folder: Path) -> None:
    """Append a folder to the module search path; last, so that a file there cannot shadow an installed module."""
    if str(folder) not in sys.path and not ("" in sys.path and folder == Path.cwd()):
        sys.path.append(str(folder))
    importlib.invalidate_caches()  # for files written a moment ago


def _execute(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise _NotLoadedError(f"{file} is not a Python file; give the path of one")
    module = importlib.util.module_from_spec(spec)
    # Registered first, as the import system does, since pydantic resolves annotations through it.
    sys.modules[name] = module
    try:
        with user_code(lambda problem: _NotLoadedError(f"cannot be imported: {problem}")):
            spec.loader.exec_module(module)
    except _NotLoadedError:
        del sys.modules[name]
        raise
    return module


# -- digests of source ------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """A file: SHA-256 of its bytes (hex), and the names of what it imports, anywhere in it."""

    digest: str
    imports: tuple[str, ...]


_modules: WeakKeyDictionary[ModuleType, _Source] = WeakKeyDictionary()
"""The source of each module when it was first digested: later changes of the file do not affect the code that runs."""
_classes: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def source_sha256(cls: type) -> str:
    """SHA-256 (hex) of the source of a class: its file, the files of its bases, and everything that these import.

    Imports are followed recursively, wherever the statement is in a file. The standard library, installed
    distributions and this package are left out, since their versions identify them, except an installed file that
    defines the class itself or a base. Dynamic imports (`importlib.import_module`) and data files are not covered.

    Returns
    -------
    str
        Empty if the class is part of this package, or has no file.
    """
    if cls not in _classes:
        _classes[cls] = _digest(cls)
    return _classes[cls]


def _digest(cls: type) -> str:
    files: dict[str, str] = {}
    waiting: list[str] = []
    for name in dict.fromkeys(one.__module__ for one in cls.__mro__):
        source = None if _is_known_by_version(name) else _source(name)
        if source is not None:
            # The file of the class itself has no name, since it may be given as a module or as a path.
            files["" if name == cls.__module__ else name] = source.digest
            waiting += source.imports
    visited = {cls.__module__}
    while waiting:
        name = waiting.pop()
        if name in visited or name in files:
            continue
        visited.add(name)
        source = None if _is_known_by_version(name) else _source(name, installed=False)
        if source is not None:
            files[name] = source.digest
            waiting += source.imports
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest() if files else ""


def _is_known_by_version(module: str) -> bool:
    return module.partition(".")[0] in ("btcbt", *sys.stdlib_module_names)


def _source(name: str, *, installed: bool = True) -> _Source | None:
    """The source of a module, imported or not; None if it has no file, or is installed and `installed` is False."""
    module = sys.modules.get(name)
    file = _find(name) if module is None else getattr(module, "__file__", None)
    if file is None or not Path(file).is_file() or (not installed and _is_installed(Path(file))):
        return None
    if module is None:
        return _read(name, Path(file), is_package=Path(file).name == "__init__.py")
    if module not in _modules:
        _modules[module] = _read(name, Path(file), is_package=hasattr(module, "__path__"))
    return _modules[module]


def _find(name: str) -> str | None:
    """The file that an import of a module would read, found without importing its parents."""
    path: Any = None
    spec = None
    parts = name.split(".")
    for stop in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:stop]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and stop < len(parts):
            return None
    return spec.origin if spec is not None and spec.has_location else None


def _is_installed(file: Path) -> bool:
    """Whether a file belongs to Python or an installed distribution (an editable install counts as the user's code)."""
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or str(file).startswith(_STANDARD_LIBRARY)


def _read(name: str, file: Path, *, is_package: bool) -> _Source:
    content = file.read_bytes()
    package = name if is_package else name.rpartition(".")[0]
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # a compiled extension, or a file changed after the import
        return _Source(hashlib.sha256(content).hexdigest(), ())
    return _Source(hashlib.sha256(content).hexdigest(), tuple(dict.fromkeys(_imports(tree, package))))


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Names of the modules that a file may import, parents first; of ``from a import b``, a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if not all(parts):  # a relative import in a file outside a package
                continue
            yield from (".".join(parts[:stop]) for stop in range(1, len(parts) + 1))
