"""What an experiment may say of a forecaster: one schema for each built-in kind, and one for those of the user's own.

To add a built-in kind, add its schema here, with the line `builds` that names its class, and list it in
`ForecasterConfig`. Nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from btcbt.config.types import Duration, Name, Place, Section, Use
from btcbt.messages import did_you_mean

MAX_FORECAST_BYTES = 1 << 28
MAX_BATCH = 1 << 16
"""Most windows of a step of a fit."""
RANDOM_WALK = "random_walk"
USER = "user"
"""The kind of a forecaster that is given by `use`."""


class RefitConfig(Section):
    """Fine-tune a checkpoint inside the walk-forward, periodically, on candles before the origins that it serves.

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
    """Whether each fit starts from the weights of the one before; all start from the checkpoint's if not."""
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


class ForecasterSection(Section):
    """Base of every schema of a forecaster. The properties say how it hangs together with others in an experiment."""

    builds: ClassVar[str]
    """``module:Class`` of the forecaster, imported when one is built and not before."""

    @property
    def based_on(self) -> str | None:
        """Name of the forecaster whose forecasts it is made from; None if it makes its own."""
        return None

    @property
    def schedule(self) -> RefitConfig | None:
        """When it is refitted inside the walk-forward; None if never."""
        return None

    @property
    def starts_from(self) -> tuple[str | None, ...] | None:
        """What tells its starting weights apart from others; None if it has none."""
        return None

    @property
    def remark(self) -> str:
        """What readers of its scores must know; empty if nothing."""
        return ""

    def without_refit(self) -> Self:
        """The same forecaster, never refitted."""
        return self if self.schedule is None else self.model_copy(update={"refit": None})

    def check_size(self, horizon: int) -> None:
        """Refuse a forecast of one origin that would fill the memory.

        Raises
        ------
        ValueError
            If its paths take more than `MAX_FORECAST_BYTES`.
        """


class SamplerConfig(ForecasterSection):
    """What every forecaster that samples paths of its own has."""

    n_paths: int = Field(30, ge=1, le=100_000)

    def check_size(self, horizon: int) -> None:
        """See `ForecasterSection.check_size`."""
        size = self.n_paths * horizon * 24  # six float32 a candle
        if size > MAX_FORECAST_BYTES:
            raise ValueError(
                f"n_paths {self.n_paths} x horizon {horizon} makes {size:,} bytes an origin, "
                f"more than {MAX_FORECAST_BYTES:,}; lower one of them"
            )


class PathForecasterConfig(SamplerConfig):
    """What every built-in forecaster that samples paths has."""

    batch_size: int | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _batch(self) -> Self:
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} is below 1; give a positive number or 'auto'")
        return self


class KronosConfig(PathForecasterConfig):
    """Kronos, the transformer that samples candles.

    `checkpoint` is ``kronos-nano`` (shipped), a folder with ``model/`` and ``tokenizer/``, or a hub id; in
    the latter case `tokenizer` names the folder or hub id of the tokenizer, or of a pair that holds it.
    """

    kind: Literal["kronos"] = "kronos"
    builds: ClassVar[str] = "btcbt.forecasters.kronos:KronosForecaster"
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

    @property
    def schedule(self) -> RefitConfig | None:
        """See `ForecasterSection.schedule`."""
        return self.refit

    @property
    def starts_from(self) -> tuple[str | None, ...] | None:
        """See `ForecasterSection.starts_from`."""
        return self.checkpoint, self.tokenizer


class AnchoredKronosConfig(KronosConfig):
    """Kronos with one scaling for all hours of a block, a different and cheaper forecast.

    The scaling is fitted on the `context` candles before the block's first origin, and the context grows from there to
    context + block - 1 candles. Blocks lie on the grid of `block` intervals since the epoch (days, for 24 hours).
    """

    kind: Literal["kronos_anchored"]  # type: ignore[assignment]
    builds: ClassVar[str] = "btcbt.forecasters.kronos:AnchoredKronos"
    block: int = Field(24, ge=1, le=1024)

    @property
    def remark(self) -> str:
        """See `ForecasterSection.remark`."""
        return f"anchored context, one scaling for blocks of {self.block} origins; not the per-origin forecast"


class RandomWalkConfig(PathForecasterConfig):
    """No drift; hourly returns (with their whole candle) drawn from the context with replacement."""

    kind: Literal["random_walk"]
    builds: ClassVar[str] = "btcbt.forecasters.random_walk:RandomWalk"


class DriftConfig(PathForecasterConfig):
    """The random walk plus the context's mean return."""

    kind: Literal["drift"]
    builds: ClassVar[str] = "btcbt.forecasters.random_walk:Drift"


class EwmaVolatilityConfig(PathForecasterConfig):
    """Gaussian steps whose variance is an exponential mean of squared returns (RiskMetrics, 1996)."""

    kind: Literal["ewma_volatility"]
    builds: ClassVar[str] = "btcbt.forecasters.ewma_volatility:EwmaVolatility"
    decay: float = Field(0.97, gt=0, lt=1)


class GarchConfig(PathForecasterConfig):
    """GARCH(1,1) with Student t innovations, fitted on each window (Bollerslev, 1987)."""

    kind: Literal["garch"]
    builds: ClassVar[str] = "btcbt.forecasters.garch:Garch"


class FitConfig(Section):
    """Fit a cheap model inside the walk-forward, periodically, on candles before the origins that it serves.

    The first fit serves the first origin of the range and those after it, until `every` is over and the next one does;
    without `every` (null) there is one, which is frozen from then on. Each is fitted on the `window` of candles that
    ends `embargo` before the first origin that is served.
    """

    every: Duration | None = "720h"
    window: Duration = "8760h"
    embargo: Duration | None = None
    """None by default: no outcome that a fit looks at reaches beyond its window."""


class LongFitConfig(FitConfig):
    """The same on two years, for models with more to learn."""

    window: Duration = "17520h"


class FittedConfig(PathForecasterConfig):
    """What every forecaster that is fitted on months of candles has; its paths are cheap, so there are many."""

    builds: ClassVar[str] = "btcbt.forecasters.fitted:Fitted"
    model: ClassVar[str]
    """``module:Class`` of the model; what is neither here nor in `PathForecasterConfig` is its parameters."""
    n_paths: int = Field(300, ge=1, le=100_000)
    fit: FitConfig = FitConfig()

    @property
    def model_parameters(self) -> dict[str, Any]:
        """What the model is built with."""
        shared = {"kind", *FittedConfig.model_fields}
        return {name: getattr(self, name) for name in type(self).model_fields if name not in shared}


class HarConfig(FittedConfig):
    """HAR realised volatility with a profile by hour and weekend, and a filtered bootstrap (Corsi, 2009)."""

    kind: Literal["har"]
    model: ClassVar[str] = "btcbt.forecasters.har:Har"
    lags: tuple[Annotated[int, Field(ge=1, le=8760)], ...] = Field((1, 6, 24, 168), min_length=1, strict=False)


class GjrGarchConfig(FittedConfig):
    """GJR-GARCH(1,1) with Student t innovations and the same profile (Glosten, Jagannathan and Runkle, 1993)."""

    kind: Literal["gjr_garch"]
    model: ClassVar[str] = "btcbt.forecasters.gjr_garch:GjrGarch"


class BoostedQuantilesConfig(FittedConfig):
    """Quantiles of returns by gradient-boosted trees, turned into paths; needs the extra ``boost`` (LightGBM)."""

    kind: Literal["boosted_quantiles"]
    model: ClassVar[str] = "btcbt.forecasters.boosted_quantiles:BoostedQuantiles"
    fit: LongFitConfig = LongFitConfig()
    rounds: int = Field(60, ge=1, le=10_000)
    leaves: int = Field(4, ge=2, le=1024)
    learning_rate: float = Field(0.05, gt=0, le=1)
    leaf_size: int = Field(500, ge=1)


class CalibratedConfig(ForecasterSection):
    """The forecaster named `base`, its paths widened, narrowed and shifted by how its earlier ones turned out.

    A log scale moves by at least one of `rates` for each independent outcome outside of an interval; which of them
    is learned.
    """

    kind: Literal["calibrated"]
    builds: ClassVar[str] = "btcbt.forecasters.calibrated:Calibrated"
    base: Name
    rates: tuple[Annotated[float, Field(ge=0, le=0.1)], ...] = Field((0.005, 0.01, 0.02), min_length=1, strict=False)

    @property
    def based_on(self) -> str | None:
        """See `ForecasterSection.based_on`."""
        return self.base


class UserForecasterConfig(SamplerConfig):
    """A forecaster of the user's own: ``module:Class`` or ``path/to/file.py:Class``, and the values of its `Params`."""

    kind: ClassVar[str] = USER
    builds: ClassVar[str] = ""  # what `use` names
    use: Use
    params: dict[str, Any] = Field(default_factory=dict)


class UserPostprocessorConfig(ForecasterSection):
    """A forecaster of the user's own that is made from the forecasts of the one named `base`."""

    kind: ClassVar[str] = USER
    builds: ClassVar[str] = ""  # what `use` names
    use: Use
    base: Name
    params: dict[str, Any] = Field(default_factory=dict)

    @property
    def based_on(self) -> str | None:
        """See `ForecasterSection.based_on`."""
        return self.base


_BuiltIn = (
    KronosConfig
    | AnchoredKronosConfig
    | RandomWalkConfig
    | DriftConfig
    | EwmaVolatilityConfig
    | GarchConfig
    | HarConfig
    | GjrGarchConfig
    | BoostedQuantilesConfig
    | CalibratedConfig
)
KINDS = tuple(str(get_args(one.model_fields["kind"].annotation)[0]) for one in get_args(_BuiltIn))
"""What a forecaster can be, besides one of the user's own."""
_BUILT_IN, _USER, _USER_ON_BASE = "<built-in>", "<use>", "<use on base>"
BRANCHES = (_BUILT_IN, _USER, _USER_ON_BASE, *KINDS)
"""What pydantic puts into the location of an error to name the branch of the union; no key of a file."""


def _one_of(value: object) -> object:
    """Refuse what is neither of a known kind nor a class of the user's own, or claims to be both."""
    if not isinstance(value, Mapping):
        return value
    if ("kind" in value) == ("use" in value):
        raise PydanticCustomError(
            "forecaster",
            "give either 'kind', one of {kinds}, or 'use', a class of your own, say 'my_models:Mine'",
            {"kinds": ", ".join(KINDS)},
        )
    kind = value.get("kind", KINDS[0])
    if kind not in KINDS:
        name = str(kind)[:60]
        raise PydanticCustomError(
            "forecaster",
            "unknown kind '{kind}'{near}; the kinds are {kinds}, and a class of your own is given by 'use'",
            {"kind": name, "near": did_you_mean(name, KINDS), "kinds": ", ".join(KINDS)},
        )
    return value


def _branch(value: object) -> str:
    if not isinstance(value, Mapping):
        if isinstance(value, UserForecasterConfig):
            return _USER
        return _USER_ON_BASE if isinstance(value, UserPostprocessorConfig) else _BUILT_IN
    if "use" not in value:
        return _BUILT_IN
    return _USER_ON_BASE if "base" in value else _USER


ForecasterConfig = Annotated[
    Annotated[Annotated[_BuiltIn, Field(discriminator="kind")], Tag(_BUILT_IN)]
    | Annotated[UserForecasterConfig, Tag(_USER)]
    | Annotated[UserPostprocessorConfig, Tag(_USER_ON_BASE)],
    Discriminator(_branch),
    BeforeValidator(_one_of),
]
