"""Small random checkpoints of the networks that return quantiles, made by their own packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from scipy.special import ndtri
from torch import nn

PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SPREAD = torch.tensor(ndtri(PROBABILITIES), dtype=torch.float32)
CONTEXT = 256
"""Most candles that they take."""


def _spread(head: nn.Module, steps: int) -> None:
    """Let a random head return increasing quantiles: small weights, and biases with the quantiles of a normal."""
    with torch.no_grad():
        for layer in (head.residual_layer, head.output_layer):
            layer.weight.mul_(0.002 / layer.weight.std())
            layer.bias.copy_(SPREAD.repeat_interleave(steps) / 2)


def _spread_without_bias(head: nn.Module, steps: int) -> None:
    """The same for heads without biases: silu(z) + silu(-z) is positive, and the sum of these is the spread."""
    half = head.hidden_dims // 2
    levels = torch.cat((torch.zeros(1), SPREAD)).repeat(steps)
    with torch.no_grad():
        head.input_layer.weight[:half] /= head.input_layer.weight[:half].std()
        head.input_layer.weight[half:] = -head.input_layer.weight[:half]
        head.output_layer.weight.copy_(levels[:, None].expand(-1, head.hidden_dims) / half)
        head.residual_layer.weight.zero_()


def save_chronos_bolt(folder: Path) -> Path:
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    chronos = {"context_length": CONTEXT, "prediction_length": 32, "input_patch_size": 8, "input_patch_stride": 8}
    torch.manual_seed(1)
    shape = T5Config(
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    shape.chronos_config = {**chronos, "quantiles": list(PROBABILITIES), "use_reg_token": True}
    model = ChronosBoltModelForForecasting(shape)
    _spread(model.output_patch_embedding, 32)
    model.save_pretrained(folder)
    return folder


def save_chronos_2(folder: Path) -> Path:
    from chronos.chronos2 import Chronos2Model
    from chronos.chronos2.config import Chronos2CoreConfig

    torch.manual_seed(2)
    chronos = {
        "context_length": CONTEXT,
        "output_patch_size": 8,
        "input_patch_size": 8,
        "input_patch_stride": 8,
        "quantiles": list(PROBABILITIES),
        "use_reg_token": True,
        "use_arcsinh": True,
        "max_output_patches": 4,
    }
    shape = Chronos2CoreConfig(
        d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0, chronos_config=chronos
    )
    shape.initializer_factor = 1.0
    model = Chronos2Model(shape)
    _spread(model.output_patch_embedding, 8)
    model.save_pretrained(folder)
    return folder


def save_timesfm(folder: Path) -> Path:
    from transformers import TimesFm2_5Config, TimesFm2_5ModelForPrediction

    torch.manual_seed(3)
    shape = TimesFm2_5Config(
        patch_length=16,
        context_length=CONTEXT,
        horizon_length=32,
        output_quantile_len=32,
        num_hidden_layers=1,
        hidden_size=16,
        intermediate_size=16,
        head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = TimesFm2_5ModelForPrediction(shape)
    _spread_without_bias(model.output_projection_point, 32)
    _spread_without_bias(model.output_projection_quantiles, 32)
    model.save_pretrained(folder)
    return folder


SAVERS: Mapping[str, Callable[[Path], Path]] = {
    "chronos_bolt": save_chronos_bolt,
    "chronos_2": save_chronos_2,
    "timesfm": save_timesfm,
}
