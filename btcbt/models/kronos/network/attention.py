"""Causal self-attention for training: in blocks of queries on the CPU, torch's fused kernel elsewhere.

The fused kernel of the CPU recomputes the probabilities for the gradient. At the lengths that Kronos trains on it is
faster to keep them and to leave out most of what the mask hides: a block of queries meets only the keys up to its end.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCKS = 4
LONGEST = 1024
"""Tokens up to which probabilities are kept: their memory grows with the square."""


def causal_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """Mix values (B, heads, T, head_dim), each token seeing itself and those before it."""
    blocked = (
        torch.is_grad_enabled()
        and query.device.type == "cpu"
        and query.dtype == torch.float32
        and query.shape == key.shape
        and BLOCKS <= query.shape[2] <= LONGEST
        and dropout == 0.0
    )
    if blocked:
        mixed: Tensor = _Blocked.apply(query, key, value)
        return mixed
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)


class _Blocked(torch.autograd.Function):
    """Softmax attention with its probabilities kept, block of queries by block of queries."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape, scale = query.shape, query.shape[-1] ** -0.5
        q, k, v = (x.reshape(-1, *shape[2:]) for x in (query, key, value))
        mask = torch.full((shape[2], shape[2]), -torch.inf).triu_(1)
        mixed, kept = torch.empty_like(q), []
        for start, end in _bounds(shape[2]):
            scores = torch.baddbmm(mask[start:end, :end], q[:, start:end], k[:, :end].transpose(1, 2), alpha=scale)
            probabilities = torch.softmax(scores, dim=-1)
            mixed[:, start:end] = torch.bmm(probabilities, v[:, :end])
            kept.append(probabilities)
        ctx.save_for_backward(q, k, v, *kept)
        return mixed.view(shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *kept = ctx.saved_tensors
        shape, scale = gradient.shape, q.shape[-1] ** -0.5
        g = gradient.reshape(q.shape)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, end), p in zip(_bounds(q.shape[1]), kept, strict=True):
            block = g[:, start:end]
            dv[:, :end].baddbmm_(p.transpose(1, 2), block)
            dp = torch.bmm(block, v[:, :end].transpose(1, 2))
            ds = torch._softmax_backward_data(dp, p, -1, torch.float32)
            dq[:, start:end] = torch.bmm(ds, k[:, :end]) * scale
            dk[:, :end].baddbmm_(ds.transpose(1, 2), q[:, start:end], alpha=scale)
        return dq.view(shape), dk.view(shape), dv.view(shape)


def _bounds(length: int) -> list[tuple[int, int]]:
    """Where blocks of about equal size begin and end."""
    cuts = [length * i // BLOCKS for i in range(BLOCKS + 1)]
    return list(pairwise(cuts))
