"""The fast paths of training against their slow twins, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from btcbt.models.kronos.network.attention import BLOCKS, causal_attention
from btcbt.models.kronos.network.layers import Attention, Rotary
from btcbt.models.kronos.network.linear import TrainedLinear


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def gradients(output, *inputs):
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return torch.autograd.grad((output * weights).sum(), inputs)


def same(fast, slow):
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_product_is_a_linear_layer(bias):
    layer = TrainedLinear(64, 48, bias=bias)
    x = torch.randn(4, 96, 64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    fast, slow = layer(x), F.linear(x, layer.weight, layer.bias)
    same([fast, *gradients(fast, *inputs)], [slow, *gradients(slow, *inputs)])
    if torch.backends.mkldnn.is_available():
        assert "PackedProduct" in type(fast.grad_fn).__name__


def test_a_packed_product_works_on_views_and_frozen_weights():
    layer = TrainedLinear(64, 48).requires_grad_(False)
    x = torch.randn(4, 64, 96, requires_grad=True).transpose(1, 2)
    same(gradients(layer(x), x), gradients(F.linear(x, layer.weight, layer.bias), x))


def test_without_gradients_or_under_autocast_a_layer_is_torch_s_own():
    layer = TrainedLinear(64, 48)
    x = torch.randn(4, 96, 64)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert isinstance(layer, nn.Linear)


@pytest.mark.parametrize("length", [BLOCKS, 37, 128])
def test_attention_in_blocks_is_attention(length):
    q, k, v = (torch.randn(2, length, 3, 8).transpose(1, 2).requires_grad_() for _ in range(3))
    fast, slow = causal_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert "Blocked" in type(fast.grad_fn).__name__
    same([fast, *gradients(fast, q, k, v)], [slow, *gradients(slow, q, k, v)])


def test_attention_sees_nothing_later():
    q, k, v = (torch.randn(1, 2, 40, 8, requires_grad=True) for _ in range(3))
    out = causal_attention(q, k, v)[:, :, :25]
    for gradient in gradients(out, k, v):
        assert not gradient[:, :, 25:].any()


def test_dropout_goes_to_torch_s_kernel():
    attention = Attention(32, 2, attn_dropout_p=0.5).train()
    x = torch.randn(1, 16, 32)
    assert not torch.equal(attention(x, x), attention(x, x))


def test_rotation_and_its_gradient_are_those_of_its_parts():
    rotary = Rotary(8)
    x = torch.randn(2, 3, 20, 8, requires_grad=True)
    angles = torch.outer(torch.arange(20.0), rotary.inv_freq)
    first, second = x.chunk(2, -1)
    slow = torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), -1)
    fast = rotary(x)
    same([fast, *gradients(fast, x)], [slow, *gradients(slow, x)])
