"""Strategies: the base class that a user subclasses, how one is loaded, and how one is asked."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeGuard

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from btcbt.errors import StrategyError
from btcbt.records import FloatArray, Forecast, Holding

__all__ = ["Params", "Strategy", "StrategyError", "decide_all", "decide_together", "load_strategy"]


class Params(BaseModel):
    """Base of a strategy's parameters: closed (unknown keys are errors), frozen, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Strategy(ABC):
    """Decides, at each origin, which fraction of equity to hold.

    A strategy is a class in any importable file. Its parameters are the class attribute `Params`, so that an
    experiment file is validated before anything runs::

        from btcbt.strategy import Params, Strategy
        from pydantic import Field

        class MineParams(Params):
            threshold: float = Field(0.001, ge=0)

        class Mine(Strategy):
            Params = MineParams
            params: MineParams

            def decide(self, forecast, holding):
                return 1.0 if forecast.returns().mean() > self.params.threshold else 0.0

    `decide` is called at every eligible origin, in order of time, and must be a function of its arguments
    alone: what it needs of the past is in ``forecast.window``, what it holds is in ``holding``.
    """

    Params: type[Params] = Params

    uses_forecast: ClassVar[bool] = True
    """False if `decide` looks at the window alone: it then runs once, and gets no paths (S = 0)."""

    def __init__(self, params: BaseModel | None = None) -> None:
        self.params = self.Params() if params is None else params

    @abstractmethod
    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return the target weight.

        Parameters
        ----------
        forecast : Forecast
            The known candles and the sampled futures.
        holding : Holding
            The target in hand.

        Returns
        -------
        float
            Fraction of equity to hold from the next candle's open, in [-1, 1]. Return
            ``holding.weight`` to leave the position as it is (no order is sent then).
        """


def load_strategy(use: str, params: Mapping[str, Any] | None = None) -> Strategy:
    """Import a strategy class and build it with validated parameters.

    Parameters
    ----------
    use : str
        ``module:Class``, say ``strategies.threshold:Threshold``. The module is looked up as Python does, and
        then in the current directory.
    params : mapping, optional
        Values for the class's `Params`; its defaults if left out.

    Raises
    ------
    StrategyError
        The module cannot be imported, has no such class, the class is not a (complete) `Strategy`, or a
        parameter is unknown or impossible. One line; an error of the user's own code is its ``__cause__``.
    """
    module_name, _, class_name = use.partition(":")
    if not class_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise StrategyError(f"strategy '{use}': expected 'module:Class', say 'strategies.threshold:Threshold'")
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
            f"strategy '{use}': '{class_name}' is {_describe(found)}; "
            "expected a subclass of btcbt.strategy.Strategy; derive it from that"
        )
    missing = sorted(found.__abstractmethods__)
    if missing:
        raise StrategyError(f"strategy '{use}': '{class_name}' lacks {', '.join(missing)}; define it")
    values = _validate(use, found, dict(params or {}))
    try:
        return found(values)
    except Exception as error:
        raise StrategyError(f"strategy '{use}': cannot be built: {_explain(error)}") from error


def decide_all(strategy: Strategy, forecasts: Iterable[Forecast], *, name: str | None = None) -> FloatArray:
    """Ask a strategy at each origin, telling it what it holds.

    Parameters
    ----------
    strategy : Strategy
        Whom to ask.
    forecasts : iterable of Forecast
        M forecasts, in order of time.
    name : str, optional
        What to call the strategy in messages; the class's name if left out.

    Returns
    -------
    float64 (M,)
        Targets in [-1, 1], as decided: the portfolio clips them to its limits, `Holding` does not.

    Raises
    ------
    StrategyError
        A decision is not a finite number in [-1, 1], or `decide` raised; names strategy, origin and value.
    ValueError
        Origins do not increase.
    """
    targets: FloatArray = decide_together({name or type(strategy).__name__: strategy}, forecasts)[0]
    return targets


def decide_together(strategies: Mapping[str, Strategy], forecasts: Iterable[Forecast]) -> FloatArray:
    """Ask several strategies at each origin, so that forecasts are read once; else as `decide_all`.

    Parameters
    ----------
    strategies : mapping of str to Strategy
        Whom to ask, by what to call them in messages.
    forecasts : iterable of Forecast
        M forecasts, in order of time.

    Returns
    -------
    float64 (K, M)
        Targets of each.
    """
    holders = [_Holder(strategy, label) for label, strategy in strategies.items()]
    previous: int | None = None
    for forecast in forecasts:
        if previous is not None and forecast.origin <= previous:
            raise ValueError(f"origins do not increase: {forecast.origin} after {previous}")
        previous = forecast.origin
        for holder in holders:
            holder.decide(forecast)
    return np.array([holder.targets for holder in holders], dtype=np.float64)


class _Holder:
    """A strategy, what it holds and since when, and all that it has decided."""

    def __init__(self, strategy: Strategy, label: str) -> None:
        self.strategy, self.label = strategy, label
        self.targets = array("d")
        self.weight, self.since = 0.0, 0

    def decide(self, forecast: Forecast) -> None:
        origin = forecast.origin
        if not self.targets:
            self.since = origin
        held = (origin - self.since) // forecast.window.interval_ms
        try:
            decision = self.strategy.decide(forecast, Holding(weight=self.weight, candles_held=held))
        except StrategyError as error:
            raise StrategyError(f"strategy '{self.label}' at {_utc(origin)}: {error}") from error
        except Exception as error:
            raise StrategyError(f"strategy '{self.label}' failed at {_utc(origin)}: {_explain(error)}") from error
        target = _check(decision, self.label, origin)
        if np.sign(target) != np.sign(self.weight):
            self.since = origin
        self.targets.append(target)
        self.weight = target


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
            raise StrategyError(f"strategy '{use}': cannot be imported: {_explain(error)}; install it") from error
        file = here.joinpath(*module_name.split(".")).with_suffix(".py")
        if not file.is_file():
            raise StrategyError(
                f"strategy '{use}': there is no module '{module_name}' (nor {file}); "
                "correct its name, or run from the folder that holds it"
            ) from None
        # A folder `strategies` of the user's own, beside the installed package of that name.
        return _import_file(use, module_name, file)
    except (Exception, SystemExit) as error:
        raise StrategyError(f"strategy '{use}': cannot be imported: {_explain(error)}") from error


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
        raise StrategyError(f"strategy '{use}': cannot be imported: {_explain(error)}") from error
    return module


def _is_strategy(value: object) -> TypeGuard[type[Strategy]]:
    return isinstance(value, type) and issubclass(value, Strategy)


def _validate(use: str, strategy: type[Strategy], params: dict[str, Any]) -> Params:
    schema = strategy.Params
    if not (isinstance(schema, type) and issubclass(schema, Params)):
        raise StrategyError(f"strategy '{use}': Params is {_describe(schema)}; derive it from btcbt.strategy.Params")
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
            problem += text[0].lower() + text[1:] + f", got {_short(first['input'])}"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StrategyError(f"strategy '{use}': {problem}{more}") from None


def _check(decision: object, label: str, origin: int) -> float:
    number = isinstance(decision, int | float | np.integer | np.floating) and not isinstance(decision, bool)
    # Not `abs(x) > 1`: a NaN must fail the comparison.
    if not number or not -1.0 <= decision <= 1.0:  # type: ignore[operator]
        raise StrategyError(
            f"strategy '{label}' at {_utc(origin)}: decide returned {_describe(decision)}; "
            "expected a finite number in [-1, 1]"
        )
    return float(decision)  # type: ignore[arg-type]


def _explain(error: BaseException) -> str:
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


def _describe(value: object) -> str:
    return "None" if value is None else f"{_short(value)} ({type(value).__name__})"


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
