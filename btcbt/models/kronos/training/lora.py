"""Low-rank adapters (Hu et al., 2021) through `peft`: few weights are trained, and merged at the end."""

from __future__ import annotations

import torch
from torch import nn

from btcbt.errors import ConfigError
from btcbt.models.kronos.training.recipe import Lora


def add_adapters(model: nn.Module, settings: Lora, seed: int) -> None:
    """Add adapters to some linear layers of a model, in place; all other weights are frozen.

    Raises
    ------
    ConfigError
        If peft is not installed, or no linear layer has one of the names.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError("lora needs peft: pip install 'btcbt[train]'") from None
    linear = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    unknown = [name for name in settings.targets if name not in linear]
    if unknown:  # peft ignores an unknown name beside a known one, and would also adapt embeddings
        raise ConfigError(f"lora.targets {unknown}: no linear layer has that name; choose from {sorted(linear)}")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
    )
    torch.manual_seed(seed)
    inject_adapter_in_model(config, model)


def merge_adapters(model: nn.Module) -> None:
    """Merge the adapters into the weights and remove them, so that the model has its own keys again."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
