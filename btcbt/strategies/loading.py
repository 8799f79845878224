"""How a strategy class is imported and built with validated parameters."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from pydantic import ValidationError

from btcbt.errors import StrategyError
from btcbt.strategies.base import Params, Strategy

_NOT_STRATEGIES = ("__init__", "base", "loading")


def built_in(use: str) -> str | None:
    """``module:Class`` of the short name of a strategy that ships with the package; None if there is none.

    The class has the name of its file: ``volatility_target`` is `btcbt.strategies.volatility_target.VolatilityTarget`.
    """
    if not use.isidentifier() or use in _NOT_STRATEGIES or not (Path(__file__).parent / f"{use}.py").is_file():
        return None
    return f"btcbt.strategies.{use}:{use.title().replace('_', '')}"


def load_strategy(use: str, params: Mapping[str, Any] | None = None) -> Strategy:
    """Import a strategy class and build it with validated parameters.

    Parameters
    ----------
    use : str
        ``module:Class``, say ``threshold``. The module is looked up as Python does, and
        then in the current directory.
    params : mapping, optional
        Values for the class's `Params`; its defaults if left out.

    Raises
    ------
    StrategyError
        The module cannot be imported, has no such class, the class is not a (complete) `Strategy`, or a
        parameter is unknown or impossible. One line; an error of the user's own code is its ``__cause__``.
    """
    module_name, _, class_name = (built_in(use) or use).partition(":")
    if not class_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise StrategyError(f"strategy '{use}': expected 'module:Class', say 'threshold'")
    module = _import(use, module_name)
    found = getattr(module, class_name, None)
    if found is None:
        has = sorted(key for key, value in vars(module).items() if _is_strategy(value) and value is not Strategy)
        raise StrategyError(
            f"strategy '{use}': {module.__file__ or module_name} has no class '{class_name}'; "
            f"its strategies are {', '.join(has) or 'none'}"
        )
    if not _is_strategy(found):
        raise StrategyError(
            f"strategy '{use}': '{class_name}' is {describe(found)}; "
            "expected a subclass of btcbt.strategies.base.Strategy; derive it from that"
        )
    missing = sorted(found.__abstractmethods__)
    if missing:
        raise StrategyError(f"strategy '{use}': '{class_name}' lacks {', '.join(missing)}; define it")
    values = _validate(use, found, dict(params or {}))
    try:
        return found(values)
    except Exception as error:
        raise StrategyError(f"strategy '{use}': cannot be built: {explain(error)}") from error


def _import(use: str, module_name: str) -> ModuleType:
    # `python -m btcbt` already looks in the current directory, the `btcbt` script does not. It comes last, so
    # that a file there cannot shadow an installed module.
    here = Path.cwd()
    if str(here) not in sys.path and "" not in sys.path:
        sys.path.append(str(here))
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise StrategyError(f"strategy '{use}': cannot be imported: {explain(error)}; install it") from error
        file = here.joinpath(*module_name.split(".")).with_suffix(".py")
        if not file.is_file():
            raise StrategyError(
                f"strategy '{use}': there is no module '{module_name}' (nor {file}); "
                "correct its name, or run from the folder that holds it"
            ) from None
        # A folder `strategies` of the user's own, beside the installed package of that name.
        return _import_file(use, module_name, file)
    except (Exception, SystemExit) as error:
        raise StrategyError(f"strategy '{use}': cannot be imported: {explain(error)}") from error


def _import_file(use: str, module_name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise StrategyError(f"strategy '{use}': {file} is not a Python file; name one that is")
    module = importlib.util.module_from_spec(spec)
    # Registered first, as the import system does: pydantic resolves annotations through it.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise StrategyError(f"strategy '{use}': cannot be imported: {explain(error)}") from error
    return module


def _is_strategy(value: object) -> TypeGuard[type[Strategy]]:
    return isinstance(value, type) and issubclass(value, Strategy)


def _validate(use: str, strategy: type[Strategy], params: dict[str, Any]) -> Params:
    schema = strategy.Params
    if not (isinstance(schema, type) and issubclass(schema, Params)):
        raise StrategyError(
            f"strategy '{use}': Params is {describe(schema)}; derive it from btcbt.strategies.base.Params"
        )
    try:
        return schema.model_validate(params)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        key = ".".join(str(part) for part in first["loc"])
        takes = ", ".join(schema.model_fields) or "none"
        if first["type"] == "extra_forbidden":
            problem = f"unknown parameter '{key}'; its parameters are {takes}"
        elif first["type"] == "missing":
            problem = f"parameter '{key}' is missing; add it"
        else:
            text = first["msg"].removeprefix("Value error, ")
            problem = f"parameter '{key}': " if key else ""
            problem += text[0].lower() + text[1:] + f", got {short(first['input'])}"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StrategyError(f"strategy '{use}': {problem}{more}") from None


def explain(error: BaseException) -> str:
    """An error of the user's code in one line, with the place where it was raised."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    # The innermost line that is neither this file, nor the import system, nor an installed package.
    skip = ("<", str(Path(__file__)), str(Path(importlib.__file__).parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(skip) and "site-packages" not in frame.filename
    ]
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text


def describe(value: object) -> str:
    """A value and its type, for a message."""
    return "None" if value is None else f"{short(value)} ({type(value).__name__})"


def short(value: object) -> str:
    """A value in at most 60 characters of one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def utc(time_ms: int) -> str:
    """A time, ms UTC, as messages show it."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
