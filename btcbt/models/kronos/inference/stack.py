"""The stack of layers as sampling runs it: `prefill` a context, then `extend` its paths.

For inference alone, RMSNorm weights are folded into the linear layer after them, the attention scale into the queries,
and the two halves of a rotary pair are placed side by side, so that rotation is a complex product.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from btcbt.models.kronos.inference.cache import AppendStep, SharedPrefixCache
from btcbt.models.kronos.inference.linear import Linear
from btcbt.models.kronos.network.layers import Block, inverse_frequencies
from btcbt.models.kronos.shapes import RMS_EPS


def rms(x: Tensor) -> Tensor:
    """RMSNorm without its weight."""
    return F.rms_norm(x, (x.shape[-1],), None, RMS_EPS)


def fold_norm(weight: Tensor, norm_weight: Tensor) -> Tensor:
    """Fold the weight of the norm before a linear layer into the layer's matrix (out, in)."""
    return weight * norm_weight


def pair_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the outputs of each head from (first half, second half) to adjacent pairs, weights or biases."""
    heads = weight.unflatten(0, (n_heads, 2, -1))
    return heads.transpose(1, 2).flatten(0, 2)


class CachedBlock:
    """Inference form of a `Block`: four matrix products, fused."""

    def __init__(self, block: Block, dtype: torch.dtype, device: torch.device, packed: bool) -> None:
        attention = block.self_attn
        self.n_heads = h = attention.n_heads
        self.head_dim = d = attention.q_proj.in_features // h
        norm1, norm2 = block.norm1.weight, block.norm2.weight

        def linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
            bias = None if bias is None else bias.to(device, dtype)
            return Linear(weight.to(device, dtype), bias, packed=packed)

        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        weight = torch.cat((pair_halves(q.weight * d**-0.5, h), pair_halves(k.weight, h), v.weight))
        bias = torch.cat((pair_halves(q.bias * d**-0.5, h), pair_halves(k.bias, h), v.bias))
        self.qkv = linear(fold_norm(weight, norm1), bias)
        self.out = linear(attention.out_proj.weight, attention.out_proj.bias)
        self.gate = linear(fold_norm(block.ffn.w1.weight, norm2))
        self.up = linear(fold_norm(block.ffn.w3.weight, norm2))
        self.down = linear(block.ffn.w2.weight)

    def rotation(self, positions: Tensor) -> Tensor:
        """Unit complex numbers (..., 2 * heads, head_dim / 2) that rotate queries and keys, from float32 angles."""
        angles = positions.float().unsqueeze(-1) * inverse_frequencies(self.head_dim).to(positions.device)
        return torch.polar(torch.ones_like(angles), angles).unsqueeze(-2).repeat_interleave(2 * self.n_heads, dim=-2)

    def project(self, x: Tensor, rotate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (..., heads, head_dim) of x (..., D), views of one product; see `rotation`."""
        qkv = self.qkv(rms(x)).unflatten(-1, (3 * self.n_heads, -1))
        qk = qkv[..., : 2 * self.n_heads, :].unflatten(-1, (-1, 2))
        if qk.dtype == torch.float32:
            torch.view_as_complex(qk).mul_(rotate)
        else:
            qk.copy_(torch.view_as_real(torch.view_as_complex(qk.float()) * rotate))
        q, k, v = qkv.chunk(3, dim=-2)
        return q, k, v

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Residual of the attention, then the gated feed-forward with its residual."""
        x = self.out(mixed, other=x)
        normed = rms(x)
        gated = self.up(normed, other=self.gate(normed, silu=True), combine="mul")
        return self.down(gated, other=x)


class CachedStack:
    """Inference form of a list of blocks.

    Parameters
    ----------
    blocks : iterable of Block
    dtype : torch.dtype
        Of weights and cache.
    device : torch.device
    packed : bool
        See `Linear`.
    """

    def __init__(
        self, blocks: Iterable[nn.Module], dtype: torch.dtype, device: torch.device, packed: bool = True
    ) -> None:
        self.blocks = [CachedBlock(cast(Block, block), dtype, device, packed) for block in blocks]

    @torch.no_grad()
    def prefill(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Run contexts (B, T, D) through the blocks.

        Returns
        -------
        (B, T, D), and the keys and values of each block, (B, heads, T, head_dim) each
        """
        keys_values = []
        rotate = self.blocks[0].rotation(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            q, k, v = (part.transpose(1, 2) for part in block.project(x, rotate))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            keys_values.append((k, v))
            x = block.finish(x, mixed.transpose(1, 2).flatten(2))
        return x, keys_values

    def extend(self, x: Tensor, caches: list[SharedPrefixCache], positions: Tensor, step: AppendStep) -> Tensor:
        """Append L tokens to each path.

        Parameters
        ----------
        x : (B, S, L, D)
        caches : one for each block
        positions : int64 (S, L) or (L,)
            Positions of the new tokens in their sequences.
        step : AppendStep

        Returns
        -------
        (B, S, L, D)
        """
        rotate = self.blocks[0].rotation(positions)
        for block, cache in zip(self.blocks, caches, strict=True):
            q, k, v = block.project(x, rotate)
            cache.append(k, v, step)
            x = block.finish(x, cache.attend(q, step))
        return x
