"""Kronos: a decoder-only transformer over candle tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from btcbt.models.kronos.checkpoints.locate import find_model
from btcbt.models.kronos.checkpoints.pretrained import Checkpointed
from btcbt.models.kronos.network.layers import Attention, Block, RMSNorm
from btcbt.models.kronos.shapes import DEPENDENCY_HEADS, ModelConfig

CALENDAR = (("minute", 60), ("hour", 24), ("weekday", 7), ("day", 32), ("month", 13))
"""Columns of a stamp and the sizes of their tables; day and month count from 1."""


class TokenEmbedding(nn.Module):
    """Fuses the embeddings of both sub-tokens."""

    def __init__(self, s1_bits: int, s2_bits: int, d_model: int) -> None:
        super().__init__()
        self.emb_s1 = nn.Embedding(2**s1_bits, d_model)
        self.emb_s2 = nn.Embedding(2**s2_bits, d_model)
        self.fusion_proj = nn.Linear(2 * d_model, d_model)
        self.scale = math.sqrt(d_model)

    def forward(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Map ids (B, T) to (B, T, D)."""
        return self.fusion_proj(torch.cat((self.emb_s1(s1), self.emb_s2(s2)), -1) * self.scale)


class FixedEmbedding(nn.Module):
    """Sinusoids of the index (Vaswani et al., 2017, section 3.5), never trained; stored as upstream does."""

    def __init__(self, size: int, d_model: int) -> None:
        super().__init__()
        wavelengths = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000.0) / d_model))
        angles = torch.outer(torch.arange(size).float(), wavelengths)
        table = torch.stack((angles.sin(), angles.cos()), -1).flatten(1)
        self.emb = nn.Embedding(size, d_model)
        self.emb.weight = nn.Parameter(table, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The table (size, D)."""
        return self.emb.weight


class CalendarEmbedding(nn.Module):
    """Sum of one vector for each of minute, hour, weekday, day and month."""

    def __init__(self, d_model: int, learned: bool = True) -> None:
        super().__init__()
        table = nn.Embedding if learned else FixedEmbedding
        for name, size in CALENDAR:
            self.add_module(f"{name}_embed", table(size, d_model))

    def tables(self) -> list[Tensor]:
        """The embedding matrices, in the order of `CALENDAR`."""
        return [cast(Tensor, self.get_submodule(f"{name}_embed").weight) for name, _ in CALENDAR]

    def forward(self, stamp: Tensor) -> Tensor:
        """Map stamps (B, T, 5) to (B, T, D)."""
        minute, hour, weekday, day, month = (
            F.embedding(stamp[..., i].long(), table) for i, table in enumerate(self.tables())
        )
        return hour + weekday + day + month + minute


class DependencyLayer(nn.Module):
    """Conditions the fine sub-token on the coarse one: cross-attention from its embedding to the hidden states."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.cross_attn = Attention(d_model, DEPENDENCY_HEADS)
        self.norm = RMSNorm(d_model)

    def forward(self, hidden: Tensor, sibling: Tensor, *, causal: bool, positions: bool) -> Tensor:
        """Attend from `sibling` (B, L, D) to `hidden` (B, T, D), add the residual `hidden`, normalise."""
        return self.norm(hidden + self.cross_attn(sibling, hidden, causal=causal, positions=positions))


class DualHead(nn.Module):
    """Logits of both sub-tokens."""

    def __init__(self, s1_bits: int, s2_bits: int, d_model: int) -> None:
        super().__init__()
        self.proj_s1 = nn.Linear(d_model, 2**s1_bits)
        self.proj_s2 = nn.Linear(d_model, 2**s2_bits)


class Logits(NamedTuple):
    """Logits of the next token, (B, T, V1) and (B, T, V2)."""

    s1: Tensor
    s2: Tensor

    def loss(self, s1: Tensor, s2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy in nats against ids (B, T): mean of both sub-tokens, s1, s2."""
        losses = [F.cross_entropy(a.flatten(0, -2), b.flatten()) for a, b in ((self.s1, s1), (self.s2, s2))]
        return (losses[0] + losses[1]) / 2, losses[0], losses[1]


class Kronos(nn.Module, Checkpointed[ModelConfig]):
    """Samples the next candle's coarse sub-token, then the fine one given it (arXiv 2508.02739, section 3.2).

    Parameters
    ----------
    config : ModelConfig
        Shape of the network.
    """

    config_class = ModelConfig
    model_type = "kronos"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = c = config
        self.token_drop = nn.Dropout(c.token_dropout_p)
        self.embedding = TokenEmbedding(c.s1_bits, c.s2_bits, c.d_model)
        self.time_emb = CalendarEmbedding(c.d_model, c.learn_te)
        self.transformer = nn.ModuleList(
            Block(c.d_model, c.n_heads, c.ff_dim, c.ffn_dropout_p, c.attn_dropout_p, c.resid_dropout_p)
            for _ in range(c.n_layers)
        )
        self.norm = RMSNorm(c.d_model)
        self.dep_layer = DependencyLayer(c.d_model)
        self.head = DualHead(c.s1_bits, c.s2_bits, c.d_model)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and module.weight.requires_grad:
            nn.init.normal_(module.weight, std=self.config.d_model**-0.5)

    @staticmethod
    def _locate(path_or_hub_id: str | Path, revision: str | None) -> Path:
        return find_model(path_or_hub_id, revision)

    def forward(
        self,
        s1: Tensor,
        s2: Tensor,
        stamp: Tensor,
        s1_next: Tensor,
        *,
        first: int = 0,
        dependency_positions: bool = False,
    ) -> Logits:
        """Teacher-forced logits of the token after each position, causal in every layer.

        Parameters
        ----------
        s1, s2 : int64 (B, T)
            Sub-token ids.
        stamp : int64 or float (B, T, 5)
            Calendar of each token, columns as in `CALENDAR`.
        s1_next : int64 (B, T)
            The true next coarse ids, on which the fine logits are conditioned.
        first : int
            Positions before it get no logits.
        dependency_positions : bool
            Rotary angles in the dependency layer. Sampling uses none (its single query is at position 0, and so
            are the keys), so training without them matches it; the reference trains with them.
        """
        hidden = self._hidden(s1, s2, stamp)
        sibling = self.embedding.emb_s1(s1_next)
        mixed = self.dep_layer(hidden, sibling, causal=True, positions=dependency_positions)
        return Logits(self.head.proj_s1(hidden[:, first:]), self.head.proj_s2(mixed[:, first:]))

    def decode_s1(self, s1: Tensor, s2: Tensor, stamp: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse logits (B, T, V1) and hidden states (B, T, D)."""
        hidden = self._hidden(s1, s2, stamp)
        return self.head.proj_s1(hidden), hidden

    def _hidden(self, s1: Tensor, s2: Tensor, stamp: Tensor) -> Tensor:
        x = self.token_drop(self.embedding(s1, s2) + self.time_emb(stamp))
        for block in self.transformer:
            x = block(x)
        return self.norm(x)

    def decode_s2(self, hidden: Tensor, s1_next: Tensor) -> Tensor:
        """Fine logits given the next coarse id.

        Parameters
        ----------
        hidden : float (B, T, D)
            From `decode_s1`.
        s1_next : int64 (B, 1)
            The coarse id chosen for the token after the last position.

        Returns
        -------
        float (B, T, V2)
            Only the last position's logits are those of the next fine id.
        """
        sibling: Tensor = self.embedding.emb_s1(s1_next)
        if sibling.shape[1] != 1:
            raise ValueError(f"s1_next has {sibling.shape[1]} positions; decode_s2 takes the next one alone")
        return self.head.proj_s2(self.dep_layer(hidden, sibling, causal=False, positions=False))
