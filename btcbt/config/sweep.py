"""Sweeps: an experiment, and the values that some of its keys take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from btcbt.config.changes import Assignment, Value, configured, load_changed, parse_change
from btcbt.config.experiment import RunConfig
from btcbt.config.types import Duration, Name, Place, Section
from btcbt.config.yaml import load_config, one_symbol, plain, read_yaml
from btcbt.errors import ConfigError

MAX_CONFIGURATIONS = 20_000
SWEPT = ("strategies", "forecasters", "portfolio")
"""Sections whose keys a sweep may vary. Candles and windows are the question, not an answer to be chosen."""

LIMITS = ("portfolio.max_long", "portfolio.max_short")


class RangeConfig(Section):
    """Evenly spaced numbers; evenly spaced logarithms if `log`. A random search draws from the whole range."""

    low: float = Field(alias="from")
    """The smallest number."""
    high: float = Field(alias="to")
    """The largest number."""
    steps: int = Field(2, ge=2, le=10_000)
    """How many numbers a grid has."""
    log: bool = False
    """Whether their logarithms are evenly spaced."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"from {self.low:g} is not below to {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"from {self.low:g} is not above 0, which log needs")
        return self

    def values(self) -> list[Value]:
        """The numbers of a grid."""
        spaced = np.geomspace if self.log else np.linspace
        return [_number(value) for value in spaced(self.low, self.high, self.steps)]

    def draw(self, rng: np.random.Generator) -> Value:
        """One number of a random search."""
        if self.log:
            return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))


Choices = Annotated[
    Annotated[list[Value], Field(min_length=1, max_length=10_000), Tag("values")]
    | Annotated[RangeConfig, Tag("range")],
    Discriminator(lambda value: "values" if isinstance(value, list) else "range"),
]
"""What a key may be: a list of values, or a range."""


class RandomConfig(Section):
    """A random search instead of the whole grid."""

    trials: int = Field(ge=1, le=MAX_CONFIGURATIONS)
    """Configurations that are drawn; equal ones count once."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the draws."""


class SelectionConfig(Section):
    """Nested walk-forward selection: the best of the past `train` trades the next `trade`, again and again."""

    by: Literal["sharpe", "total_return"] = "sharpe"
    """What the best has most of."""
    train: Duration | None = None
    """All of the past if left out."""
    trade: Duration = "30d"
    """Time for which a choice is traded."""

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for key, value in (("train", self.train), ("trade", self.trade)):
            if value is not None and value.startswith("0"):
                raise ValueError(f"{key} {value} is empty; give a duration such as 30d")
        return self


class SweepConfig(Section):
    """Variations of one experiment: every combination of the values in `over`, or a random choice of them."""

    name: Name
    """Names the folder of its results."""
    experiment: Place
    """The experiment file, relative to the working directory."""
    over: dict[str, Choices] = Field(min_length=1)
    """The keys that vary, and the values of each: a list or a range."""
    search: Literal["grid"] | RandomConfig = "grid"
    """``grid`` for every combination, or a random choice."""
    strategies: tuple[str, ...] | None = Field(None, strict=False)
    """Those that take part; those with a key in `over`, or all if none has one, if left out."""
    forecasters: tuple[str, ...] | None = Field(None, strict=False)
    """Those that take part; those with a key in `over`, or all if none has one, if left out."""
    select: SelectionConfig = SelectionConfig()
    """Nested walk-forward selection."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        for key in self.over:
            if key.partition(".")[0] not in SWEPT:
                raise ValueError(f"over: '{key}' is not a key of {', '.join(SWEPT)}; these alone can be varied")
            if key.startswith("portfolio.") and key not in LIMITS:
                raise ValueError(
                    f"over: '{key}' is given, not chosen; of the portfolio only {' and '.join(LIMITS)} are"
                )
        if self.search == "grid":
            count = math.prod(len(self.values(key)) for key in self.over)
            if count > MAX_CONFIGURATIONS:
                raise ValueError(
                    f"over: a grid of {count:,} configurations; at most {MAX_CONFIGURATIONS:,} are run: give fewer "
                    "values, or 'search: {trials: 1000}' for a random choice"
                )
        return self

    def values(self, key: str) -> list[Value]:
        """The values of one key in a grid."""
        choices = self.over[key]
        return choices if isinstance(choices, list) else choices.values()

    def assignments(self) -> list[dict[str, Value]]:
        """Every configuration of the sweep, each once, in a fixed order."""
        if self.search == "grid":
            return [
                dict(zip(self.over, values, strict=True)) for values in itertools.product(*map(self.values, self.over))
            ]
        rng = np.random.default_rng(self.search.seed)
        drawn = [{key: self._draw(key, rng) for key in self.over} for _ in range(self.search.trials)]
        return [dict(items) for items in dict.fromkeys(tuple(one.items()) for one in drawn)]

    def _draw(self, key: str, rng: np.random.Generator) -> Value:
        choices = self.over[key]
        return choices[int(rng.integers(len(choices)))] if isinstance(choices, list) else choices.draw(rng)


def load_sweep(path: str | Path, changes: Sequence[str] = ()) -> tuple[SweepConfig, list[tuple[Assignment, RunConfig]]]:
    """Read a sweep, and the experiment of each of its configurations.

    Parameters
    ----------
    path : path
    changes : sequence of str
        ``KEY=VALUE`` each: keys of the experiment that all configurations share.

    Raises
    ------
    ConfigError
        If a file is invalid, a key names nothing, or a value is refused; names the key and the value.
    """
    sweep = load_config(path, SweepConfig)
    shared = dict(map(parse_change, changes))
    for key in shared:
        if key in sweep.over:
            raise ConfigError(f"--set {key}: the sweep varies this key; change its values in {path}")
    tree = plain(read_yaml(Path(sweep.experiment)))
    base = one_symbol(sweep.experiment, load_changed(sweep.experiment, changes))
    for section, known in (("strategies", base.strategies), ("forecasters", base.forecasters)):
        unknown = set(getattr(sweep, section) or ()) - set(known)
        if unknown:
            has = f"it has {sorted(known)}"
            raise ConfigError(f"{path}: {section}: '{min(unknown)}' is not in {sweep.experiment}; {has}")
    return sweep, [(one, configured(path, tree, {**shared, **one}, RunConfig)) for one in sweep.assignments()]


def _number(value: float) -> int | float:
    """Whole numbers as such, since some keys take nothing else."""
    return int(value) if float(value).is_integer() else float(value)


def varied(over: Iterable[str], section: str, known: Iterable[str]) -> list[str]:
    """The strategies or forecasters, of those known, that have a key in a sweep."""
    keys = list(over)
    return [name for name in known if any(key.startswith(f"{section}.{name}.") for key in keys)]
