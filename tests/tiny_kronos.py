"""A small random pair of networks on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.checkpoints.files import describe_pair, write_data_ranges
from btcbt.models.kronos.shapes import ModelConfig, TokenizerConfig
from btcbt.records import DataRange

_SHAPE = {"d_model": 32, "n_heads": 2, "ff_dim": 48, "s1_bits": 5, "s2_bits": 5}
_NO_DROPOUT = {"ffn_dropout_p": 0.0, "attn_dropout_p": 0.0, "resid_dropout_p": 0.0}
_CODER = {"d_in": 6, "n_enc_layers": 3, "n_dec_layers": 3, "beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05}


def save_tiny(folder: Path, ranges: tuple[DataRange, ...] | None = (DataRange("pretraining", 0, 1_000),)) -> Path:
    """Write a pair whose tokens depend on what it is given, and what it declares to have looked at."""
    torch.manual_seed(0)
    tokenizer = KronosTokenizer(TokenizerConfig(**_SHAPE, **_NO_DROPOUT, **_CODER, group_size=5))
    model = Kronos(ModelConfig(**_SHAPE, **_NO_DROPOUT, n_layers=2, token_dropout_p=0.0, learn_te=True))
    for module in (tokenizer, model):
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(1.5)
    tokenizer.save_pretrained(folder / "tokenizer")
    model.save_pretrained(folder / "model")
    describe_pair(folder)
    write_data_ranges(folder, ranges)
    return folder
