"""Recipes: how a tokenizer and a model are fitted to candle history, as closed configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from btcbt.config import MAX_BATCH, Interval, Name, Place, Section, Time, interval_ms, time_ms, time_text

Calendar = Literal["minute", "hour", "weekday", "day", "month"]
WindowScaling = Literal["context", "window_with_future"]
SCALINGS: tuple[WindowScaling, ...] = ("context", "window_with_future")


class Span(Section):
    """Candles whose open time is in [start, end), UTC."""

    start: Time
    """The first open time."""
    end: Time
    """The end; no candle opens then or later."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end {self.end:%Y-%m-%dT%H:%MZ} is not after start {self.start:%Y-%m-%dT%H:%MZ}")
        return self


class Start(Section):
    """Checkpoints that a fit starts from.

    Each is ``kronos-nano``, a folder (with ``tokenizer/`` and ``model/``, or the network's own), another fit's output,
    or a hub id. If left out, `tokenizer` is the one that belongs to `model`.
    """

    tokenizer: Place | None = None
    """The one that belongs to `model` if left out."""
    model: Place | None = None
    """A new model if left out."""


# Bounded so that a typing error cannot take all memory; the largest published network is 832 wide and 12 deep.
_Width = Annotated[int, Field(ge=1, le=8192)]
_Depth = Annotated[int, Field(ge=1, le=48)]
_Bits = Annotated[int, Field(ge=1, le=12)]
_Decay = Annotated[float, Field(ge=0, lt=1)]


class _NamedShape(Section):
    """Written as a name, or as a mapping with the keys that differ."""

    like: str
    """The named size."""
    d_model: _Width | None = None
    """Width."""
    n_heads: _Depth | None = None
    """Heads of attention."""
    ff_dim: _Width | None = None
    """Width of the feed-forward layers."""
    s1_bits: _Bits | None = None
    """Bits of the coarse token."""
    s2_bits: _Bits | None = None
    """Bits of the fine token."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"like": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        mapping = handler(schema)
        name = handler.resolve_ref_schema(mapping)["properties"]["like"]
        return {"anyOf": [name, mapping]}

    @property
    def changes(self) -> dict[str, int]:
        """The keys that are not as in the named size."""
        return {key: value for key, value in self if key != "like" and value is not None}

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {"like": self.like, **self.changes} if self.changes else self.like


class ModelShape(_NamedShape):
    """A model `like` one of the named sizes but for these keys of its ``config.json``."""

    like: Literal["nano", "mini", "small", "base"] = "nano"
    """The named size."""
    n_layers: _Depth | None = None
    """Layers."""


class TokenizerShape(_NamedShape):
    """A tokenizer `like` one of the named sizes but for these keys of its ``config.json``."""

    like: Literal["nano", "base", "2k"] = "nano"
    """The named size."""
    n_enc_layers: _Depth | None = None
    """Layers of the encoder."""
    n_dec_layers: _Depth | None = None
    """Layers of the decoder."""
    group_size: _Bits | None = None
    """Bits of a group of the quantizer."""


class Lora(Section):
    """Low-rank adapters on the model's linear layers of these names; everything else is frozen."""

    rank: int = Field(8, ge=1, le=1024)
    """Rank of the adapters."""
    alpha: float = Field(16.0, gt=0)
    """Their scale, over the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of their input."""
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "out_proj", "w1", "w2", "w3"), min_length=1, strict=False
    )
    """Names of the linear layers."""


class Optimizer(Section):
    """AdamW (Loshchilov and Hutter, 2019); learning rates by `btcbt.models.kronos.training.schedule.learning_rate`."""

    steps: int = Field(ge=1, le=10**12)
    """Optimizer steps."""
    batch_size: int = Field(32, ge=1, le=MAX_BATCH)
    """Windows of a step, over all processes."""
    accumulate: int = Field(1, ge=1)
    """Parts that a process computes its share of a step in, one after the other."""
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    """``cosine`` has a linear warm-up; ``one_cycle`` has torch's cosine phases."""
    learning_rate: float = Field(1e-3, gt=0)
    """The largest."""
    weight_decay: float = Field(0.1, ge=0)
    """Of matrices; norms, biases and embeddings do not decay."""
    betas: tuple[_Decay, _Decay] = Field((0.9, 0.95), strict=False)
    """Decay of AdamW's two averages."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    floor: float = Field(0.05, ge=0, le=1)
    """Last learning rate, as a share of the largest."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of a gradient."""
    select_every: int = Field(250, ge=1)
    """Steps between evaluations on the selection range; the best weights are kept."""
    patience: int | None = Field(None, ge=1)
    """Evaluations in a row without a better loss after which the stage ends early."""


class FinetuneConfig(Section):
    """One fit: tokenizer first, then the model on its tokens.

    A training window has `window` candles. Its scaling is fitted on the first of them alone, a number drawn from
    `context` anew for each batch, and the model's loss counts only the candles after those, which is how the
    model is used: every predicted candle is scaled by what came before it.
    """

    name: Name
    """Names the fit."""
    candles: tuple[str, ...] = Field(min_length=1, strict=False)
    """One history or several: files, or ``bundled:NAME``."""
    interval: Interval = "1h"
    """Length of a candle."""
    start: Start = Start()
    """Checkpoints to start from; without any, both networks are new."""
    size: ModelShape | None = None
    """Of the model: that of ``start.model``, or nano from scratch, if left out."""
    tokenizer_size: TokenizerShape | None = None
    """Of the tokenizer: that of the starting one, or nano from scratch, if left out."""
    window: int = Field(480, ge=3, le=1_000_000)
    """Candles of a window: the longest context and the horizon."""
    context: tuple[int, int] = Field((120, 360), strict=False)
    """Least and largest number of candles that a window's scaling is fitted on."""
    scaling: WindowScaling | Annotated[tuple[WindowScaling, ...], Field(min_length=1, strict=False)] = "context"
    """``window_with_future`` is the reference's recipe, which leaks (see `btcbt.models.kronos.training.batches`);
    its checkpoints are never clean. A list fits each in a folder of its own and compares their losses."""
    train: Span
    """Candles to fit on."""
    select: Span
    """Candles to choose the best weights on."""
    select_on: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Histories to select on; all of `candles` if empty."""
    embargo: int | None = Field(None, ge=0, le=1_000_000_000)
    """Candles before ``select.start`` that are not trained on; `window` of them if left out."""
    tokenizer: Optimizer | None = None
    """Without it the tokenizer of `start` is not fitted."""
    model: Optimizer
    """How the model is fitted."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout while fitting."""
    code_entropy: float = Field(0.0, ge=0)
    """Weight of the quantizer's `code_entropy` in the tokenizer's loss; the reference has none."""
    mirror: bool = False
    """Turn half of the training windows upside down, so that no drift is learned."""
    calendar: tuple[Calendar, ...] = Field(("minute", "hour", "weekday", "day", "month"), strict=False)
    """Calendar tables that are trained; from scratch the others stay zero."""
    clip: float = Field(5.0, gt=0)
    """Bound of the scaled candles, in standard deviations."""
    lora: Lora | None = None
    """Train adapters of the model instead of its weights, and merge them at the end."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto`` is a GPU if there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto`` is bfloat16 on GPUs that support it, and float32 elsewhere."""
    save_every: int = Field(500, ge=1)
    """Steps between two saved states, from which a stopped fit resumes."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of new weights, batches, dropout and mirroring."""
    output: Place
    """The folder to write to."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.context
        if not 2 <= low <= high < self.window:
            raise ValueError(f"context {low}..{high} must lie within 2..window - 1 = {self.window - 1}")
        if self.select.start < self.train.end:
            raise ValueError("the selection range starts before the training range ends")
        unknown = set(self.select_on) - set(self.candles)
        if unknown:
            raise ValueError(f"select_on names {sorted(unknown)}, which is not among candles")
        if self.tokenizer is None and self.start.tokenizer is None and self.start.model is None:
            raise ValueError("no tokenizer: name one in start.tokenizer, or add a section 'tokenizer' to fit one")
        if self.train_end_ms <= time_ms(self.train.start):
            raise ValueError(
                f"the embargo of {self.embargo_candles:,} candles before select.start {time_text(self.select.start)} "
                f"reaches back to {time_text(self.train_end_ms)} and leaves nothing of train, which starts at "
                f"{time_text(self.train.start)}; start train earlier, or select later"
            )
        if self.lora is not None and self.start.model is None:
            raise ValueError("lora adapts an existing model; name it in start.model, or remove lora")
        for name, stage in (("tokenizer", self.tokenizer), ("model", self.model)):
            if stage is not None and stage.batch_size % stage.accumulate:
                raise ValueError(
                    f"{name}.batch_size {stage.batch_size} does not divide by accumulate {stage.accumulate}; change one"
                )
        return self

    @property
    def leaky(self) -> bool:
        """Whether windows are scaled with the candles to be predicted."""
        return self.scaling == "window_with_future"

    def variants(self) -> tuple[FinetuneConfig, ...]:
        """One recipe for each scaling that this one compares; this one alone if it names one."""
        if isinstance(self.scaling, str):
            return (self,)
        return tuple(
            self.model_copy(update={"scaling": scaling, "output": f"{self.output}/{scaling}"})
            for scaling in dict.fromkeys(self.scaling)
        )

    @property
    def embargo_candles(self) -> int:
        """Candles between the training and the selection range."""
        return self.window if self.embargo is None else self.embargo

    @property
    def train_end_ms(self) -> int:
        """Where training stops, ms UTC: the end of its range, or where the embargo begins."""
        embargoed = time_ms(self.select.start) - self.embargo_candles * interval_ms(self.interval)
        return min(time_ms(self.train.end), embargoed)
