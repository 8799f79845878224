"""The kernels of training against the plain network, values and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.network.layers import Attention, Rotary
from btcbt.models.kronos.training.kernels import (
    QUERY_BLOCKS,
    BlockedAttention,
    FusedRotary,
    PackedLinear,
    use_training_kernels,
)
from btcbt.models.kronos.training.lora import add_adapters
from btcbt.models.kronos.training.recipe import FinetuneConfig, Lora
from btcbt.models.kronos.training.start import load_starting_weights


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
    layer = PackedLinear(64, 48, bias=bias)
    x = torch.randn(4, 96, 64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    fast, slow = layer(x), F.linear(x, layer.weight, layer.bias)
    same([fast, *gradients(fast, *inputs)], [slow, *gradients(slow, *inputs)])
    if torch.backends.mkldnn.is_available():
        assert "PackedProduct" in type(fast.grad_fn).__name__


def test_a_packed_product_works_on_views_and_frozen_weights():
    layer = PackedLinear(64, 48).requires_grad_(False)
    x = torch.randn(4, 64, 96, requires_grad=True).transpose(1, 2)
    same(gradients(layer(x), x), gradients(F.linear(x, layer.weight, layer.bias), x))


def test_without_gradients_or_under_autocast_a_layer_is_torch_s_own():
    layer = PackedLinear(64, 48)
    x = torch.randn(4, 96, 64)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert isinstance(layer, nn.Linear)


@pytest.mark.parametrize("length", [QUERY_BLOCKS, 37, 128])
def test_attention_in_blocks_is_attention(length):
    q, k, v = (torch.randn(2, length, 3, 8).transpose(1, 2).requires_grad_() for _ in range(3))
    fast, slow = (
        BlockedAttention(24, 3).mix(q, k, v, causal=True),
        F.scaled_dot_product_attention(q, k, v, is_causal=True),
    )
    assert "InBlocks" in type(fast.grad_fn).__name__
    same([fast, *gradients(fast, q, k, v)], [slow, *gradients(slow, q, k, v)])


def test_attention_sees_nothing_later():
    q, k, v = (torch.randn(1, 2, 40, 8, requires_grad=True) for _ in range(3))
    out = BlockedAttention(16, 2).mix(q, k, v, causal=True)[:, :, :25]
    for gradient in gradients(out, k, v):
        assert not gradient[:, :, 25:].any()


def test_dropout_goes_to_torch_s_kernel():
    attention = BlockedAttention(32, 2, attn_dropout_p=0.5).train()
    x = torch.randn(1, 16, 32)
    assert not torch.equal(attention(x, x), attention(x, x))


@pytest.mark.parametrize("kind", [Rotary, FusedRotary])
def test_rotation_and_its_gradient_are_those_of_its_parts(kind):
    rotary = kind(8)
    x = torch.randn(2, 3, 20, 8, requires_grad=True)
    angles = torch.outer(torch.arange(20.0), rotary.inv_freq)
    first, second = x.chunk(2, -1)
    slow = torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), -1)
    fast = rotary(x)
    same([fast, *gradients(fast, x)], [slow, *gradients(slow, x)])


def test_a_network_on_training_kernels_is_the_plain_one_with_the_same_parameters(model_config, tokenizer_config):
    for kind, config in ((Kronos, model_config), (KronosTokenizer, tokenizer_config)):
        plain = kind(config)
        fast = use_training_kernels(copy.deepcopy(plain))
        assert list(fast.state_dict()) == list(plain.state_dict())
        assert [type(layer) for layer in fast.modules()].count(PackedLinear) > 0
        assert not any(type(layer) in (nn.Linear, Rotary, Attention) for layer in fast.modules())
        if kind is Kronos:
            ids = torch.randint(32, (3, 2, 40))
            inputs = (ids[0], ids[1], torch.ones(2, 40, 5, dtype=torch.long), ids[2])
        else:
            inputs = (torch.randn(2, 40, 6),)
        with torch.no_grad():
            for a, b in zip(fast(*inputs), plain(*inputs), strict=True):
                assert torch.equal(a, b)
        gradients_of = []
        for network in (fast, plain):
            sum(part.float().mean() for part in network(*inputs)[:3]).backward()
            gradients_of.append([p.grad for p in network.parameters() if p.grad is not None])
        same(*gradients_of)


def test_a_fit_starts_on_the_training_kernels_and_adapters_do_not(pair, tmp_path):
    pytest.importorskip("peft")
    start = load_starting_weights(
        FinetuneConfig.model_validate(
            {
                "name": "tiny", "candles": ["a"], "window": 32, "context": [12, 20], "start": {"model": str(pair)},
                "train": {"start": "2019-01-01", "end": "2019-01-15"},
                "select": {"start": "2019-01-15", "end": "2019-01-20"},
                "model": {"steps": 1}, "output": str(tmp_path / "out"),
            }
        )
    )  # fmt: skip
    for network in (start.tokenizer, start.model):
        assert not any(type(layer) in (nn.Linear, Rotary, Attention) for layer in network.modules())
    add_adapters(start.model, Lora(rank=2), 0)
    kinds = {type(layer) for name, layer in start.model.named_modules() if "lora_A." in name}
    assert kinds == {nn.Linear}
