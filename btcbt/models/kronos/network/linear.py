"""Linear layers on oneDNN's packed kernels on the CPU, plain elsewhere: packed once for inference, anew in training.

On AVX-512 processors oneDNN's packed float32 kernels run at 1.2 to 2.3 times the speed of the default ones, and
fuse the activation, the gate or the residual into the product. Everything that is particular to that backend is
in this file; without it `Linear` computes the same with `torch.nn.functional`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MANY = 1 << 14
"""Numbers of an input from which on packing the weight pays."""


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN can hold this weight packed."""
    return (
        weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class Linear:
    """``act(x W^T + b)``, optionally added to or multiplied with another tensor.

    Parameters
    ----------
    weight : (out, in)
        Copied into the backend's layout.
    bias : (out,), optional
    packed : bool
        False forces the plain path (the tests' slow twin).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True) -> None:
        self.bias = bias
        self.packed = packed and _packs(weight)
        weight = weight.contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight

    def __call__(
        self,
        x: Tensor,
        *,
        silu: bool = False,
        other: Tensor | None = None,
        combine: Literal["add", "mul"] = "add",
    ) -> Tensor:
        """Map (..., in) to (..., out); `other` (..., out) is added or multiplied in after the product."""
        if self.packed:
            if other is not None:
                return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, combine)
            kind = "swish" if silu else "none"
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, kind, [], "")
        y = F.linear(x, self.weight, self.bias)
        if silu:
            y = F.silu(y)
        if other is not None:
            y = y + other if combine == "add" else y * other
        return y


class TrainedLinear(nn.Linear):
    """A linear layer whose products run on the packed kernels while gradients are wanted, in float32 on the CPU.

    The weight is packed anew at each use, which costs little beside a batch of tokens. The gradient of the weight stays
    with the default kernels: its two factors would have to be turned round first, which costs what is gained.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        trains = torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        if trains and x.dtype == torch.float32 and x.numel() >= _MANY and _packs(self.weight):
            product: Tensor = _PackedProduct.apply(x, self.weight, self.bias)
            return product
        return F.linear(x, self.weight, self.bias)


class _PackedProduct(torch.autograd.Function):
    """``x W^T + b`` and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        dx = _product(gradient, weight.t(), None) if ctx.needs_input_grad[0] else None
        dw = flat.t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        db = flat.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None
        return dx, dw, db


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")
    return product
