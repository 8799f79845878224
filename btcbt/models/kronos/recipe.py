"""Recipes: how a tokenizer and a model are fitted to candle history, as closed configuration."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from btcbt.config import Interval, Name, Section, Time

Calendar = Literal["minute", "hour", "weekday", "day", "month"]


class Span(Section):
    """Candles whose open time is in [start, end), UTC."""

    start: Time
    end: Time

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end {self.end:%Y-%m-%dT%H:%MZ} is not after start {self.start:%Y-%m-%dT%H:%MZ}")
        return self


class Optimizer(Section):
    """AdamW (Loshchilov and Hutter, 2019) with linear warm-up and cosine decay to `floor` times the peak."""

    steps: int = Field(ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = Field((0.9, 0.95), strict=False)
    warmup: float = Field(0.03, ge=0, lt=1)
    floor: float = Field(0.05, ge=0, le=1)
    clip_norm: float = Field(1.0, gt=0)
    select_every: int = Field(250, ge=1)
    """Steps between looks at the selection range; the best weights seen are kept."""


class FinetuneConfig(Section):
    """One fit: tokenizer first, then the model on its tokens.

    A training window has `window` candles. Its scaling is fitted on the first of them alone, a number drawn from
    `context` anew for each batch, and the model's loss counts only the candles behind those, which is how the
    model is used: every candle that is predicted is scaled by what came before it.
    """

    name: Name
    candles: tuple[str, ...] = Field(min_length=1, strict=False)
    interval: Interval = "1h"
    size: Literal["nano", "mini", "small", "base"] = "nano"
    tokenizer_size: Literal["nano", "base", "2k"] = "nano"
    window: int = Field(480, ge=4)
    context: tuple[int, int] = Field((120, 360), strict=False)
    train: Span
    select: Span
    select_on: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Histories to select on; all of `candles` if empty."""
    tokenizer: Optimizer
    model: Optimizer
    dropout: float = Field(0.1, ge=0, lt=1)
    mirror: bool = False
    """Turn half of the training windows upside down, so that no drift is learned."""
    calendar: tuple[Calendar, ...] = Field(("minute", "hour", "weekday", "day", "month"), strict=False)
    """Calendar tables that are trained; the others stay zero."""
    clip: float = Field(5.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0, lt=2**63)
    output: str = Field(min_length=1)

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
        return self
