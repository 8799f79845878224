"""Experiments: closed, frozen models, and their digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from btcbt.config.types import (
    Duration,
    Interval,
    Name,
    Place,
    Section,
    Time,
    interval_ms,
    is_url,
    parse_root,
    time_text,
)
from btcbt.errors import ConfigError

MAX_FORECAST_BYTES = 1 << 28
MAX_BATCH = 1 << 16
"""Most windows of a step of a fit."""
STORE_FOLDER = "store"
REFITS_FOLDER = "refits"
LEDGER_FILE = "trials.jsonl"
RANDOM_WALK = "random_walk"
CALIBRATED = "calibrated"
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


class PathForecasterConfig(Section):
    """What every forecaster that samples paths has."""

    n_paths: int = Field(30, ge=1, le=100_000)
    batch_size: int | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _batch(self) -> Self:
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} is below 1; give a positive number or 'auto'")
        return self


class RefitConfig(Section):
    """Fine-tune a checkpoint inside the walk-forward, again and again, on candles before the origins that it serves.

    The first fit serves the first origin of the range and those after it, until `every` is over and the next one does;
    without `every` there is one, which is frozen from then on. Each is fitted on `train_window`, and the best of its
    weights are chosen on the `select_window` after that; both end `embargo` before the first origin that is served,
    and as much lies between them. An epoch is as many batches as there are training windows over `batch_size`.
    """

    every: Duration | None = None
    train_window: Duration = "8760h"
    select_window: Duration = "720h"
    embargo: Duration | None = None
    """Context and horizon together, if left out."""
    cumulative: bool = False
    """Whether each fit goes on from the weights of the one before; all begin with the checkpoint's if not."""
    steps: int | None = Field(None, ge=1, le=10_000_000)
    epochs: float | None = Field(None, gt=0, le=10_000)
    tokenizer_steps: int = Field(0, ge=0, le=10_000_000)
    """Steps of the tokenizer before those of the model; 0 keeps it as it is."""
    select_every: int | None = Field(None, ge=1)
    """Steps between looks at the selection range; an eighth of all if left out."""
    batch_size: int = Field(16, ge=1, le=MAX_BATCH)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    mirror: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either 'steps' or 'epochs', so that it is said how long to fit")
        return self


class KronosConfig(PathForecasterConfig):
    """Kronos, the transformer that samples candles.

    `checkpoint` is ``kronos-nano`` (shipped), a folder with ``model/`` and ``tokenizer/``, or a hub id; in
    the latter case `tokenizer` names the folder or hub id of the tokenizer, or of a pair that holds it.
    """

    kind: Literal["kronos"] = "kronos"
    checkpoint: Place = "kronos-nano"
    tokenizer: Place | None = None
    temperature: float = Field(1.0, gt=0, le=100)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    clip: float = Field(5.0, gt=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    sampling: Literal["independent", "systematic"] = "independent"
    overflow: Literal["recompute", "refuse"] = "recompute"
    max_context: int | None = Field(None, ge=2, le=1 << 16)
    """Tokens that the model attends to; that of the published size of its shape (512 for others) if left out."""
    refit: RefitConfig | None = None


class AnchoredKronosConfig(KronosConfig):
    """Kronos with one scaling for all hours of a block, a different and cheaper forecast.

    The scaling is fitted on the `context` candles before the block's first origin, and the context grows from there to
    context + block - 1 candles. Blocks lie on the grid of `block` intervals since the epoch (days, for 24 hours).
    """

    kind: Literal["kronos_anchored"]  # type: ignore[assignment]
    block: int = Field(24, ge=1, le=1024)


class RandomWalkConfig(PathForecasterConfig):
    """No drift; hourly returns (with their whole candle) drawn from the context with replacement."""

    kind: Literal["random_walk"]


class DriftConfig(PathForecasterConfig):
    """The random walk plus the context's mean return."""

    kind: Literal["drift"]


class EwmaVolatilityConfig(PathForecasterConfig):
    """Gaussian steps whose variance is an exponential mean of squared returns (RiskMetrics, 1996)."""

    kind: Literal["ewma_volatility"]
    decay: float = Field(0.97, gt=0, lt=1)


class GarchConfig(PathForecasterConfig):
    """GARCH(1,1) with Student t innovations, fitted on each window (Bollerslev, 1987)."""

    kind: Literal["garch"]


class CalibratedConfig(Section):
    """The forecaster named `base`, its paths widened, narrowed and shifted by what became of its earlier ones.

    A log scale moves by at least one of `rates` for each independent outcome outside of an interval; which of them
    is learned.
    """

    kind: Literal["calibrated"]
    base: Name
    rates: tuple[Annotated[float, Field(ge=0, le=0.1)], ...] = Field((0.005, 0.01, 0.02), min_length=1, strict=False)


ForecasterConfig = Annotated[
    KronosConfig
    | AnchoredKronosConfig
    | RandomWalkConfig
    | DriftConfig
    | EwmaVolatilityConfig
    | GarchConfig
    | CalibratedConfig,
    Field(discriminator="kind"),
]
KINDS = tuple(
    str(get_args(part.model_fields["kind"].annotation)[0]) for part in get_args(get_args(ForecasterConfig)[0])
)
"""What a forecaster can be."""


class StrategyConfig(Section):
    """A strategy and its parameters.

    `use` is the short name of one that ships with the package, say ``threshold``, or ``module:Class``.

    `forecasters` names those that it trades on; all of them if left out.
    """

    use: str = Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$")
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
        raise ConfigError(f"the store's root: {error.errors(include_url=False)[0]['msg']}") from None


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
        for name, strategy in self.strategies.items():
            unknown = set(strategy.forecasters or ()) - set(self.forecasters)
            if unknown:
                raise ValueError(
                    f"strategy '{name}' trades on {sorted(unknown)}, but the forecasters are {sorted(self.forecasters)}"
                )
        for name, forecaster in self.forecasters.items():
            if isinstance(forecaster, CalibratedConfig):
                self._check_base(name, forecaster.base)
                continue
            if isinstance(forecaster, KronosConfig) and forecaster.refit is not None:
                self._check_refit(name, forecaster.refit)
            size = forecaster.n_paths * self.windows.horizon * 24  # six float32 a candle
            if size > MAX_FORECAST_BYTES:
                raise ValueError(
                    f"forecaster '{name}': n_paths {forecaster.n_paths} x horizon {self.windows.horizon} "
                    f"makes {size:,} bytes an origin, more than {MAX_FORECAST_BYTES:,}; lower one of them"
                )
        return self

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
        known = sorted(key for key, value in self.forecasters.items() if not isinstance(value, CalibratedConfig))
        if base not in known:
            raise ValueError(f"forecaster '{name}': its base '{base}' is none of {known}; name one of them")

    def digest(self) -> str:
        """SHA-256 (hex) of the meaning of the experiment: defaults filled in, keys sorted.

        What changes speed and place alone (`store`, `executor`, batch sizes) is left out.
        """
        tree = self.model_dump(mode="json", exclude={"store", "executor"})
        for forecaster in tree["forecasters"].values():
            forecaster.pop("batch_size", None)
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
