"""Shapes of the Kronos networks, and the published sizes by name.

Field names are those of upstream's ``config.json`` (shiyu-coder/Kronos; Shi et al., 2025, arXiv 2508.02739).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from btcbt.errors import CheckpointError

RMS_EPS = 1e-5
ROPE_BASE = 10_000.0
DEPENDENCY_HEADS = 4
"""The dependency layer has four heads at every size."""

_LIMITS = {
    "d_in": 6, "d_model": 1 << 14, "ff_dim": 1 << 16, "n_heads": 1024, "n_layers": 256, "n_enc_layers": 256,
    "n_dec_layers": 256, "s1_bits": 16, "s2_bits": 16, "group_size": 16,
}  # fmt: skip


class _Shape:
    """Reading and checking, shared by both configurations."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build from the keys of a ``config.json``; unknown keys are ignored, as upstream does.

        Raises
        ------
        CheckpointError
            If a key is missing, or its value is of the wrong type or size.
        """
        kwargs: dict[str, Any] = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.name not in values:
                if field.default is dataclasses.MISSING:
                    raise CheckpointError(f"{where}: key '{field.name}' is missing; is this a Kronos checkpoint?")
                continue
            value = values[field.name]
            wanted: Any = {"int": int, "float": (int, float), "bool": bool}[str(field.type)]
            if not isinstance(value, wanted) or (isinstance(value, bool) and field.type != "bool"):
                raise CheckpointError(f"{where}: key '{field.name}' is {value!r}; expected {field.type}")
            kwargs[field.name] = value
        config = cls(**kwargs)
        config.check(where)
        return config

    def check(self, where: str) -> None:
        """Refuse impossible shapes before any memory is allocated for them."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        for key, value in values.items():
            limit = _LIMITS.get(key)
            if limit is not None and not 1 <= value <= limit:
                raise CheckpointError(f"{where}: key '{key}' is {value}; expected 1 to {limit}")
            if key.endswith("_p") and not 0 <= value < 1:
                raise CheckpointError(f"{where}: key '{key}' is {value}; expected a probability below 1")
        if values["d_model"] % (2 * values["n_heads"]):
            raise CheckpointError(
                f"{where}: d_model {values['d_model']} does not divide into {values['n_heads']} heads of even width"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of a ``config.json``."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class TokenizerConfig(_Shape):
    """Shape of a tokenizer. As in upstream, one layer less than `n_enc_layers` and `n_dec_layers` is built."""

    d_in: int
    d_model: int
    n_heads: int
    ff_dim: int
    n_enc_layers: int
    n_dec_layers: int
    ffn_dropout_p: float
    attn_dropout_p: float
    resid_dropout_p: float
    s1_bits: int
    s2_bits: int
    beta: float
    gamma0: float
    gamma: float
    zeta: float
    group_size: int

    def check(self, where: str) -> None:
        """As for every shape; also, the bits must divide into groups."""
        super().check(where)
        if self.group_size < 1 or (self.s1_bits + self.s2_bits) % self.group_size:
            raise CheckpointError(
                f"{where}: {self.s1_bits} + {self.s2_bits} bits do not divide into groups of {self.group_size}"
            )


@dataclass(frozen=True)
class ModelConfig(_Shape):
    """Shape of a decoder; `learn_te` says whether the calendar's vectors are trained, or fixed sinusoids."""

    s1_bits: int
    s2_bits: int
    n_layers: int
    d_model: int
    n_heads: int
    ff_dim: int
    ffn_dropout_p: float
    attn_dropout_p: float
    resid_dropout_p: float
    token_dropout_p: float
    learn_te: bool

    def check(self, where: str) -> None:
        """As for every shape; also, the dependency layer's heads must divide the width."""
        super().check(where)
        if self.d_model % DEPENDENCY_HEADS:
            raise CheckpointError(f"{where}: d_model {self.d_model} does not divide by {DEPENDENCY_HEADS}")


def _tokenizer(d_model: int, n_heads: int, ff_dim: int, layers: int, bits: int, group_size: int) -> TokenizerConfig:
    return TokenizerConfig(
        d_in=6, d_model=d_model, n_heads=n_heads, ff_dim=ff_dim, n_enc_layers=layers, n_dec_layers=layers,
        ffn_dropout_p=0.0, attn_dropout_p=0.0, resid_dropout_p=0.0, s1_bits=bits, s2_bits=bits,
        beta=0.05, gamma0=1.0, gamma=1.1, zeta=0.05, group_size=group_size,
    )  # fmt: skip


def _model(d_model: int, layers: int, heads: int, ff_dim: int, bits: int, dropout: float) -> ModelConfig:
    return ModelConfig(
        s1_bits=bits, s2_bits=bits, n_layers=layers, d_model=d_model, n_heads=heads, ff_dim=ff_dim,
        ffn_dropout_p=dropout, attn_dropout_p=0.0, resid_dropout_p=dropout, token_dropout_p=0.0, learn_te=True,
    )  # fmt: skip


TOKENIZERS: Mapping[str, TokenizerConfig] = MappingProxyType(
    {
        "base": _tokenizer(256, 4, 512, 4, 10, group_size=4),
        "2k": _tokenizer(256, 4, 512, 4, 10, group_size=5),
        "nano": _tokenizer(64, 4, 128, 3, 8, group_size=4),
    }
)
MODELS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "nano": _model(128, 4, 4, 256, 8, dropout=0.0),
        "mini": _model(256, 4, 4, 512, 10, dropout=0.1),
        "small": _model(512, 8, 8, 1024, 10, dropout=0.1),
        "base": _model(832, 12, 16, 2048, 10, dropout=0.1),
    }
)
MAX_CONTEXT: Mapping[str, int] = MappingProxyType({"nano": 512, "mini": 2048, "small": 512, "base": 512})
"""Longest context of each size in training, in tokens."""
