"""Kronos for Hugging Face's transformers: Auto classes, a dataset for `Trainer`, and prediction in one call."""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """Register Kronos with `AutoConfig`, `AutoTokenizer` and `AutoModelForCausalLM`; calling it again changes nothing.

    `import btcbt.hf` calls it. It is a call of the user's because transformers reads no entry points of installed
    packages, and because its other way, `register_for_auto_class`, copies a class's source beside each saved checkpoint
    (``auto_map``) and runs it from there on loading with ``trust_remote_code``; a checkpoint of btcbt is data alone.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from btcbt.models.kronos.hf.auto import (
        KronosAutoTokenizer,
        KronosForCausalLM,
        KronosHFConfig,
        KronosTokenizerHFConfig,
    )

    for config in (KronosHFConfig, KronosTokenizerHFConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoTokenizer.register(config, KronosAutoTokenizer, exist_ok=True)
    AutoModelForCausalLM.register(KronosHFConfig, KronosForCausalLM, exist_ok=True)
