"""Configuration schemas of forecasters: one for each built-in kind, and those of user-defined classes.

To add a built-in kind, add its schema here, with `builds` naming its class, and list it in `ForecasterConfig`.
Nothing else needs to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from btcbt.config.types import LEARNED, Duration, Location, Name, ParamValues, Place, Section, Use
from btcbt.messages import did_you_mean

MAX_FORECAST_BYTES = 1 << 28
MAX_BATCH = 1 << 16
"""Largest batch of a training step."""
RANDOM_WALK = "random_walk"
USER = "user"
"""The kind of user-defined forecasters, which are given by `use`."""


class RefitConfig(Section):
    """Fine-tune a checkpoint inside the walk-forward, periodically, on candles before the origins that it serves.

    `train_window` and `select_window` end at least `embargo` before the first origin served, and are separated by
    `embargo`.
    """

    every: Duration | None = None
    """Time between refits; the first serves origins from the start on. Without it there is a single fit."""
    train_window: Duration = "8760h"
    """Candles to fit on."""
    select_window: Duration = "720h"
    """Candles after those, on which the best weights are selected."""
    embargo: Duration | None = None
    """Context plus horizon if left out."""
    cumulative: bool = False
    """Whether each fit starts from the weights of the previous one instead of the checkpoint."""
    steps: int | None = Field(None, ge=1, le=10_000_000)
    """Optimizer steps; give these or `epochs`."""
    epochs: float | None = Field(None, gt=0, le=10_000)
    """Passes over the training windows: as many batches each as there are windows over `batch_size`."""
    tokenizer_steps: int = Field(0, ge=0, le=10_000_000)
    """Training steps of the tokenizer before those of the model; 0 leaves it unchanged."""
    select_every: int | None = Field(None, ge=1)
    """Steps between evaluations on the selection range; an eighth of all steps if left out."""
    batch_size: int = Field(16, ge=1, le=MAX_BATCH)
    """Windows of a step."""
    learning_rate: float = Field(1e-4, gt=0)
    """Largest learning rate of AdamW."""
    weight_decay: float = Field(0.1, ge=0)
    """Of matrices; norms, biases and embeddings do not decay."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout while fitting."""
    mirror: bool = False
    """Whether half of the training windows are turned upside down, so that no drift is learned."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic while fitting."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of batches, dropout and mirroring."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either 'steps' or 'epochs'")
        return self


class ForecasterSection(Section):
    """Base of every forecaster schema. The properties describe its relation to other forecasters of an experiment."""

    builds: ClassVar[str]
    """``module:Class`` of the forecaster, imported only when one is built."""

    @property
    def based_on(self) -> str | None:
        """Name of its base, the forecaster whose forecasts it processes; None if it has none."""
        return None

    def objection_to(self, base: ForecasterSection) -> str:  # noqa: ARG002 - for subclasses
        """Why it cannot process the forecasts of a base; empty if it can."""
        return ""

    @property
    def schedule(self) -> RefitConfig | None:
        """The schedule of refits inside the walk-forward; None if it is not refitted."""
        return None

    @property
    def pooled(self) -> bool:
        """Whether it is fitted on all symbols of a panel."""
        return False

    @property
    def starts_from(self) -> tuple[str | None, ...] | None:
        """Identifies its starting weights; None if it has none."""
        return None

    @property
    def remark(self) -> str:
        """A remark to show beside its scores; empty if there is none."""
        return ""

    def without_refit(self) -> Self:
        """The same forecaster without refits."""
        return self if self.schedule is None else self.model_copy(update={"refit": None})

    def check_size(self, horizon: int) -> None:
        """Check that the forecast of one origin fits into memory.

        Raises
        ------
        ValueError
            If its paths take more than `MAX_FORECAST_BYTES`.
        """


class SamplerConfig(ForecasterSection):
    """Base of forecasters that sample paths."""

    n_paths: int = Field(30, ge=1, le=100_000)
    """Sampled paths of each forecast."""

    def check_size(self, horizon: int) -> None:
        """See `ForecasterSection.check_size`."""
        size = self.n_paths * horizon * 24  # six float32 a candle
        if size > MAX_FORECAST_BYTES:
            raise ValueError(
                f"n_paths {self.n_paths} x horizon {horizon} makes {size:,} bytes an origin, "
                f"more than {MAX_FORECAST_BYTES:,}; lower one of them"
            )


class PathForecasterConfig(SamplerConfig):
    """Base of built-in forecasters that sample paths."""

    batch_size: int | Literal["auto"] = "auto"
    """Origins that are forecast at once; it affects only speed and memory."""

    @model_validator(mode="after")
    def _batch(self) -> Self:
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} is below 1; give a positive number or 'auto'")
        return self


class KronosConfig(PathForecasterConfig):
    """Kronos, a transformer that samples candles."""

    kind: Literal["kronos"] = "kronos"
    builds: ClassVar[str] = "btcbt.forecasters.kronos:KronosForecaster"
    checkpoint: Place = "kronos-nano"
    """``kronos-nano`` (part of the package), a folder with ``model/`` and ``tokenizer/``, or a hub id."""
    tokenizer: Place | None = None
    """Folder or hub id of the tokenizer, or of a pair that holds it, where it is not part of `checkpoint`."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Divides the logits: below 1 paths are more alike, above 1 less."""
    top_k: int = Field(0, ge=0)
    """Sample from that many most likely tokens; 0 for all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the most likely tokens that together have this probability; 1 for all. Less narrows the fan."""
    clip: float = Field(5.0, gt=0)
    """Bound of the scaled context, in standard deviations."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto`` is a GPU if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model; the tokenizer always uses float32."""
    sampling: Literal["independent", "systematic"] = "independent"
    """``systematic`` spreads the paths of an origin evenly over each step's distribution; they are then dependent."""
    overflow: Literal["recompute", "refuse"] = "recompute"
    """What happens where the context outgrows `max_context` while sampling: recompute without the oldest token, as
    upstream, or refuse."""
    max_context: int | None = Field(None, ge=2, le=1 << 16)
    """Tokens that the model attends to; by default that of the published model of the same shape, 512 for others."""
    location: Location = "as_decoded"
    """Where the paths lie: as the decoder puts them, moved by the tokenizer's error on the last close so that they
    continue from the price, or so that their mean return is zero. ``learned`` is a forecaster of its own, `located`."""
    refit: RefitConfig | None = None
    """Fine-tune inside the walk-forward; see `RefitConfig`."""

    @field_validator("location", mode="before")
    @classmethod
    def _not_learned(cls, value: object) -> object:
        if value == LEARNED:
            raise ValueError(
                "location 'learned' is fitted on the outcomes of earlier forecasts; name those in a forecaster of its "
                "own, {kind: located, base: NAME}, or use 'reconstruction'"
            )
        return value

    @property
    def schedule(self) -> RefitConfig | None:
        """See `ForecasterSection.schedule`."""
        return self.refit

    @property
    def starts_from(self) -> tuple[str | None, ...] | None:
        """See `ForecasterSection.starts_from`."""
        return self.checkpoint, self.tokenizer

    @property
    def remark(self) -> str:
        """See `ForecasterSection.remark`."""
        return "" if self.location == "as_decoded" else f"location: {self.location}"


class AnchoredKronosConfig(KronosConfig):
    """Kronos with one scaling for all origins of a block: a different and cheaper forecast.

    The scaling is fitted on the `context` candles before the block's first origin, and the context grows from there to
    context + block - 1 candles. Blocks start at multiples of `block` intervals since the epoch (days, for 24 hours).
    """

    kind: Literal["kronos_anchored"]  # type: ignore[assignment]
    builds: ClassVar[str] = "btcbt.forecasters.kronos:AnchoredKronos"
    block: int = Field(24, ge=1, le=1024)
    """Origins that share a scaling."""

    @property
    def remark(self) -> str:
        """See `ForecasterSection.remark`."""
        moved = super().remark
        text = f"anchored context, one scaling for blocks of {self.block} origins; not the per-origin forecast"
        return f"{text}; {moved}" if moved else text


class BaselineConfig(PathForecasterConfig):
    """Base of forecasters whose paths are cheap, so that there are many: their number blurs no comparison."""

    n_paths: int = Field(300, ge=1, le=100_000)
    """Sampled paths of each forecast."""


class RandomWalkConfig(BaselineConfig):
    """No drift; candle returns drawn from the context with replacement, whole candles at a time."""

    kind: Literal["random_walk"]
    builds: ClassVar[str] = "btcbt.forecasters.random_walk:RandomWalk"


class DriftConfig(BaselineConfig):
    """The random walk plus the context's mean return."""

    kind: Literal["drift"]
    builds: ClassVar[str] = "btcbt.forecasters.random_walk:Drift"


class EwmaVolatilityConfig(BaselineConfig):
    """Gaussian steps whose variance is an exponential mean of squared returns (RiskMetrics, 1996)."""

    kind: Literal["ewma_volatility"]
    builds: ClassVar[str] = "btcbt.forecasters.ewma_volatility:EwmaVolatility"
    decay: float = Field(0.97, gt=0, lt=1)
    """Weight of the past variance at each candle."""


class GarchConfig(BaselineConfig):
    """GARCH(1,1) with Student t innovations, fitted on each window (Bollerslev, 1987)."""

    kind: Literal["garch"]
    builds: ClassVar[str] = "btcbt.forecasters.garch:Garch"


class FitConfig(Section):
    """Fit a cheap model inside the walk-forward, periodically, on candles before the origins that it serves.

    Each is fitted on the `window` of candles that ends `embargo` before the first origin served.
    """

    every: Duration | None = "720h"
    """Time between fits; null for a single one."""
    window: Duration = "8760h"
    """Candles to fit on."""
    embargo: Duration | None = None
    """Zero by default, since no training outcome reaches beyond the window."""


class LongFitConfig(FitConfig):
    """The same on two years, for models with more parameters."""

    window: Duration = "17520h"
    """Candles to fit on."""


class FittedConfig(BaselineConfig):
    """Base of forecasters that are fitted on months of candles."""

    builds: ClassVar[str] = "btcbt.forecasters.fitted:Fitted"
    model: ClassVar[str]
    """``module:Class`` of the model; the fields of subclasses are its parameters."""
    fit: FitConfig = FitConfig()
    """When it is fitted, and on what."""
    pool: bool = False
    """Whether each fit is on all symbols of a panel, in the same range and scaled to the volatility of the symbol."""

    @property
    def pooled(self) -> bool:
        """See `ForecasterSection.pooled`."""
        return self.pool

    @property
    def model_parameters(self) -> dict[str, Any]:
        """The keyword arguments of the model."""
        shared = {"kind", *FittedConfig.model_fields}
        return {name: getattr(self, name) for name in type(self).model_fields if name not in shared}


class HarConfig(FittedConfig):
    """HAR realised volatility with a profile by hour and weekend, and a filtered bootstrap (Corsi, 2009)."""

    kind: Literal["har"]
    model: ClassVar[str] = "btcbt.forecasters.har:Har"
    lags: tuple[Annotated[int, Field(ge=1, le=8760)], ...] = Field((1, 6, 24, 168), min_length=1, strict=False)
    """Candles of the means of past variance that enter the regression."""


class GjrGarchConfig(FittedConfig):
    """GJR-GARCH(1,1) with Student t innovations and the profile of HAR (Glosten, Jagannathan and Runkle, 1993)."""

    kind: Literal["gjr_garch"]
    model: ClassVar[str] = "btcbt.forecasters.gjr_garch:GjrGarch"


class BoostedQuantilesConfig(FittedConfig):
    """Quantiles of returns by gradient-boosted trees, turned into paths; needs the extra ``boost`` (LightGBM)."""

    kind: Literal["boosted_quantiles"]
    model: ClassVar[str] = "btcbt.forecasters.boosted_quantiles:BoostedQuantiles"
    fit: LongFitConfig = LongFitConfig()
    """When it is fitted, and on what."""
    rounds: int = Field(60, ge=1, le=10_000)
    """Trees of each quantile."""
    leaves: int = Field(4, ge=2, le=1024)
    """Leaves of a tree."""
    learning_rate: float = Field(0.05, gt=0, le=1)
    """Weight of a tree."""
    leaf_size: int = Field(500, ge=1)
    """Fewest candles in a leaf."""


class QuantileModelConfig(BaselineConfig):
    """Base of pretrained models that forecast quantiles of each step, turned into paths."""

    @property
    def remark(self) -> str:
        """See `ForecasterSection.remark`."""
        return "paths made by quantile_paths from quantiles: order of steps and candle shapes are those of the window"


class FracastConfig(QuantileModelConfig):
    """Fracast-0, a pretrained model of quantiles, turned into paths; needs the extra ``fracast``."""

    kind: Literal["fracast"]
    builds: ClassVar[str] = "btcbt.forecasters.fracast:Fracast"
    weights: Literal["fp32", "w8"] = "fp32"
    """Precision of the weights that its package holds."""


class ChronosConfig(QuantileModelConfig):
    """Chronos-2 or Chronos-Bolt, turned into paths; needs the extra ``chronos``."""

    kind: Literal["chronos"]
    builds: ClassVar[str] = "btcbt.forecasters.chronos:Chronos"
    checkpoint: Place = "amazon/chronos-2"
    """A folder or a hub id."""
    channels: Literal["close", "ohlcv"] = "close"
    """The log close alone, or, for Chronos-2, together with the other prices and the volume."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto`` is a GPU if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model."""


class TimesFmConfig(QuantileModelConfig):
    """TimesFM 2.5 in the files of transformers, turned into paths."""

    kind: Literal["timesfm"]
    builds: ClassVar[str] = "btcbt.forecasters.timesfm:TimesFm"
    checkpoint: Place = "google/timesfm-2.5-200m-transformers"
    """A folder or a hub id."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto`` is a GPU if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model."""


class CalibratedConfig(ForecasterSection):
    """The forecaster `base`, with paths scaled and shifted online by the errors of its earlier forecasts."""

    kind: Literal["calibrated"]
    builds: ClassVar[str] = "btcbt.forecasters.calibrated:Calibrated"
    base: Name
    """The forecaster whose paths are corrected."""
    rates: tuple[Annotated[float, Field(ge=0, le=0.1)], ...] = Field((0.005, 0.01, 0.02), min_length=1, strict=False)
    """Least steps of a log scale for each independent outcome outside an interval; the weights of the rates are learned
    online."""

    @property
    def based_on(self) -> str | None:
        """See `ForecasterSection.based_on`."""
        return self.base


class LocatedConfig(ForecasterSection):
    """The paths of the Kronos forecaster `base`, moved: its stored forecasts are used again."""

    kind: Literal["located"]
    builds: ClassVar[str] = "btcbt.forecasters.located:Located"
    base: Name
    """The Kronos forecaster whose paths are moved."""
    location: Literal["reconstruction", "driftless", "learned"] = LEARNED
    """As of `KronosConfig`; ``learned`` moves paths by a regression, fitted on the outcomes of the earlier forecasts,
    on the tokenizer's error on the last close and on the offset of the paths' median."""

    @property
    def based_on(self) -> str | None:
        """See `ForecasterSection.based_on`."""
        return self.base

    @property
    def remark(self) -> str:
        """See `ForecasterSection.remark`."""
        return f"the paths of {self.base}, location: {self.location}"

    def objection_to(self, base: ForecasterSection) -> str:
        """See `ForecasterSection.objection_to`."""
        if not isinstance(base, KronosConfig):
            return "is not of kind 'kronos' or 'kronos_anchored', so it has no tokenizer; name one that is"
        if base.location != "as_decoded":
            return f"has location '{base.location}' already; name one whose location is 'as_decoded'"
        return ""


class ReorderedConfig(ForecasterSection):
    """The forecaster `base` with the closes of each step given to other paths: steps go together as past errors did.

    A Schaake shuffle (Clark et al., 2004) by the newest `errors` of its own forecasts whose outcomes are known.
    """

    kind: Literal["reordered"]
    builds: ClassVar[str] = "btcbt.forecasters.reordered:Reordered"
    base: Name
    """The forecaster whose paths are reordered."""
    errors: int = Field(2000, ge=1, le=100_000)
    """Newest errors that the order of steps is taken from."""

    @property
    def based_on(self) -> str | None:
        """See `ForecasterSection.based_on`."""
        return self.base

    @property
    def remark(self) -> str:
        """See `ForecasterSection.remark`."""
        return f"the paths of {self.base}, the order of steps is that of its past errors (Schaake shuffle)"


class UserForecasterConfig(SamplerConfig):
    """A user-defined forecaster."""

    kind: ClassVar[str] = USER
    builds: ClassVar[str] = ""  # given by `use`
    use: Use
    """``module:Class`` or ``path/to/file.py:Class``."""
    params: ParamValues = Field(default_factory=dict)
    """Values of its `Params`, by name."""


class UserPostprocessorConfig(ForecasterSection):
    """A user-defined forecaster that processes the forecasts of the forecaster `base`."""

    kind: ClassVar[str] = USER
    builds: ClassVar[str] = ""  # given by `use`
    use: Use
    """``module:Class`` or ``path/to/file.py:Class``."""
    base: Name
    """The forecaster whose forecasts it processes."""
    params: ParamValues = Field(default_factory=dict)
    """Values of its `Params`, by name."""

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
    | FracastConfig
    | ChronosConfig
    | TimesFmConfig
    | CalibratedConfig
    | LocatedConfig
    | ReorderedConfig
)
KINDS = tuple(str(get_args(one.model_fields["kind"].annotation)[0]) for one in get_args(_BuiltIn))
"""The built-in kinds of forecasters."""
_BUILT_IN, _USER, _USER_ON_BASE = "<built-in>", "<use>", "<use on base>"
BRANCHES = (_BUILT_IN, _USER, _USER_ON_BASE, *KINDS)
"""Names of union branches that pydantic puts into the location of an error; they are not keys of a file."""


def _one_of(value: object) -> object:
    """Reject a value with neither a known kind nor a user-defined class, or with both."""
    if not isinstance(value, Mapping):
        return value
    if ("kind" in value) == ("use" in value):
        raise PydanticCustomError(
            "forecaster",
            "give either 'kind', one of {kinds}, or 'use', a class of your own, such as 'my_models:Mine'",
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
