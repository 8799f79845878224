"""From logits to tokens: temperature, top-k, nucleus, and the two sources of random numbers.

Filters have the reference's semantics: `top_k` > 0 keeps every logit that is not below the k-th largest and then
ignores `top_p`; the nucleus (Holtzman et al., 2020) keeps the token that crosses the threshold, and `top_p` = 1
filters nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from btcbt.errors import ConfigError
from btcbt.records import FloatArray


@dataclass(frozen=True)
class Filter:
    """Temperature and filters that logits pass before a token is drawn.

    Raises
    ------
    ConfigError
        If temperature <= 0, top_k < 0 or top_p is outside (0, 1].
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"temperature is {self.temperature}; expected a number above 0")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; expected 0 (off) or a positive number of tokens")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; expected a number in (0, 1]")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map logits (..., V) to float32 weights (..., V), zero for filtered tokens, that need not sum to 1."""
        logits = logits.float()
        if self.temperature != 1.0:
            logits = logits / self.temperature
        p = torch.softmax(logits, dim=-1)
        if self.top_k > 0:
            if self.top_k < p.shape[-1]:
                kth = torch.topk(logits, self.top_k, dim=-1).values[..., -1:]
                p = torch.where(logits < kth, 0.0, p)
        elif self.top_p < 1.0:
            p = torch.where(p < _nucleus_floor(p, self.top_p), 0.0, p)
        return p


def _nucleus_floor(p: Tensor, top_p: float) -> Tensor:
    """Smallest probability (..., 1) inside the nucleus: the mass of all larger ones is at most `top_p`."""
    # numpy's vectorised sort of values is some 30 times as fast as torch's, which carries indices.
    on_cpu = p.device.type == "cpu"
    rising = torch.from_numpy(np.sort(p.numpy(), axis=-1)) if on_cpu else torch.sort(p, dim=-1).values
    falling = rising.flip(-1)
    before = torch.cumsum(falling, dim=-1) - falling
    inside = (before <= top_p).sum(-1, keepdim=True).clamp_(min=1)
    return torch.gather(falling, -1, inside - 1)


class Draw(Protocol):
    """Chooses a token for every path."""

    def __call__(self, p: Tensor, step: int, lane: int) -> Tensor:
        """Draw from weights (B, S, V) at a step (0 first) and lane (0 coarse, 1 fine): int64 (B, S)."""


def on_device(numbers: FloatArray, device: torch.device) -> Tensor:
    """Uniform numbers for `KeyedDraw` on the device; on the host for ``mps``, which has no float64."""
    tensor = torch.from_numpy(numbers)
    return tensor if device.type == "mps" else tensor.to(device)


class KeyedDraw:
    """Inverse CDF at uniform numbers that belong to (origin, path, step, lane): see `btcbt.randomness`.

    Parameters
    ----------
    uniforms : float64 (B, S, H, 2)
        In [0, 1).
    orders : pair of int64 (V,), optional
        Order of the coarse and of the fine tokens in the distribution function; by id if left out. Any order gives
        the same distribution; one that rises with the price lets numbers that are evenly spaced over the paths
        give evenly spread prices, too.
    """

    def __init__(self, uniforms: Tensor, orders: tuple[Tensor, Tensor] | None = None) -> None:
        self.uniforms = uniforms
        self.orders = orders

    def __call__(self, p: Tensor, step: int, lane: int) -> Tensor:
        """Draw; a token of zero weight is never chosen."""
        order = None if self.orders is None else self.orders[lane].to(p.device)
        cdf = torch.cumsum(p if order is None else p[..., order], dim=-1)
        total = cdf[..., -1:]
        # Rounded down to float32: a target equal to the total would select no token.
        target = (self.uniforms[:, : p.shape[1], step, lane, None].to(cdf) * total).clamp_(max=_below(total))
        ids = torch.searchsorted(cdf, target, right=True).squeeze(-1)
        return ids if order is None else order[ids]


def _below(x: Tensor) -> Tensor:
    """The next smaller float."""
    return torch.nextafter(x, torch.zeros_like(x))


class MultinomialDraw:
    """The reference's own stream, `torch.multinomial` on a generator; for comparisons with it."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def __call__(self, p: Tensor, step: int, lane: int) -> Tensor:  # noqa: ARG002 - the stream has no keys
        """Draw row by row in the order (origin, path)."""
        p = p / p.sum(-1, keepdim=True)
        return torch.multinomial(p.flatten(0, 1), 1, generator=self.generator).view(p.shape[:2])
