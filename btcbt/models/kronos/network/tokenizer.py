"""The tokenizer: six scaled channels of a candle to two sub-tokens, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from btcbt.models.kronos.checkpoints.locate import find_tokenizer
from btcbt.models.kronos.checkpoints.pretrained import Checkpointed
from btcbt.models.kronos.network.layers import Block
from btcbt.models.kronos.network.quantizer import TokenQuantizer
from btcbt.models.kronos.shapes import TokenizerConfig


class Reconstruction(NamedTuple):
    """Result of `KronosTokenizer.forward`: both reconstructions (B, T, d_in), the quantizer's loss, z, the ids."""

    coarse: Tensor
    full: Tensor
    quantizer_loss: Tensor
    z: Tensor
    s1: Tensor
    s2: Tensor


class KronosTokenizer(nn.Module, Checkpointed[TokenizerConfig]):
    """Transformer autoencoder around a binary spherical quantiser (arXiv 2508.02739, section 3.1).

    Encoder and decoder are causal, so that the tokens of a prefix do not depend on what follows.

    Parameters
    ----------
    config : TokenizerConfig
        Shape of the network.
    """

    config_class = TokenizerConfig
    model_type = "kronos_tokenizer"

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = c = config
        dropouts = (c.ffn_dropout_p, c.attn_dropout_p, c.resid_dropout_p)
        self.embed = nn.Linear(c.d_in, c.d_model)
        self.head = nn.Linear(c.d_model, c.d_in)
        self.encoder = nn.ModuleList(
            Block(c.d_model, c.n_heads, c.ff_dim, *dropouts) for _ in range(c.n_enc_layers - 1)
        )
        self.decoder = nn.ModuleList(
            Block(c.d_model, c.n_heads, c.ff_dim, *dropouts) for _ in range(c.n_dec_layers - 1)
        )
        self.quant_embed = nn.Linear(c.d_model, c.s1_bits + c.s2_bits)
        self.post_quant_embed_pre = nn.Linear(c.s1_bits, c.d_model)
        self.post_quant_embed = nn.Linear(c.s1_bits + c.s2_bits, c.d_model)
        self.tokenizer = TokenQuantizer(c.s1_bits, c.s2_bits, c.beta, c.gamma0, c.gamma, c.zeta, c.group_size)

    @staticmethod
    def _locate(path_or_hub_id: str | Path, revision: str | None) -> str | Path:
        return find_tokenizer(path_or_hub_id, revision)

    def forward(self, x: Tensor) -> Reconstruction:
        """Encode and decode scaled candles (B, T, d_in), from the coarse bits alone and from all bits."""
        z = self._encode(x)
        quantized, loss = self.tokenizer(z)
        coarse = self._decode(self.post_quant_embed_pre(quantized[..., : self.config.s1_bits]))
        full = self._decode(self.post_quant_embed(quantized))
        return Reconstruction(coarse, full, loss, z, *self.tokenizer.ids(z))

    def encode(self, x: Tensor, half: bool = True) -> list[Tensor] | Tensor:
        """Token ids of scaled candles (B, T, d_in).

        Returns ``[s1, s2]``, int64 (B, T) each; with ``half=False`` the joint ids ``s1 + s2 * 2**s1_bits``.
        """
        s1, s2 = self.tokenizer.ids(self._encode(x))
        return [s1, s2] if half else s1 + (s2 << self.config.s1_bits)

    def decode(self, ids: Sequence[Tensor] | Tensor, half: bool = True) -> Tensor:
        """Scaled candles (B, T, d_in) from the ids that `encode` returns, float32."""
        if half:
            s1, s2 = ids
        else:
            assert isinstance(ids, Tensor)  # noqa: S101 - narrows the union for the type checker
            s1, s2 = ids & (2**self.config.s1_bits - 1), ids >> self.config.s1_bits
        codes = self.tokenizer.codes(s1, s2)
        return self._decode(self.post_quant_embed(codes.type_as(self.post_quant_embed.weight)))

    def _encode(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.encoder:
            x = block(x)
        return self.quant_embed(x)

    def _decode(self, x: Tensor) -> Tensor:
        for block in self.decoder:
            x = block(x)
        return self.head(x)
