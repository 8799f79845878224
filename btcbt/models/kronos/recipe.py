"""Recipes: how a tokenizer and a model are fitted to candle history, as closed configuration."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from btcbt.config import Interval, Name, Place, Section, Time, interval_ms, time_ms, time_text

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


class Start(Section):
    """Checkpoints that a fit goes on from.

    Each is ``kronos-nano``, a folder (with ``tokenizer/`` and ``model/``, or the network's own), another fit's output,
    or a hub id. `tokenizer` is the one that belongs to `model` if left out.
    """

    tokenizer: Place | None = None
    model: Place | None = None


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
    start: Start = Start()
    size: Literal["nano", "mini", "small", "base"] | None = None
    """Of the model: that of ``start.model``, or nano from scratch, if left out."""
    tokenizer_size: Literal["nano", "base", "2k"] | None = None
    window: int = Field(480, ge=4)
    """Candles of a window: the longest context and the horizon."""
    context: tuple[int, int] = Field((120, 360), strict=False)
    train: Span
    select: Span
    select_on: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Histories to select on; all of `candles` if empty."""
    embargo: int | None = Field(None, ge=0)
    """Candles before ``select.start`` that are not trained on; `window` of them if left out."""
    tokenizer: Optimizer | None = None
    """Without it the tokenizer of `start` is kept as it is."""
    model: Optimizer
    dropout: float = Field(0.1, ge=0, lt=1)
    mirror: bool = False
    """Turn half of the training windows upside down, so that no drift is learned."""
    calendar: tuple[Calendar, ...] = Field(("minute", "hour", "weekday", "day", "month"), strict=False)
    """Calendar tables that are trained; from scratch the others stay zero."""
    clip: float = Field(5.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0, lt=2**63)
    output: Place

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
            raise ValueError("without a section 'tokenizer' one is kept; name it in start.tokenizer")
        if self.train_end_ms <= time_ms(self.train.start):
            raise ValueError(
                f"the embargo of {self.embargo_candles:,} candles before select.start {time_text(self.select.start)} "
                f"reaches back to {time_text(self.train_end_ms)} and leaves nothing of train, which starts at "
                f"{time_text(self.train.start)}; start train earlier, or select later"
            )
        return self

    @property
    def embargo_candles(self) -> int:
        """Candles between training and selection range."""
        return self.window if self.embargo is None else self.embargo

    @property
    def train_end_ms(self) -> int:
        """Where training stops, ms UTC: the end of its range, or where the embargo begins."""
        embargoed = time_ms(self.select.start) - self.embargo_candles * interval_ms(self.interval)
        return min(time_ms(self.train.end), embargoed)
