"""The blocks that tokenizer and decoder share, in plain torch: norm, rotary positions, attention, feed-forward.

Two modules compute the same functions faster: `btcbt.models.kronos.training.kernels` for training, and
`btcbt.models.kronos.inference.stack` for sampling. The tests compare both with this file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from btcbt.models.kronos.shapes import RMS_EPS, ROPE_BASE


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich, 2019, eq. 4), computed in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + RMS_EPS)).type_as(x) * self.weight


def inverse_frequencies(head_dim: int) -> Tensor:
    """Angular step per position of each rotary pair, float32 (head_dim / 2,)."""
    return 1.0 / (ROPE_BASE ** (torch.arange(0, head_dim, 2).float() / head_dim))


class Rotary(nn.Module):
    """Rotary position embedding (Su et al., 2021, section 3.2.2), first half paired with second half."""

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", inverse_frequencies(head_dim))

    def angles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (T, head_dim / 2) at positions 0 .. T - 1; the angles are float32 whatever the input."""
        angles = torch.outer(torch.arange(x.shape[-2], device=x.device, dtype=torch.float32), self.inv_freq.float())
        return angles.cos().type_as(x), angles.sin().type_as(x)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate (..., T, head_dim) by positions 0 .. T - 1."""
        cos, sin = self.angles(x)
        first, second = x.chunk(2, dim=-1)
        return torch.cat(
            (torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)), dim=-1
        )


class Attention(nn.Module):
    """Multi-head attention with biased projections.

    Serves as self-attention (query, keys and values from one sequence) and as the dependency layer's
    cross-attention.
    """

    def __init__(self, d_model: int, n_heads: int, attn_dropout_p: float = 0.0, resid_dropout_p: float = 0.0) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attn_dropout_p = attn_dropout_p
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.rotary = Rotary(d_model // n_heads)
        self.resid_dropout = nn.Dropout(resid_dropout_p)

    def forward(self, query: Tensor, memory: Tensor, *, causal: bool = True, positions: bool = True) -> Tensor:
        """Attend from `query` (B, L, D) to `memory` (B, T, D).

        `positions` applies rotary angles to queries and keys, both counted from 0.
        """
        q, k, v = (
            proj(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for proj, x in ((self.q_proj, query), (self.k_proj, memory), (self.v_proj, memory))
        )
        if positions:
            q, k = self.rotary(q), self.rotary(k)
        mixed = self.mix(q, k, v, causal=causal)
        return self.resid_dropout(self.out_proj(mixed.transpose(1, 2).flatten(2)))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        """Mix values (B, heads, T, head_dim); if causal, each token attends to itself and those before it."""
        dropout = self.attn_dropout_p if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=causal)


class FeedForward(nn.Module):
    """Gated feed-forward, w2(silu(w1 x) * w3 x) (Shazeer, 2020, eq. 6: SwiGLU)."""

    def __init__(self, d_model: int, ff_dim: int, dropout_p: float = 0.0) -> None:
        super().__init__()
        self.w1 = nn.Linear(d_model, ff_dim, bias=False)
        self.w3 = nn.Linear(d_model, ff_dim, bias=False)
        self.w2 = nn.Linear(ff_dim, d_model, bias=False)
        self.ffn_dropout = nn.Dropout(dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.ffn_dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))


class Block(nn.Module):
    """Pre-norm causal transformer block."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        ff_dim: int,
        ffn_dropout_p: float,
        attn_dropout_p: float,
        resid_dropout_p: float,
    ) -> None:
        super().__init__()
        self.norm1 = RMSNorm(d_model)
        self.self_attn = Attention(d_model, n_heads, attn_dropout_p, resid_dropout_p)
        self.norm2 = RMSNorm(d_model)
        self.ffn = FeedForward(d_model, ff_dim, ffn_dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        normed = self.norm1(x)
        x = x + self.self_attn(normed, normed)
        return x + self.ffn(self.norm2(x))
