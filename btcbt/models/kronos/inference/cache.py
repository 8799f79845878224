"""The transformer with a key-value cache whose prefix is shared: many continuations of one context.

The S sample paths of an origin share its context. Its keys and values are computed once and stored once; each path
stores only those of the tokens that it generated. A query attends to both in one softmax: the scores against the
prefix are one matrix product with the paths folded into the query axis, those against the path's own tokens a
small one, side by side in one buffer. With a static step (`AppendStep.static`) shapes stay the same for a whole
generation, so that a step can be compiled.

For inference alone, RMSNorm weights are folded into the linear layer after them, the attention scale into the queries,
and the two halves of a rotary pair are placed side by side, so that rotation is a complex product.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from btcbt.models.kronos.inference.linear import Linear
from btcbt.models.kronos.network.layers import Block, inverse_frequencies
from btcbt.models.kronos.shapes import RMS_EPS


def rms(x: Tensor) -> Tensor:
    """RMSNorm without its weight."""
    return F.rms_norm(x, (x.shape[-1],), None, RMS_EPS)


def fold_norm(weight: Tensor, norm_weight: Tensor) -> Tensor:
    """Fold the weight of the norm before a linear layer into the layer's matrix (out, in)."""
    return weight * norm_weight


def rotation(positions: Tensor, head_dim: int) -> Tensor:
    """Unit complex numbers (..., head_dim / 2) that rotate the pairs at `positions` (...), from float32 angles."""
    angles = positions.float().unsqueeze(-1) * inverse_frequencies(head_dim).to(positions.device)
    return torch.polar(torch.ones_like(angles), angles)


def pair_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the outputs of each head from (first half, second half) to adjacent pairs, weights or biases."""
    heads = weight.unflatten(0, (n_heads, 2, -1))
    return heads.transpose(1, 2).flatten(0, 2)


@dataclass
class ScoreBuffers:
    """Buffers that all layers of a stack share: scores and probabilities, (B * heads, S * L, T + capacity)."""

    scores: Tensor
    probabilities: Tensor

    @classmethod
    def new(cls, groups: int, queries: int, keys: int, like: Tensor) -> ScoreBuffers:
        """Allocate; columns of tokens that do not exist yet hold minus infinity."""
        scores = torch.full((groups, queries, keys), -torch.inf, dtype=like.dtype, device=like.device)
        return cls(scores, torch.empty_like(scores))


@dataclass(frozen=True)
class AppendStep:
    """Cache slots of the newest L tokens of each path, and the path's own tokens that they may attend to.

    Attributes
    ----------
    slots : int64 (L,)
        Slots of the new tokens among the path's own.
    visible : int
        Number of slots that enter the attention: the filled ones, or all of them if the step is static.
    mask : (L, visible), or None
        Minus infinity where a new token must not attend; None if it may attend everywhere.
    """

    slots: Tensor
    visible: int
    mask: Tensor | None

    @classmethod
    def new(cls, length: int, n_new: int, capacity: int, like: Tensor) -> AppendStep:
        """The step that appends `n_new` tokens to `length`: `dynamic` on a CPU, `static` elsewhere."""
        return (cls.dynamic if like.device.type == "cpu" else cls.static)(length, n_new, capacity, like)

    @classmethod
    def dynamic(cls, length: int, n_new: int, capacity: int, like: Tensor) -> AppendStep:
        """Attends to the filled slots alone."""
        slots = torch.arange(length, length + n_new, device=like.device)
        visible = min(length + n_new, capacity)
        return cls(slots, visible, _causal_mask(slots, visible, like) if n_new > 1 else None)

    @classmethod
    def static(cls, length: int, n_new: int, capacity: int, like: Tensor) -> AppendStep:
        """Attends to all slots, the empty ones masked: every step has the same shapes, and one graph serves them."""
        slots = torch.arange(length, length + n_new, device=like.device)
        return cls(slots, capacity, _causal_mask(slots, capacity, like))


def _causal_mask(slots: Tensor, visible: int, like: Tensor) -> Tensor:
    """Minus infinity after each slot, (L, visible)."""
    later = torch.arange(visible, device=slots.device) > slots[:, None]
    return torch.zeros(later.shape, dtype=like.dtype, device=slots.device).masked_fill_(later, -torch.inf)


class SharedPrefixCache:
    """Keys and values of one attention layer: the prefix of each origin, and each path's own tokens.

    Parameters
    ----------
    keys, values : (B, heads, T, head_dim)
        Of the prefix.
    n_paths, capacity : int
        S, and how many tokens a path may append.
    hidden_keys : (S, T) bool, optional
        Prefix columns hidden from a path (anchored contexts end at different candles).
    """

    def __init__(
        self, keys: Tensor, values: Tensor, n_paths: int, capacity: int, hidden_keys: Tensor | None = None
    ) -> None:
        b, h, self.prefix, d = keys.shape
        self.keys, self.values = keys.flatten(0, 1), values.flatten(0, 1)
        self.own_keys = keys.new_zeros(b * h * n_paths, capacity, d)
        self.own_values = keys.new_zeros(b * h * n_paths, capacity, d)
        self.hidden_keys = hidden_keys

    def append(self, keys: Tensor, values: Tensor, step: AppendStep) -> None:
        """Add the keys and values (B, heads, S, L, head_dim) of the new tokens of each path."""
        self.own_keys.index_copy_(1, step.slots, keys.flatten(0, 2))
        self.own_values.index_copy_(1, step.slots, values.flatten(0, 2))

    def attend(self, query: Tensor, buffers: ScoreBuffers, step: AppendStep | None) -> Tensor:
        """Attention of the newest L tokens to the prefix and to their path up to themselves.

        Parameters
        ----------
        query : (B, heads, S, L, head_dim)
            Scaled and rotated.
        buffers : ScoreBuffers
        step : AppendStep, or None
            The newest one; None while paths have no tokens of their own.

        Returns
        -------
        (B, S, L, heads * head_dim)
        """
        b, h, s, length, d = query.shape
        t = self.prefix
        scores, probabilities = buffers.scores, buffers.probabilities
        folded = query.reshape(b * h, s * length, d)
        if torch.compiler.is_compiling():  # the compiler cannot trace a write into a view, and fuses the copy away
            scores[:, :, :t] = torch.bmm(folded, self.keys.transpose(1, 2))
        else:
            torch.bmm(folded, self.keys.transpose(1, 2), out=scores[:, :, :t])
        if self.hidden_keys is not None:
            view = scores.view(b, h, s, length, -1)[..., :t]
            view.masked_fill_(self.hidden_keys[:, None, :], -torch.inf)
        if step is not None:
            own = torch.bmm(query.reshape(b * h * s, length, d), self.own_keys[:, : step.visible].transpose(1, 2))
            if step.mask is not None:
                own += step.mask
            scores.view(b * h * s, length, -1)[:, :, t : t + step.visible] = own
        torch.softmax(scores, dim=-1, out=probabilities)
        mixed = torch.bmm(probabilities[:, :, :t], self.values)
        if step is not None:
            share = probabilities.view(b * h * s, length, -1)[:, :, t : t + step.visible]
            mixed += torch.bmm(share, self.own_values[:, : step.visible]).view_as(mixed)
        return mixed.view(b, h, s, length, d).permute(0, 2, 3, 1, 4).flatten(3)


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

    def project(self, x: Tensor, rotate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (..., heads, head_dim) of x (..., D), rotated by (..., 1, head_dim / 2)."""
        width = self.n_heads * self.head_dim
        qk, v = self.qkv(rms(x)).split((2 * width, width), dim=-1)
        pairs = torch.view_as_complex(qk.float().unflatten(-1, (2 * self.n_heads, -1, 2)))
        qk = torch.view_as_real(pairs * rotate).flatten(-2).type_as(x)
        q, k = qk.chunk(2, dim=-2)
        return q, k, v.unflatten(-1, (self.n_heads, -1))

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Residual of the attention, then the gated feed-forward with its residual."""
        x = self.out(mixed, other=x)
        normed = rms(x)
        gated = self.up(normed, other=self.gate(normed, silu=True), combine="mul")
        return self.down(gated, other=x)


class CachedStack:
    """Inference form of a list of blocks: `prefill` a context, then `extend` its paths.

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

    def prefill(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Run contexts (B, T, D) through the blocks.

        Returns
        -------
        (B, T, D), and the keys and values of each block, (B, heads, T, head_dim) each
        """
        keys_values = []
        rotate = rotation(torch.arange(x.shape[1], device=x.device), self.blocks[0].head_dim)[:, None]
        for block in self.blocks:
            q, k, v = (part.transpose(1, 2).contiguous() for part in block.project(x, rotate))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            keys_values.append((k, v))
            x = block.finish(x, mixed.transpose(1, 2).flatten(2))
        return x, keys_values

    def extend(
        self, x: Tensor, caches: list[SharedPrefixCache], positions: Tensor, buffers: ScoreBuffers, step: AppendStep
    ) -> Tensor:
        """Append L tokens to each path.

        Parameters
        ----------
        x : (B, S, L, D)
        caches : one for each block
        positions : int64 (S, L) or (L,)
            Positions of the new tokens in their sequences.
        buffers : ScoreBuffers
            For S * L queries.
        step : AppendStep

        Returns
        -------
        (B, S, L, D)
        """
        rotate = rotation(positions, self.blocks[0].head_dim).unsqueeze(-2)
        for block, cache in zip(self.blocks, caches, strict=True):
            q, k, v = (part.permute(0, 3, 1, 2, 4) for part in block.project(x, rotate))
            cache.append(k, v, step)
            x = block.finish(x, cache.attend(q.contiguous(), buffers, step))
        return x
