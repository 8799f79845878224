"""Experiments: closed, frozen models, and their digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from btcbt.config.forecasters import RANDOM_WALK, ForecasterConfig, RefitConfig
from btcbt.config.types import (
    Interval,
    Name,
    Place,
    Section,
    Time,
    Use,
    interval_ms,
    is_url,
    parse_root,
    time_text,
)
from btcbt.errors import ConfigError
from btcbt.messages import first_problem

STORE_FOLDER = "store"
REFITS_FOLDER = "refits"
LEDGER_FILE = "trials.jsonl"
BUY_AND_HOLD = "buy_and_hold"
"""The strategy that all others are compared with, and its account."""


class CandlesConfig(Section):
    """Which history to walk over.

    `path` is a Parquet file (relative to the working directory) or ``bundled:NAME``, a sample that ships with
    the package.
    """

    path: Place
    interval: Interval = "1h"


class WindowsConfig(Section):
    """Where forecasts are made: an origin at every `stride`-th candle close in [start, end)."""

    context: int = Field(ge=2, le=100_000)
    horizon: int = Field(ge=1, le=1024)
    start: Time
    end: Time
    stride: int = Field(1, ge=1, le=100_000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end {time_text(self.end)} is not after start {time_text(self.start)}")
        return self


class StrategyConfig(Section):
    """A strategy and its parameters.

    `use` is the short name of one that ships with the package, say ``threshold``, or names one of the user's own by
    ``module:Class`` or ``path/to/file.py:Class``.

    `forecasters` names those that it trades on; all of them if left out.
    """

    use: Use
    params: dict[str, Any] = Field(default_factory=dict)
    forecasters: tuple[str, ...] | None = Field(None, strict=False)


class PortfolioConfig(Section):
    """How targets become trades. Rates in basis points (1e-4)."""

    initial_cash: float = Field(10_000.0, ge=0.01, le=1e15)
    """Quote units. Bounded, for vectorbt takes sums below some 1e-9 for nothing, and skips orders of tiny accounts."""
    fee_bps: float = Field(10.0, ge=0, lt=10_000)
    slippage_bps: float = Field(2.0, ge=0, lt=10_000)
    funding_bps_per_hour: float = Field(0.0, gt=-10_000, lt=10_000)
    """Paid each hour by longs on the value held, earned by shorts (perpetual funding); < 0 reverses it."""
    borrow_bps_per_hour: float = Field(0.0, ge=0, lt=10_000)
    """Paid each hour by shorts on the value held."""
    max_long: float = Field(1.0, ge=0, le=1)
    max_short: float = Field(0.0, ge=0, le=1)


class StoreConfig(Section):
    """Where runs and forecasts are kept; `shard_size` origins are written, resumed and shared as one unit.

    `root` is a folder, or the URL of one: ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX``, ``hdfs://HOST:PORT/PATH``.
    At a URL lie forecasts alone, for machines to share; runs, the ledger of trials, and a copy of the forecasts in use
    lie in the folder `local`, ``runs`` if left out.
    """

    root: Annotated[Place, AfterValidator(parse_root)] = "runs"
    local: Place | None = None
    shard_size: int = Field(168, ge=1, le=100_000)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.local is not None and (not is_url(self.root) or is_url(self.local)):
            raise ValueError("local is a folder beside a root that is a URL; remove it")
        return self

    @property
    def folder(self) -> Path:
        """The folder of this machine that runs lie in."""
        return Path((self.local or "runs") if is_url(self.root) else self.root)

    @property
    def url(self) -> str | None:
        """Where forecasts are kept besides, if anywhere."""
        return self.root if is_url(self.root) else None


def store_root(place: str) -> str:
    """A folder or URL of a store that did not come from an experiment file.

    Raises
    ------
    ConfigError
        If `StoreConfig` would not take it.
    """
    try:
        return StoreConfig(root=place).root
    except ValidationError as error:
        raise ConfigError(f"the store's root: {first_problem(error).text}") from None


class ExecutorConfig(Section):
    """What computes forecasts; nothing but speed depends on it.

    ``local`` is this process, with processes beside it for forecasters that do best on one core. The others share
    out shards: ``joblib`` on processes of this machine, ``dask`` and ``ray`` on the cluster at `address`, or on one
    that they start here. `workers` is the number of processes of those started here; one for each core if left out.
    """

    kind: Literal["local", "joblib", "dask", "ray"] = "local"
    workers: int | None = Field(None, ge=1, le=1024)
    address: Place | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.address is not None and self.kind not in ("dask", "ray"):
            raise ValueError(f"address is that of a cluster, and '{self.kind}' has none; remove it")
        if self.address is not None and self.kind == "dask" and self.workers is not None:
            raise ValueError("workers are those of the cluster at address; remove one of the two")
        return self


class RunConfig(Section):
    """One experiment: each strategy trades on each forecaster, over the same origins.

    A random walk is always scored beside the forecasters; it is added if none is named.
    """

    name: Name
    candles: CandlesConfig
    windows: WindowsConfig
    forecasters: dict[Name, ForecasterConfig] = Field(default_factory=dict)
    opponent: Name | None = None
    """The forecaster that all are compared with, the strongest simple one, chosen before any score is seen; the random
    walk if left out, which stays in the table in any case."""
    strategies: dict[Name, StrategyConfig] = Field(default_factory=dict)
    portfolio: PortfolioConfig = PortfolioConfig()
    store: StoreConfig = StoreConfig()
    executor: ExecutorConfig = ExecutorConfig()
    placebos: int = Field(0, ge=0, le=100_000)
    """Placebo runs of each strategy on each forecaster (see `btcbt.metrics.placebos`); use 200 or more, 0 is none."""
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name == STORE_FOLDER:
            raise ValueError(f"the name '{STORE_FOLDER}' is the folder of stored forecasts; choose another")
        if self.name == LEDGER_FILE:
            raise ValueError(f"the name '{LEDGER_FILE}' is the ledger of trials; choose another")
        walk = self.forecasters.get(RANDOM_WALK)
        if walk is not None and walk.kind != RANDOM_WALK:
            raise ValueError(f"the forecaster named '{RANDOM_WALK}' is of kind '{walk.kind}'; rename it")
        self._check_opponent()
        for name, strategy in self.strategies.items():
            unknown = set(strategy.forecasters or ()) - set(self.forecasters)
            if unknown:
                raise ValueError(
                    f"strategy '{name}' trades on {sorted(unknown)}, but the forecasters are {sorted(self.forecasters)}"
                )
        for name, forecaster in self.forecasters.items():
            if forecaster.based_on is not None:
                self._check_base(name, forecaster.based_on)
            if forecaster.schedule is not None:
                self._check_refit(name, forecaster.schedule)
            try:
                forecaster.check_size(self.windows.horizon)
            except ValueError as error:
                raise ValueError(f"forecaster '{name}': {error}") from None
        return self

    def _check_opponent(self) -> None:
        known = set(self.forecasters)
        if all(one.kind != RANDOM_WALK for one in self.forecasters.values()):
            known.add(RANDOM_WALK)  # it is added
        if self.opponent is not None and self.opponent not in known:
            raise ValueError(
                f"opponent '{self.opponent}' is not among the forecasters {sorted(known)}; name one of them"
            )

    def _check_refit(self, name: str, refit: RefitConfig) -> None:
        candle = interval_ms(self.candles.interval)
        for key in ("every", "train_window", "select_window", "embargo"):
            value = getattr(refit, key)
            shortest = 0 if key == "embargo" else candle
            if value is not None and (interval_ms(value) % candle or interval_ms(value) < shortest):
                raise ValueError(
                    f"forecaster '{name}': refit.{key} {value} is not a whole number of {self.candles.interval} candles"
                )

    def _check_base(self, name: str, base: str) -> None:
        known = sorted(key for key, value in self.forecasters.items() if value.based_on is None)
        if base not in known:
            raise ValueError(
                f"forecaster '{name}': base '{base}' is not one of {known}, those that have no base themselves"
            )

    def digest(self) -> str:
        """SHA-256 (hex) of the meaning of the experiment: defaults filled in, keys sorted.

        What changes speed and location alone (`store`, `executor`, batch sizes) is left out.
        """
        tree = self.model_dump(mode="json", exclude={"store", "executor"})
        for forecaster in tree["forecasters"].values():
            forecaster.pop("batch_size", None)
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
