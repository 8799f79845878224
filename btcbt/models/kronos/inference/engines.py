"""Tokenizer and model in the form that inference runs: cached blocks, lookup tables, fused products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from btcbt.models.kronos.inference.cache import AppendStep, SharedPrefixCache
from btcbt.models.kronos.inference.linear import Linear
from btcbt.models.kronos.inference.stack import CachedStack, fold_norm, rms
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.shapes import DEPENDENCY_HEADS
from btcbt.records import CLOSE

PREFILL_TOKENS = 4096
"""Tokens of contexts, or of paths to decode, that go through a network at once; more only cost memory."""


@dataclass(frozen=True)
class PrefixLayout:
    """How the sampled rows share context prefixes.

    Attributes
    ----------
    ends : int64 (J,)
        Number of context tokens of each origin of a group; J = 1 unless origins share an anchored context.
    n_paths : int
        S. A group has R = J * S rows, origin by origin.
    """

    ends: Tensor
    n_paths: int

    @property
    def row_ends(self) -> Tensor:
        """Number of context tokens of each row, (R,)."""
        return self.ends.repeat_interleave(self.n_paths)

    def hidden_keys(self, length: int) -> Tensor | None:
        """Mask (R, length) of the context tokens hidden from a row; None if nothing is hidden."""
        if len(self.ends) == 1:
            return None
        return torch.arange(length, device=self.ends.device) >= self.row_ends[:, None]

    def drop_oldest(self, n: int) -> PrefixLayout:
        """The layout without the first `n` context tokens."""
        return PrefixLayout(self.ends - n, self.n_paths)


class TokenizerEngine:
    """Encodes contexts, and decodes generated tokens after a shared prefix. Always float32."""

    def __init__(self, tokenizer: KronosTokenizer, device: torch.device, packed: bool = True) -> None:
        self.tokenizer = tokenizer.to(device, torch.float32)
        self.encoder = CachedStack(tokenizer.encoder, torch.float32, device, packed)
        self.decoder = CachedStack(tokenizer.decoder, torch.float32, device, packed)

    def encode(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Sub-token ids (G, T) of scaled candles (G, T, 6)."""
        ids = []
        for part in scaled.split(max(1, PREFILL_TOKENS // scaled.shape[1])):
            z, _ = self.encoder.prefill(self.tokenizer.embed(part))
            ids.append(self.tokenizer.tokenizer.ids(self.tokenizer.quant_embed(z)))
        s1, s2 = zip(*ids, strict=True)
        return torch.cat(s1), torch.cat(s2)

    def decode(self, context: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], layout: PrefixLayout) -> Tensor:
        """Scaled candles (G, R, H, 6) of generated ids (G, R, H) after context ids (G, T)."""
        rows, horizon = new[0].shape[1:]
        size = max(1, PREFILL_TOKENS // (rows * horizon))
        parts = zip(*(ids.split(size) for ids in (*context, *new)), strict=True)
        return torch.cat([self._decode((c1, c2), (n1, n2), layout) for c1, c2, n1, n2 in parts])

    def _decode(self, context: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], layout: PrefixLayout) -> Tensor:
        length, (rows, horizon) = context[0].shape[1], new[0].shape[1:]
        _, keys_values = self.decoder.prefill(self._embed(*context))
        hidden = layout.hidden_keys(length)
        caches = [SharedPrefixCache(k, v, rows, horizon, hidden) for k, v in keys_values]
        positions = layout.row_ends[:, None] + torch.arange(horizon, device=new[0].device)
        step = AppendStep.new(0, horizon, horizon, keys_values[0][0])
        return self.tokenizer.head(self.decoder.extend(self._embed(*new), caches, positions, step))

    def reconstruct(self, ids: tuple[Tensor, Tensor]) -> Tensor:
        """Scaled candles (G, T, 6) of context ids (G, T), as the decoder gives them back."""
        size = max(1, PREFILL_TOKENS // ids[0].shape[1])
        parts = zip(*(one.split(size) for one in ids), strict=True)
        return torch.cat([self.tokenizer.head(self.decoder.prefill(self._embed(*part))[0]) for part in parts])

    def price_orders(self) -> tuple[Tensor, Tensor]:
        """Coarse and fine ids sorted by the close that they decode to, each as a sequence of one candle.

        The fine ids are decoded with the middle coarse id; their order with other coarse ids is similar.
        """
        config, device = self.tokenizer.config, self.tokenizer.head.weight.device
        every = [torch.arange(2**bits, device=device)[:, None] for bits in (config.s1_bits, config.s2_bits)]
        middle_fine = torch.full_like(every[0], 2**config.s2_bits // 2)
        coarse = self.tokenizer.decode([every[0], middle_fine])[:, 0, CLOSE].argsort(stable=True)
        middle_coarse = coarse[len(coarse) // 2].expand_as(every[1])
        return coarse, self.tokenizer.decode([middle_coarse, every[1]])[:, 0, CLOSE].argsort(stable=True)

    def _embed(self, s1: Tensor, s2: Tensor) -> Tensor:
        return self.tokenizer.post_quant_embed(self.tokenizer.tokenizer.codes(s1, s2))


class ModelEngine:
    """The decoder-only network as lookup tables and fused products."""

    def __init__(self, model: Kronos, device: torch.device, dtype: torch.dtype, packed: bool = True) -> None:
        self.dtype = dtype
        self.d_model = d = model.config.d_model
        self.stack = CachedStack(model.transformer, dtype, device, packed)
        embedding, attention = model.embedding, model.dep_layer.cross_attn

        def move(x: Tensor) -> Tensor:
            return x.detach().to(device, dtype)

        def linear(weight: Tensor, bias: Tensor) -> Linear:
            return Linear(move(weight), move(bias), packed=packed)

        first, second = embedding.fusion_proj.weight.split(d, dim=1)
        self.table_s1 = move(embedding.emb_s1.weight * embedding.scale @ first.T)
        self.table_s2 = move(embedding.emb_s2.weight * embedding.scale @ second.T + embedding.fusion_proj.bias)
        self.calendar = [move(table) for table in model.time_emb.tables()]
        self.norm = move(model.norm.weight)
        self.head_s1 = linear(model.head.proj_s1.weight, model.head.proj_s1.bias)
        # The query of the dependency layer is the raw embedding of the coarse id, so all queries fit in a table.
        self.head_dim = d // DEPENDENCY_HEADS
        queries = embedding.emb_s1.weight @ attention.q_proj.weight.T + attention.q_proj.bias
        self.queries = move(queries * self.head_dim**-0.5).unflatten(-1, (DEPENDENCY_HEADS, -1))
        self.dep_kv = linear(
            torch.cat((attention.k_proj.weight, attention.v_proj.weight)),
            torch.cat((attention.k_proj.bias, attention.v_proj.bias)),
        )
        self.dep_out = linear(attention.out_proj.weight, attention.out_proj.bias)
        self.head_s2 = linear(
            fold_norm(model.head.proj_s2.weight, model.dep_layer.norm.weight), model.head.proj_s2.bias
        )

    def embed(self, s1: Tensor, s2: Tensor, calendar: Tensor) -> Tensor:
        """Inputs (..., D) of ids (...) with their calendar vectors (..., D)."""
        return self.table_s1[s1] + self.table_s2[s2] + calendar

    def calendar_vectors(self, stamps: Tensor) -> Tensor:
        """Sum of the calendar embeddings (G, T, D) of stamps (G, T, 5)."""
        minute, hour, weekday, day, month = (table[stamps[..., i]] for i, table in enumerate(self.calendar))
        return hour + weekday + day + month + minute

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden states (..., D): the final norm of the blocks' outputs."""
        return rms(x) * self.norm

    def dependency_keys_values(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., heads, head_dim) of hidden states (..., D)."""
        k, v = self.dep_kv(hidden).unflatten(-1, (2, DEPENDENCY_HEADS, -1)).unbind(-3)
        return k, v
