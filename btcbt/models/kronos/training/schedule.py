"""Learning rates by step, and which weights decay."""

from __future__ import annotations

import math

import torch
from torch import nn

from btcbt.models.kronos.training.recipe import Optimizer


def learning_rate(settings: Optimizer, step: int) -> float:
    """Learning rate of a step.

    ``cosine``: linear warm-up over the share `warmup` of the steps, then half a cosine down to `floor` times the peak.
    ``one_cycle`` (Smith and Topin, 2019, in the two cosine phases of torch's ``OneCycleLR``, whose momentum cycle is
    left out): from a tenth of the peak up over the share `warmup`, then down to `floor` times the peak.
    """
    peak, low, steps = settings.learning_rate, settings.floor, settings.steps
    if settings.schedule == "one_cycle":
        top = max(settings.warmup * steps - 1, 0.0)
        if step < top:
            return peak * _cosine(ONE_CYCLE_START, 1.0, step / top)
        return peak * _cosine(1.0, low, (step - top) / max(steps - 1 - top, 1.0))
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * _cosine(1.0, low, (step - warmup) / max(1, steps - warmup))


ONE_CYCLE_START = 0.1
"""Share of the peak at which a one-cycle schedule starts, as in the reference."""


def _cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(module: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW over the trainable weights; only matrices of linear layers decay."""
    decayed = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
