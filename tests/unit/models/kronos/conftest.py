from __future__ import annotations

import pytest
import torch

from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.checkpoints.files import describe_pair, write_data_ranges
from btcbt.models.kronos.shapes import ModelConfig, TokenizerConfig
from btcbt.records import DataRange


def sharpen(module, factor):
    """Random networks are nearly uniform; larger weights make their tokens depend on their inputs."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(factor)


@pytest.fixture(scope="session")
def tokenizer_config():
    return TokenizerConfig(
        d_in=6, d_model=32, n_heads=2, ff_dim=48, n_enc_layers=3, n_dec_layers=3, ffn_dropout_p=0.0,
        attn_dropout_p=0.0, resid_dropout_p=0.0, s1_bits=5, s2_bits=5, beta=0.05, gamma0=1.0, gamma=1.1,
        zeta=0.05, group_size=5,
    )  # fmt: skip


@pytest.fixture(scope="session")
def model_config():
    return ModelConfig(
        s1_bits=5, s2_bits=5, n_layers=2, d_model=32, n_heads=2, ff_dim=48, ffn_dropout_p=0.0,
        attn_dropout_p=0.0, resid_dropout_p=0.0, token_dropout_p=0.0, learn_te=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(tokenizer_config):
    torch.manual_seed(1)
    module = KronosTokenizer(tokenizer_config).eval()
    sharpen(module, 1.7)
    return module


@pytest.fixture(scope="session")
def model(model_config):
    torch.manual_seed(2)
    module = Kronos(model_config).eval()
    sharpen(module, 1.3)
    return module


@pytest.fixture
def pair(tmp_path, tokenizer, model):
    """A tiny pair on disk that declares its ranges."""
    root = tmp_path / "parent"
    tokenizer.save_pretrained(root / "tokenizer")
    model.save_pretrained(root / "model")
    describe_pair(root)
    write_data_ranges(root, (DataRange("pretraining", 0, 1_000), DataRange("selection", 1_000, 2_000)))
    return root
