"""Experiments: closed, frozen models, and their digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import datetime
from glob import glob
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from btcbt.config.forecasters import RANDOM_WALK, ForecasterConfig, RefitConfig
from btcbt.config.hypotheses import AccountHypothesis, ForecastHypothesis, HypothesisConfig
from btcbt.config.types import (
    Interval,
    Name,
    ParamValues,
    Place,
    Section,
    Time,
    Use,
    interval_ms,
    is_url,
    parse_root,
    parse_shared_folder,
    time_text,
)
from btcbt.errors import ConfigError
from btcbt.messages import first_problem
from btcbt.trees import tree_digest

STORE_FOLDER = "store"
REFITS_FOLDER = "refits"
LEDGER_FILE = "trials.jsonl"
REGISTRATIONS_FOLDER = "registrations"
BUY_AND_HOLD = "buy_and_hold"
"""The benchmark strategy, and the name of its account."""


class CandlesConfig(Section):
    """The candle history."""

    path: Place
    """A Parquet file, relative to the working directory, or ``bundled:NAME``, a sample that is part of the package."""
    interval: Interval = "1h"
    """Length of a candle."""
    fill_gaps: int = Field(0, ge=0, le=24)
    """Length of the longest gaps that are filled, in candles: with flat candles of the last close and no volume. They
    are context alone: nothing is scored, decided, traded or fitted on them. 0 fills none."""
    symbol: Name | None = None
    """What is traded. It keys the random numbers of forecasts, so that those of different symbols are independent; an
    experiment of one symbol shares stored forecasts with a panel if it names the symbol as the panel."""


def _matching_files(value: object) -> object:
    """The files that a pattern matches, by the names of their stems; anything else as it is."""
    if not isinstance(value, str):
        return value
    files = sorted(glob(os.path.expanduser(value)))
    if not files:
        raise ValueError(f"no file matches {value}; give a pattern such as data/*_1h.parquet, or names with files")
    names = [Path(file).stem for file in files]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{value} matches several files named {sorted(twice)}; give names with files instead")
    return dict(zip(names, files, strict=True))


class PanelCandlesConfig(Section):
    """The candle histories of several symbols, of one interval."""

    symbols: Annotated[dict[Name, Place], BeforeValidator(_matching_files)]
    """Each symbol's file, or a pattern of files, such as ``data/*_1h.parquet``, whose names are the symbols."""
    interval: Interval = "1h"
    """Length of a candle."""
    fill_gaps: int = Field(0, ge=0, le=24)
    """Length of the longest gaps that are filled, in candles; see `CandlesConfig`."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(self.symbols) < 2:
            raise ValueError(f"symbols {sorted(self.symbols)}: a panel has at least two; for one, use 'path'")
        by_path: dict[str, str] = {}
        for symbol, path in self.symbols.items():
            other = by_path.setdefault(path, symbol)
            if other != symbol:
                raise ValueError(f"symbols '{other}' and '{symbol}' are the same file {path}; remove one")
        return self

    def of(self, symbol: str) -> CandlesConfig:
        """The history of one symbol."""
        return CandlesConfig(path=self.symbols[symbol], interval=self.interval, fill_gaps=self.fill_gaps, symbol=symbol)


class WindowsConfig(Section):
    """The forecast origins: one at every `stride`-th candle close in [start, end)."""

    context: int = Field(ge=2, le=100_000)
    """Candles that a forecast may see."""
    horizon: int = Field(ge=1, le=1024)
    """Candles that are forecast."""
    start: Time
    """The first candle close at which a forecast may be made: 2019-06-01 or 2019-06-01T13:00:00Z, UTC."""
    end: Time
    """The end of the origins; it is not one of them."""
    stride: int = Field(1, ge=1, le=100_000)
    """Candles from one origin to the next."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end {time_text(self.end)} is not after start {time_text(self.start)}")
        return self


class StrategyConfig(Section):
    """A strategy and its parameters."""

    use: Use
    """The short name of a built-in strategy, such as ``threshold``, or a class of the user, ``module:Class`` or
    ``path/to/file.py:Class``."""
    params: ParamValues = Field(default_factory=dict)
    """Parameters of the strategy, by name."""
    forecasters: tuple[str, ...] | None = Field(None, strict=False)
    """The forecasters that it trades on; all if left out."""


class PortfolioConfig(Section):
    """How targets become trades. Rates in basis points (1e-4)."""

    initial_cash: float = Field(10_000.0, ge=0.01, le=1e15)
    """Quote units. Bounded, since vectorbt treats amounts below about 1e-9 as zero and skips their orders."""
    fee_bps: float = Field(10.0, ge=0, lt=10_000)
    """Fee of a fill, of the value traded; a round trip pays it twice."""
    slippage_bps: float = Field(2.0, ge=0, lt=10_000)
    """By how much a fill is worse than the open."""
    funding_bps_per_hour: float = Field(0.0, gt=-10_000, lt=10_000)
    """Paid each hour by longs on the value held, earned by shorts (perpetual funding); < 0 reverses it."""
    funding: Place | None = None
    """Parquet file (relative to the working directory) of settled funding rates in place of a constant one: `time`
    (timestamp, UTC, whole hours) and `rate`, the fraction of the value held that longs pay to shorts at that time, as
    exchanges publish it (0.0001 is one basis point)."""
    borrow_bps_per_hour: float = Field(0.0, ge=0, lt=10_000)
    """Paid each hour by shorts on the value held."""
    max_long: float = Field(1.0, ge=0, le=1)
    """Largest weight, fraction of equity."""
    max_short: float = Field(0.0, ge=0, le=1)
    """Largest short weight, fraction of equity; 0 allows no short positions."""
    on_gap: Literal["hold", "flat"] = "hold"
    """What an account does without a decision: `hold` keeps its position, `flat` closes it at the open of the first
    candle without one."""

    @model_validator(mode="after")
    def _one_funding(self) -> Self:
        if self.funding is not None and self.funding_bps_per_hour != 0:
            raise ValueError(
                f"funding {self.funding} and funding_bps_per_hour {self.funding_bps_per_hour:g} exclude each other; "
                "keep one"
            )
        return self


class PanelPortfolioConfig(PortfolioConfig):
    """How targets of several symbols become trades in one account; limits of each symbol as in `PortfolioConfig`."""

    max_gross: float = Field(1.0, gt=0, le=10)
    """Largest sum of absolute weights."""
    max_net: float = Field(1.0, ge=0, le=10)
    """Largest absolute sum of weights."""


class StoreConfig(Section):
    """Where runs and forecasts are kept."""

    root: Annotated[Place, AfterValidator(parse_root)] = "runs"
    """A folder, or the URL of one: ``s3://BUCKET/PREFIX`` or ``gs://BUCKET/PREFIX``. A URL holds only forecasts, shared
    between machines."""
    local: Place | None = None
    """With a URL: the folder of runs, of the ledger of trials and of a copy of the forecasts; ``runs`` if left out."""
    ledger: Annotated[Place, AfterValidator(parse_shared_folder)] | None = None
    """A further folder for the ledger of trials and their returns, which several roots or colleagues share: a run
    writes to its own ledger and to that one, and counts the trials in both."""
    shard_size: int = Field(168, ge=1, le=100_000)
    """Origins that are written, resumed and shared as one unit."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.local is not None and (not is_url(self.root) or is_url(self.local)):
            raise ValueError("local is a folder that complements a root that is a URL; remove it")
        return self

    @property
    def folder(self) -> Path:
        """The local folder of runs."""
        return Path((self.local or "runs") if is_url(self.root) else self.root)

    @property
    def ledger_folders(self) -> tuple[Path, ...]:
        """Folders with a ledger of trials: that of runs, and the shared one if it is another."""
        shared = () if self.ledger is None else (Path(self.ledger),)
        return (self.folder, *(folder for folder in shared if folder.resolve() != self.folder.resolve()))

    @property
    def url(self) -> str | None:
        """The URL of shared forecasts, if any."""
        return self.root if is_url(self.root) else None


def store_root(place: str) -> str:
    """Validate a folder or URL of a store that was not given in an experiment file.

    Raises
    ------
    ConfigError
        If `StoreConfig` rejects it.
    """
    try:
        return StoreConfig(root=place).root
    except ValidationError as error:
        raise ConfigError(f"store root: {first_problem(error).text}") from None


class ExecutorConfig(Section):
    """Where forecasts are computed; it affects only speed."""

    kind: Literal["local", "joblib", "dask", "ray"] = "local"
    """``local`` is this process, with further processes for forecasters that run best on one core. The others
    distribute shards: ``joblib`` over processes of this machine, ``dask`` and ``ray`` over a cluster."""
    workers: int | None = Field(None, ge=1, le=1024)
    """Local processes; one per core if left out."""
    address: Place | None = None
    """Address of a Dask or Ray cluster; without it a local one is started."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.address is not None and self.kind not in ("dask", "ray"):
            raise ValueError(f"address is for a cluster, which '{self.kind}' does not use; remove it")
        if self.address is not None and self.kind == "dask" and self.workers is not None:
            raise ValueError("the cluster at address has its own workers; remove 'workers' or 'address'")
        return self


class Experiment(Section):
    """What experiments on one symbol (`RunConfig`) and on several (`PanelConfig`) share."""

    name: Name
    """Names the folder of its runs."""
    candles: CandlesConfig | PanelCandlesConfig
    """The candle history."""
    windows: WindowsConfig
    """When forecasts are made, what they see, and how far they reach."""
    forecasters: dict[Name, ForecasterConfig] = Field(default_factory=dict)
    """Forecasters by name."""
    opponent: Name | None = None
    """The forecaster that all are compared with, the strongest simple one, chosen before any score is seen; the random
    walk if left out, which stays in the table in any case."""
    strategies: dict[Name, StrategyConfig] = Field(default_factory=dict)
    """Strategies by name; each trades on each forecaster."""
    portfolio: PortfolioConfig = PortfolioConfig()
    """Costs and limits of the accounts."""
    store: StoreConfig = StoreConfig()
    """Where results are kept."""
    executor: ExecutorConfig = ExecutorConfig()
    """Where forecasts are computed."""
    placebos: int = Field(0, ge=0, le=100_000)
    """Placebo runs of each strategy on each forecaster (see `btcbt.metrics.placebos`); at least 200, or 0 for none."""
    hypotheses: dict[Name, HypothesisConfig] = Field(default_factory=dict)
    """What the study claims; see ``btcbt register``. With hypotheses, `windows.end` may lie beyond the candles."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Keys all random numbers of the forecasts."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name == STORE_FOLDER:
            raise ValueError(
                f"the name '{STORE_FOLDER}' is reserved for the folder of stored forecasts; choose another"
            )
        if self.name == LEDGER_FILE:
            raise ValueError(f"the name '{LEDGER_FILE}' is reserved for the ledger of trials; choose another")
        if self.name == REGISTRATIONS_FOLDER:
            raise ValueError(f"the name '{REGISTRATIONS_FOLDER}' is reserved for registered studies; choose another")
        walk = self.forecasters.get(RANDOM_WALK)
        if walk is not None and walk.kind != RANDOM_WALK:
            raise ValueError(f"the forecaster named '{RANDOM_WALK}' is of kind '{walk.kind}'; rename it")
        self._check_opponent()
        self._check_hypotheses()
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

    @property
    def forecaster_names(self) -> set[str]:
        """Names of the forecasters, the random walk that is added among them."""
        walks = [one for one in self.forecasters.values() if one.kind == RANDOM_WALK]
        return {*self.forecasters, *(() if walks else (RANDOM_WALK,))}

    def _check_hypotheses(self) -> None:
        for name, one in self.hypotheses.items():
            try:
                if isinstance(one, ForecastHypothesis):
                    self._check_forecast_hypothesis(one)
                else:
                    self._check_account_hypothesis(one)
            except ValueError as error:
                raise ValueError(f"hypothesis '{name}': {error}") from None

    def _check_forecast_hypothesis(self, one: ForecastHypothesis) -> None:
        for role, given in (("forecaster", one.forecaster), ("opponent", one.opponent)):
            if given is not None and given not in self.forecaster_names:
                raise ValueError(f"{role} '{given}' is not among the forecasters {sorted(self.forecaster_names)}")
        if one.forecaster == (one.opponent or self.opponent or RANDOM_WALK):
            raise ValueError(f"'{one.forecaster}' cannot beat itself; name another opponent")
        if one.metric == "energy_bps" and one.step is not None:
            raise ValueError("energy_bps is of the whole path; remove 'step'")
        if one.step is not None and one.step > self.windows.horizon:
            raise ValueError(f"step {one.step} is beyond windows.horizon {self.windows.horizon}; choose a smaller one")

    def _check_account_hypothesis(self, one: AccountHypothesis) -> None:
        if one.strategy not in self.strategies:
            raise ValueError(f"strategy '{one.strategy}' is not among the strategies {sorted(self.strategies)}")
        if one.forecaster is not None and one.forecaster not in self.forecasters:
            raise ValueError(f"forecaster '{one.forecaster}' is not among the forecasters {sorted(self.forecasters)}")

    def _check_opponent(self) -> None:
        known = self.forecaster_names
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
                f"forecaster '{name}': base '{base}' is not one of {known}, the forecasters without a base"
            )
        objection = self.forecasters[name].objection_to(self.forecasters[base])
        if objection:
            raise ValueError(f"forecaster '{name}': base '{base}' {objection}")

    def digest(self) -> str:
        """SHA-256 (hex) of the experiment with defaults filled in and keys sorted.

        Settings that affect only speed or location (`store`, `executor`, batch sizes) are left out, and hypotheses,
        which change no forecast, decision or account.
        """
        tree = self.content()
        del tree["hypotheses"]
        return tree_digest(tree)

    def content(self) -> dict[str, Any]:
        """Everything that affects the numbers of a run or a study, defaults filled in, as JSON values."""
        tree = self.model_dump(mode="json", exclude={"store", "executor"})
        for forecaster in tree["forecasters"].values():
            forecaster.pop("batch_size", None)
        if tree["candles"].get("symbol") is None:
            tree["candles"].pop("symbol", None)
        return tree


class RunConfig(Experiment):
    """One experiment: each strategy trades on each forecaster, over the same origins.

    A random walk is always scored as well; it is added if there is none.
    """

    candles: CandlesConfig
    """The candle history."""

    @property
    def forecast_seed(self) -> int:
        """Seed of forecasts: that of the experiment, or one derived from it and the symbol if that has a name."""
        if self.candles.symbol is None:
            return self.seed
        digest = hashlib.sha256(f"{self.seed}:{self.candles.symbol}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


class PanelConfig(Experiment):
    """An experiment on several symbols at once.

    Every symbol is walked and scored as by itself; then the symbols are compared, ranked and traded together.
    """

    candles: PanelCandlesConfig
    """The candle histories."""
    portfolio: PanelPortfolioConfig = PanelPortfolioConfig()
    """Costs and limits of the accounts."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols, in the order of the experiment."""
        return tuple(self.candles.symbols)

    def of(self, symbol: str, strategies: Mapping[str, StrategyConfig], start: datetime, end: datetime) -> RunConfig:
        """The experiment on one symbol.

        Parameters
        ----------
        symbol : str
        strategies : mapping
            Those of the experiment that trade one symbol.
        start, end : datetime
            The part of the range in which the symbol is listed.
        """
        portfolio = self.portfolio.model_dump(exclude={"max_gross", "max_net"})
        return RunConfig.model_validate(
            {field: getattr(self, field) for field in type(self).model_fields}
            | {
                "name": f"{self.name}-{symbol}",
                "candles": self.candles.of(symbol),
                "windows": self.windows.model_copy(update={"start": start, "end": end}),
                "strategies": dict(strategies),
                "portfolio": PortfolioConfig(**portfolio),
            }
        )
