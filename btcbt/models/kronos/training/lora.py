"""Low-rank adapters (Hu et al., 2021) through `peft`: few weights are trained, and then added to those they adapt."""

from __future__ import annotations

import torch
from torch import nn

from btcbt.errors import ConfigError
from btcbt.models.kronos.training.recipe import Lora


def add_adapters(model: nn.Module, settings: Lora, seed: int) -> None:
    """Put adapters on some linear layers of a model, in place; all other weights are frozen.

    Raises
    ------
    ConfigError
        If peft is not installed, or one of the names is that of no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError("lora needs peft: pip install 'btcbt[train]'") from None
    linear = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    unknown = [name for name in settings.targets if name not in linear]
    if unknown:  # peft passes over a name that it does not find beside one that it does, and adapts embeddings
        raise ConfigError(f"lora.targets {unknown}: no linear layer is called that; choose from {sorted(linear)}")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
    )
    torch.manual_seed(seed)
    inject_adapter_in_model(config, model)


def merge_adapters(model: nn.Module) -> None:
    """Add what the adapters learned to the weights below, and take them off: the model has its own keys again."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
