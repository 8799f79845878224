"""The networks that a fit starts from: new ones or those of checkpoints, with the candles that these have looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch

from btcbt.errors import CheckpointError, ConfigError
from btcbt.models.kronos.checkpoints.locate import UNDECLARED, pair_ranges
from btcbt.models.kronos.network.model import CALENDAR, Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.shapes import MODELS, TOKENIZERS, ModelConfig, TokenizerConfig
from btcbt.models.kronos.training.kernels import use_training_kernels
from btcbt.models.kronos.training.recipe import FinetuneConfig, ModelShape, TokenizerShape
from btcbt.records import DataRange

_TOKENIZER_OF: Mapping[str, Literal["nano", "base", "2k"]] = {
    "nano": "nano",
    "mini": "2k",
    "small": "base",
    "base": "base",
}
ShapeT = TypeVar("ShapeT", ModelConfig, TokenizerConfig)


class StartingWeights(NamedTuple):
    """Both networks before the first step, on the training kernels, and the candles that they have looked at."""

    tokenizer: KronosTokenizer
    model: Kronos
    ranges: tuple[DataRange, ...]


def load_starting_weights(config: FinetuneConfig) -> StartingWeights:
    """Build or load the networks of a recipe; new weights are drawn from its seed.

    Raises
    ------
    CheckpointError
        If a checkpoint is missing, broken, or of another shape than the recipe's sizes say.
    ConfigError
        If tokenizer and model have different numbers of bits.
    """
    torch.manual_seed(config.seed)
    tokenizer = _tokenizer(config)
    model = _model(config)
    bits = [(part.config.s1_bits, part.config.s2_bits) for part in (tokenizer, model)]
    if bits[0] != bits[1]:
        raise ConfigError(
            f"recipe '{config.name}': the tokenizer has {bits[0][0]} + {bits[0][1]} bits, the model {bits[1][0]} + "
            f"{bits[1][1]}; choose sizes or checkpoints that belong together"
        )
    ranges = pair_ranges(config.start.model, config.start.tokenizer)
    declared = (UNDECLARED,) if ranges is None else ranges
    return StartingWeights(use_training_kernels(tokenizer), use_training_kernels(model), declared)


def freeze_calendar(model: Kronos, trained: Sequence[str], *, zero: bool) -> None:
    """Freeze the calendar tables that are not trained: a few seasons teach nothing about months.

    `zero` sets them to zero, for new networks; a checkpoint's tables stay as they are. Fixed tables are never trained.
    """
    for (name, _), table in zip(CALENDAR, model.time_emb.tables(), strict=True):
        if name not in trained:
            if zero:
                torch.nn.init.zeros_(table)
            table.requires_grad_(False)


def _tokenizer(config: FinetuneConfig) -> KronosTokenizer:
    checkpoint, size = config.start.tokenizer or config.start.model, config.tokenizer_size
    if checkpoint is None:
        size = size or TokenizerShape(like=_TOKENIZER_OF[config.size.like if config.size else "nano"])
        return KronosTokenizer(_shape(config, "tokenizer_size", size, TOKENIZERS))
    tokenizer = KronosTokenizer.from_pretrained(checkpoint)
    if size is not None:
        wanted = _shape(config, "tokenizer_size", size, TOKENIZERS)
        _require_shape(checkpoint, "tokenizer_size", tokenizer.config, wanted)
    return tokenizer


def _model(config: FinetuneConfig) -> Kronos:
    if config.start.model is None:
        shape = _shape(config, "size", config.size or ModelShape(), MODELS)
        model = Kronos(_with_dropout(shape, config.dropout))
    else:
        loaded = Kronos.from_pretrained(config.start.model)
        if config.size is not None:
            _require_shape(config.start.model, "size", loaded.config, _shape(config, "size", config.size, MODELS))
        model = Kronos(_with_dropout(loaded.config, config.dropout))
        model.load_state_dict(loaded.state_dict())
    freeze_calendar(model, config.calendar, zero=config.start.model is None)
    return model


def _shape(config: FinetuneConfig, key: str, size: ModelShape | TokenizerShape, named: Mapping[str, ShapeT]) -> ShapeT:
    like = named[size.like]
    return type(like).from_dict(like.to_dict() | size.changes, f"recipe '{config.name}', {key}")


def _with_dropout(shape: ModelConfig, rate: float) -> ModelConfig:
    return dataclasses.replace(shape, ffn_dropout_p=rate, resid_dropout_p=rate, token_dropout_p=rate)


def _require_shape(checkpoint: str, key: str, found: ShapeT, expected: ShapeT) -> None:
    """Compare the whole numbers of two shapes; dropout and the weights of losses may differ."""
    for name, wanted in expected.to_dict().items():
        got = found.to_dict()[name]
        if isinstance(wanted, int) and got != wanted:
            raise CheckpointError(
                f"{checkpoint}: its {name} is {got}, but the recipe's {key} has {wanted}; correct '{key}' or leave it "
                "out, or start from another checkpoint"
            )
