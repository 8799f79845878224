"""Fitting tokenizer and model to candle history.

Every random choice of a step (windows, context length, mirroring, dropout) is a function of (seed, stage, step), so a
fit is reproducible on one device and needs no random state to go on from a step.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from btcbt.config import time_text
from btcbt.errors import CandleError, CheckpointError
from btcbt.models.kronos.calendar import stamps
from btcbt.models.kronos.decoder import Kronos
from btcbt.models.kronos.recipe import FinetuneConfig, Optimizer
from btcbt.models.kronos.scaling import Scaling
from btcbt.models.kronos.tokenizer import KronosTokenizer
from btcbt.records import HIGH, LOW, Candles, Float32Array, IntArray

SELECTION_WINDOWS = 256
"""Windows on which the selection loss is measured, spread evenly over the range."""


class Batch(NamedTuple):
    """Scaled windows (B, W, 6), their stamps (B, W, 5), and how many candles of each fitted the scaling."""

    candles: Tensor
    stamps: Tensor
    context: int


class WindowSampler:
    """Contiguous windows of some histories, whole in [start, end), ms UTC; messages call that range by its name.

    Raises
    ------
    CandleError
        If the span holds not one window.
    """

    def __init__(self, histories: Sequence[Candles], start: int, end: int, window: int, name: str = "range") -> None:
        self.histories, self.window = histories, window
        starts: list[IntArray] = []
        for i, candles in enumerate(histories):
            first = np.arange(len(candles) - window + 1, dtype=np.int64)
            last = first + window - 1
            whole = candles.open_time[last] - candles.open_time[first] == (window - 1) * candles.interval_ms
            inside = (candles.open_time[first] >= start) & (candles.open_time[last] < end)
            rows = first[whole & inside]
            starts.append(np.stack((np.full_like(rows, i), rows), axis=1))
        self.starts = np.concatenate(starts) if starts else np.empty((0, 2), np.int64)
        if not len(self.starts):
            raise CandleError(
                f"{name}: no {window} contiguous candles in {time_text(start)} .. {time_text(end)}; "
                "widen the range, shorten the window, or give more history"
            )

    def values(self, chosen: IntArray) -> tuple[Float32Array, IntArray]:
        """Candles (B, W, 6) and open times (B, W) of rows of `starts`."""
        picked = self.starts[chosen]
        rows = [(self.histories[i], slice(j, j + self.window)) for i, j in picked]
        values = np.stack([candles.values[part] for candles, part in rows]).astype(np.float32)
        return values, np.stack([candles.open_time[part] for candles, part in rows])

    def draw(self, config: FinetuneConfig, batch_size: int, key: tuple[int, int]) -> Batch:
        """Return the training batch of (stage, step)."""
        rng = np.random.default_rng([config.seed, *key])
        values, times = self.values(rng.integers(len(self.starts), size=batch_size))
        context = int(rng.integers(config.context[0], config.context[1] + 1))
        if config.mirror:
            _mirror(values, rng.random(batch_size) < 0.5)
        return make_batch(values, times, context, config.clip)

    def spread(self, config: FinetuneConfig, batch_size: int) -> Iterator[Batch]:
        """Evenly spaced windows, the same at every look, scaled on the longest context."""
        chosen = np.unique(np.linspace(0, len(self.starts) - 1, SELECTION_WINDOWS).astype(np.int64))
        for part in np.array_split(chosen, math.ceil(len(chosen) / batch_size)):
            yield make_batch(*self.values(part), config.context[1], config.clip)


def _mirror(values: Float32Array, rows: np.ndarray) -> None:
    """Turn the prices of some windows upside down around their first open; highs become lows."""
    prices = values[rows, :, :4]
    flipped = 2 * prices[:, :1, :1] - prices
    flipped[..., [HIGH, LOW]] = flipped[..., [LOW, HIGH]]
    values[rows, :, :4] = flipped


def make_batch(values: Float32Array, times: IntArray, context: int, clip: float) -> Batch:
    """Scale windows on their first `context` candles."""
    scaled = Scaling.fit(values[:, :context]).apply(values, clip)
    return Batch(torch.from_numpy(scaled), torch.from_numpy(stamps(times)), context)


Loss = Callable[[Batch], dict[str, Tensor]]


def tokenizer_losses(tokenizer: KronosTokenizer, batch: Batch) -> dict[str, Tensor]:
    """Reconstruction from the coarse bits and from all bits, and the quantizer's loss (the reference's sum)."""
    result = tokenizer(batch.candles)
    coarse, full = (
        F.mse_loss(result.coarse.float(), batch.candles),
        F.mse_loss(result.full.float(), batch.candles),
    )
    return {
        "loss": (coarse + full + result.quantizer_loss) / 2,
        "coarse": coarse,
        "full": full,
        "quantizer": result.quantizer_loss,
    }


def model_losses(model: Kronos, tokenizer: KronosTokenizer, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy of both sub-tokens over the candles behind the context, in nats; causal in every layer."""
    with torch.no_grad():
        s1, s2 = tokenizer.encode(batch.candles)
    logits = model(s1[:, :-1], s2[:, :-1], batch.stamps[:, :-1], s1[:, 1:], first=batch.context - 1)
    loss, coarse, fine = logits.loss(s1[:, batch.context :], s2[:, batch.context :])
    return {"loss": loss, "s1": coarse, "s2": fine}


@dataclass
class Curve:
    """Losses by step: rows of (step, split, learning rate, name -> value)."""

    rows: list[dict[str, float | str]] = field(default_factory=list)

    def add(self, step: int, split: str, losses: dict[str, float], **more: float) -> None:
        """Append one row."""
        self.rows.append({"step": step, "split": split, **more, **losses})


Report = Callable[[str], None]


def fit(
    module: nn.Module,
    losses: Loss,
    train: WindowSampler,
    select: WindowSampler,
    config: FinetuneConfig,
    optimizer_config: Optimizer,
    stage: int,
    report: Report,
) -> Curve:
    """Minimise ``losses(batch)["loss"]`` and leave in `module` the weights that were best on the selection range.

    Raises
    ------
    CheckpointError
        If the loss is NaN or infinite; `module` then holds the best weights so far.
    """
    settings = optimizer_config
    optimizer = torch.optim.AdamW(
        _groups(module, settings.weight_decay), lr=settings.learning_rate, betas=settings.betas
    )
    curve, best, best_loss = Curve(), copy.deepcopy(module.state_dict()), math.inf
    began, sums, count = time.perf_counter(), dict[str, float](), 0
    for step in range(settings.steps + 1):
        if step % settings.select_every == 0 or step == settings.steps:
            selected = evaluate(module, losses, select.spread(config, settings.batch_size), config)
            curve.add(step, "select", selected)
            if count:
                curve.add(
                    step,
                    "train",
                    {k: v / count for k, v in sums.items()},
                    learning_rate=_rate(settings, step - 1),
                )
            if selected["loss"] < best_loss:
                best, best_loss = copy.deepcopy(module.state_dict()), selected["loss"]
            rate = step * settings.batch_size * config.window / (time.perf_counter() - began)
            mean = sums.get("loss", math.nan) / max(count, 1)
            left = (settings.steps - step) * settings.batch_size * config.window / max(rate, 1.0)
            report(
                f"step {step:6d}/{settings.steps}  train {mean:.4f}  "
                f"select {selected['loss']:.4f} (best {best_loss:.4f})  "
                f"{rate:,.0f} tokens/s  {left / 60:.1f} min left"
            )
            sums, count = {}, 0
            if step == settings.steps:
                break
        for group in optimizer.param_groups:
            group["lr"] = _rate(settings, step)
        torch.manual_seed((config.seed * 2 + stage) * 1_000_003 + step)
        module.train()
        with _autocast(config):
            values = losses(train.draw(config, settings.batch_size, (stage, step)))
        loss = values["loss"]
        if not bool(torch.isfinite(loss)):
            module.load_state_dict(best)
            raise CheckpointError(
                f"the loss is {loss.item()} at step {step}; the best weights before it are kept. "
                "Lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
        optimizer.step()
        count += 1
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + float(value.detach())
    module.load_state_dict(best)
    module.eval()
    return curve


@torch.no_grad()
def evaluate(module: nn.Module, losses: Loss, batches: Iterator[Batch], config: FinetuneConfig) -> dict[str, float]:
    """Mean losses over some batches, dropout off."""
    module.eval()
    sums: dict[str, float] = {}
    weight = 0
    for batch in batches:
        with _autocast(config):
            values = losses(batch)
        weight += len(batch.candles)
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + float(value) * len(batch.candles)
    return {key: value / weight for key, value in sums.items()}


def _autocast(config: FinetuneConfig) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bfloat16")


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; norms, biases and embeddings do not."""
    decayed = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]


def _rate(settings: Optimizer, step: int) -> float:
    """Learning rate of a step: linear warm-up, then cosine decay."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, settings.steps - warmup)
    low = settings.floor
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))
