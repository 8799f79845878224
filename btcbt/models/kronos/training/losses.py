"""The losses that tokenizer and model minimise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from btcbt.models.kronos.inference.engines import TokenizerEngine
from btcbt.models.kronos.network.quantizer import code_entropy
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.training.batches import Batch
from btcbt.models.kronos.training.processes import ProcessGroup

Tokens = tuple[Tensor, Tensor]
Losses = dict[str, Tensor]
Objective = Callable[[nn.Module, Batch], Losses]

LOSS_NAMES = {"tokenizer": ("loss", "coarse", "full", "quantizer"), "model": ("loss", "s1", "s2")}
"""Names of the losses that each stage's objective returns."""
MAX_CACHED_TOKENS = 1 << 26
"""Tokens that are cached for windows that recur, 8 bytes each."""


class Encoder:
    """A fitted tokenizer as a function of batches; windows that recur are tokenised once.

    On the CPU each window is encoded by itself, so that its tokens depend on nothing else, to the last bit.
    """

    def __init__(self, tokenizer: KronosTokenizer, device: torch.device) -> None:
        self.engine = TokenizerEngine(tokenizer.requires_grad_(False).eval(), device)
        self.device = device
        self._cache: dict[tuple[str, int, bool], Tokens] = {}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tokens:
        """Sub-token ids, int64 (B, W) each; in float32 whatever the model trains in, as in sampling."""
        with torch.autocast(self.device.type, enabled=False):
            return self._tokens(batch)

    def _tokens(self, batch: Batch) -> Tokens:
        if batch.keys is None:
            return self._encode(batch.candles)
        missing = [i for i, key in enumerate(batch.keys) if key not in self._cache]
        fresh: dict[tuple[str, int, bool], Tokens] = {}
        if missing:
            ids = self._encode(batch.candles[missing])
            fresh = {batch.keys[i]: (s1.int(), s2.int()) for i, s1, s2 in zip(missing, *ids, strict=True)}
            if (len(self._cache) + len(fresh)) * batch.candles.shape[1] <= MAX_CACHED_TOKENS:
                self._cache |= fresh
        rows = [fresh.get(key) or self._cache[key] for key in batch.keys]
        s1, s2 = (torch.stack([row[part] for row in rows]).long() for part in (0, 1))
        return s1, s2

    def _encode(self, candles: Tensor) -> Tokens:
        parts = [self.engine.encode(part) for part in candles.split(1 if self.device.type == "cpu" else len(candles))]
        return torch.cat([s1 for s1, _ in parts]), torch.cat([s2 for _, s2 in parts])


def tokenizer_losses(tokenizer: nn.Module, batch: Batch, code_weight: float = 0.0, s1_bits: int = 0) -> Losses:
    """Reconstruction from the coarse bits and from all bits, and the quantizer's loss (the reference's sum).

    In training `code_weight` times the `code_entropy` of codes with `s1_bits` coarse bits is added.
    """
    result = tokenizer(batch.candles)
    coarse, full = (
        F.mse_loss(result.coarse.float(), batch.candles),
        F.mse_loss(result.full.float(), batch.candles),
    )
    loss = (coarse + full + result.quantizer_loss) / 2
    if code_weight and tokenizer.training:
        loss = loss + code_weight * code_entropy(F.normalize(result.z.float(), dim=-1), s1_bits)
    return {
        "loss": loss,
        "coarse": coarse,
        "full": full,
        "quantizer": result.quantizer_loss,
    }


def model_losses(model: nn.Module, encode: Callable[[Batch], Tokens], batch: Batch) -> Losses:
    """Cross-entropy of both sub-tokens over the candles after the context, in nats; causal in every layer."""
    s1, s2 = encode(batch)
    logits = model(s1[:, :-1], s2[:, :-1], batch.stamps[:, :-1], s1[:, 1:], first=batch.context - 1)
    loss, coarse, fine = logits.loss(s1[:, batch.context :], s2[:, batch.context :])
    return {"loss": loss, "s1": coarse, "s2": fine}


@torch.no_grad()
def mean_losses(
    objective: Objective, network: nn.Module, batches: Iterable[Batch], names: Sequence[str], processes: ProcessGroup
) -> dict[str, float]:
    """Mean losses over the windows of some batches, dropout off; processes share the batches."""
    network.eval()
    sums, weight = dict.fromkeys(names, 0.0), 0.0
    for i, batch in enumerate(batches):
        if i % processes.world == processes.rank:
            losses = objective(network, batch.to(processes.device))
            weight += len(batch.candles)
            for name in names:
                sums[name] += float(losses[name]) * len(batch.candles)
    weight, *values = processes.sum([weight, *sums.values()])
    return {name: value / weight for name, value in zip(names, values, strict=True)}
