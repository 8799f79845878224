"""Kernels for training: the layers of `btcbt.models.kronos.network` with faster products, attention and rotation.

`use_training_kernels` switches a network over in place. Each class here is a layer of the plain network with another
way to compute the same function; parameters, their names and every value without gradients are those of the plain
layer. The tests compare values and gradients with it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from btcbt.models.kronos.inference.linear import can_pack, pack, packed_product
from btcbt.models.kronos.network.layers import Attention, Rotary

MIN_PACKED_NUMBERS = 1 << 14
"""Numbers in an input from which packing the weight pays off."""
QUERY_BLOCKS = 4
MAX_BLOCKED_TOKENS = 1024
"""Longest sequence whose attention probabilities are kept for the gradient: their memory grows with the square."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def use_training_kernels(network: ModuleT) -> ModuleT:
    """Switch the layers of a network to their training kernels, in place, and return it.

    Parameters stay the same objects under the same names. Only plain layers are switched, so adapters that are added
    later (`btcbt.models.kronos.training.lora`) keep torch's own kernels.
    """
    for layer in network.modules():
        kernel = _KERNELS.get(type(layer))
        if kernel is not None:
            layer.__class__ = kernel  # as torch's fully_shard does: state and hooks stay, `forward` changes
    return network


class PackedLinear(nn.Linear):
    """A linear layer that uses oneDNN's packed kernels while gradients are recorded, in float32 on the CPU.

    The weight is packed anew at each use, which costs little next to a batch of tokens. The gradient of the weight
    stays with the default kernels: both of its factors would have to be transposed first, which costs what is gained.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        trains = torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        if trains and x.dtype == torch.float32 and x.numel() >= MIN_PACKED_NUMBERS and can_pack(self.weight):
            product: Tensor = _PackedProduct.apply(x, self.weight, self.bias)
            return product
        return F.linear(x, self.weight, self.bias)


class _PackedProduct(torch.autograd.Function):
    """``x W^T + b`` and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return packed_product(x.contiguous(), pack(weight), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        dx = packed_product(gradient.contiguous(), pack(weight.t()), None) if ctx.needs_input_grad[0] else None
        dw = flat.t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        db = flat.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None
        return dx, dw, db


class FusedRotary(Rotary):
    """Rotary positions whose gradient is the inverse rotation: fewer passes over memory than autograd makes."""

    def forward(self, x: Tensor) -> Tensor:
        """Rotate (..., T, head_dim); see `Rotary.forward`."""
        rotated: Tensor = _Rotation.apply(x, *self.angles(x))
        return rotated


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gradient, cos, -sin), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs as the plain layer does, written into one tensor of the layout of `x`."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.empty_like(x)
    left, right = rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return rotated


class BlockedAttention(Attention):
    """Attention in blocks of queries on the CPU, torch's fused kernel elsewhere.

    The fused kernel of the CPU recomputes the probabilities for the gradient. At the lengths that Kronos trains on it
    is faster to keep them and to skip most of what the mask hides: a block of queries meets only the keys up to its
    end.
    """

    def mix(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        """Mix values (B, heads, T, head_dim); see `Attention.mix`."""
        blocked = (
            causal
            and torch.is_grad_enabled()
            and query.device.type == "cpu"
            and query.dtype == torch.float32
            and query.shape == key.shape
            and QUERY_BLOCKS <= query.shape[2] <= MAX_BLOCKED_TOKENS
            and not (self.training and self.attn_dropout_p)
        )
        if blocked:
            mixed: Tensor = _CausalInBlocks.apply(query, key, value)
            return mixed
        return super().mix(query, key, value, causal=causal)


class _CausalInBlocks(torch.autograd.Function):
    """Causal softmax attention that keeps its probabilities, block of queries by block of queries."""

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
    """Start and end of blocks of about equal size."""
    cuts = [length * i // QUERY_BLOCKS for i in range(QUERY_BLOCKS + 1)]
    return list(pairwise(cuts))


_KERNELS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: PackedLinear,
    Rotary: FusedRotary,
    Attention: BlockedAttention,
}
