"""The networks that a fit begins with: new ones, or those of checkpoints, with what these have looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch

from btcbt.errors import CheckpointError, ConfigError
from btcbt.models.kronos.checkpoints.locate import UNDECLARED, find_model, find_tokenizer, pair_ranges
from btcbt.models.kronos.network.model import CALENDAR, Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.shapes import MODELS, TOKENIZERS, ModelConfig, TokenizerConfig
from btcbt.models.kronos.training.recipe import FinetuneConfig, ModelShape, TokenizerShape
from btcbt.records import DataRange

_TOKENIZER_OF: Mapping[str, Literal["nano", "base", "2k"]] = {
    "nano": "nano",
    "mini": "2k",
    "small": "base",
    "base": "base",
}
ShapeT = TypeVar("ShapeT", ModelConfig, TokenizerConfig)


class Beginning(NamedTuple):
    """Both networks as they are before the first step, and the candles that have already shaped them."""

    tokenizer: KronosTokenizer
    model: Kronos
    ranges: tuple[DataRange, ...]


def begin(config: FinetuneConfig) -> Beginning:
    """Build or load the networks of a recipe; new weights are drawn from its seed.

    Raises
    ------
    CheckpointError
        If a checkpoint is missing, broken, or of another shape than the recipe's sizes say.
    ConfigError
        If tokenizer and model have not the same bits.
    """
    torch.manual_seed(config.seed)
    tokenizer = _tokenizer(config)
    model = _model(config)
    bits = [(part.config.s1_bits, part.config.s2_bits) for part in (tokenizer, model)]
    if bits[0] != bits[1]:
        raise ConfigError(
            f"recipe '{config.name}': the tokenizer has {bits[0][0]} + {bits[0][1]} bits, the model {bits[1][0]} + "
            f"{bits[1][1]}; name sizes or checkpoints that belong together"
        )
    ranges = pair_ranges(config.start.model, config.start.tokenizer)
    return Beginning(tokenizer, model, (UNDECLARED,) if ranges is None else ranges)


def freeze_calendar(model: Kronos, trained: Sequence[str], *, zero: bool) -> None:
    """Freeze the calendar tables that are not trained: a few seasons teach nothing about months.

    `zero` is for new networks; a checkpoint's tables stay what they are.
    """
    for (name, _), table in zip(CALENDAR, model.time_emb.tables(), strict=True):
        if name not in trained:
            if zero:
                torch.nn.init.zeros_(table)
            table.requires_grad_(False)


def _tokenizer_place(config: FinetuneConfig) -> str | None:
    return config.start.tokenizer or config.start.model


def _tokenizer(config: FinetuneConfig) -> KronosTokenizer:
    place, size = _tokenizer_place(config), config.tokenizer_size
    if place is None:
        size = size or TokenizerShape(like=_TOKENIZER_OF[config.size.like if config.size else "nano"])
        return KronosTokenizer(_shape(config, "tokenizer_size", size, TOKENIZERS))
    tokenizer = KronosTokenizer.from_pretrained(find_tokenizer(place))
    if size is not None:
        _same_shape(place, "tokenizer_size", tokenizer.config, _shape(config, "tokenizer_size", size, TOKENIZERS))
    return tokenizer


def _model(config: FinetuneConfig) -> Kronos:
    if config.start.model is None:
        shape = _shape(config, "size", config.size or ModelShape(), MODELS)
        model = Kronos(_with_dropout(shape, config.dropout))
    else:
        loaded = Kronos.from_pretrained(find_model(config.start.model))
        if config.size is not None:
            _same_shape(config.start.model, "size", loaded.config, _shape(config, "size", config.size, MODELS))
        model = Kronos(_with_dropout(loaded.config, config.dropout))
        model.load_state_dict(loaded.state_dict())
    freeze_calendar(model, config.calendar, zero=config.start.model is None)
    return model


def _shape(config: FinetuneConfig, key: str, size: ModelShape | TokenizerShape, named: Mapping[str, ShapeT]) -> ShapeT:
    like = named[size.like]
    return type(like).from_dict(like.to_dict() | size.changes, f"recipe '{config.name}', {key}")


def _with_dropout(shape: ModelConfig, rate: float) -> ModelConfig:
    return dataclasses.replace(shape, ffn_dropout_p=rate, resid_dropout_p=rate, token_dropout_p=rate)


def _same_shape(place: str, key: str, found: ShapeT, expected: ShapeT) -> None:
    """Dropout and the weights of losses do not make a shape; whole numbers do."""
    for name, wanted in expected.to_dict().items():
        got = found.to_dict()[name]
        if isinstance(wanted, int) and got != wanted:
            raise CheckpointError(
                f"{place}: its {name} is {got}, but the recipe's {key} has {wanted}; correct '{key}' or leave it out, "
                "or start from another checkpoint"
            )
