"""Binary spherical quantisation: a vector becomes the signs of its coordinates.

Zhao, Xiong and Kraehenbuehl, 2024, "Image and video tokenization with binary spherical quantization"
(arXiv 2406.07548): sections 3.2 and 3.3. A token has `s1_bits` coarse bits and `s2_bits` fine ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

CODE_SHARPNESS = 6.0
"""Log-odds of a bit per unit of its coordinate in `code_entropy`."""


def bits_to_ids(bits: Tensor) -> Tensor:
    """Read (..., n) booleans as integers (...), least significant first."""
    return (bits.long() << torch.arange(bits.shape[-1], device=bits.device)).sum(-1)


def ids_to_bits(ids: Tensor, n_bits: int) -> Tensor:
    """Write integers (...) as booleans (..., n_bits), least significant first."""
    return (ids.unsqueeze(-1) >> torch.arange(n_bits, device=ids.device) & 1).bool()


def _entropy(p: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    return -(p * torch.log(p + 1e-8)).sum(-1)


def _over_processes(mean: Tensor) -> Tensor:
    """The mean over the processes that train on parts of a batch; that of this process if it is alone."""
    if not (torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized()):
        return mean
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(mean) / distributed.get_world_size()


def code_entropy(z: Tensor, s1_bits: int) -> Tensor:
    """Entropy penalty over the codes of both sub-tokens, in nats.

    Mean entropy of a sample's code minus the entropy of the mean code: the paper's penalty (section 3.3) over groups of
    bits, the groups being the sub-tokens. Unlike a penalty per bit, it also penalises bits that repeat each other.

    Parameters
    ----------
    z : (..., bits)
        Unit vectors, whose signs are the bits.
    s1_bits : int
        Number of bits of the coarse sub-token.
    """
    total = z.new_zeros(())
    for group in (z[..., :s1_bits], z[..., s1_bits:]):
        flat = group.flatten(0, -2).float()
        bits = ids_to_bits(torch.arange(2 ** flat.shape[-1], device=z.device), flat.shape[-1])
        p = torch.softmax(0.5 * CODE_SHARPNESS * flat @ (2.0 * bits - 1.0).T, dim=-1)
        total = total + _entropy(p).mean() - _entropy(_over_processes(p.mean(0)))
    return total


class SphericalQuantizer(nn.Module):
    """Codes at the corners of a cube inscribed in the sphere, with the losses that keep all of them in use.

    The buffers hold powers of two; they are part of upstream's file format and are not read here.
    """

    def __init__(self, n_bits: int, beta: float, gamma0: float, gamma: float, zeta: float, group_size: int) -> None:
        super().__init__()
        self.scale = n_bits**-0.5
        self.beta, self.gamma0, self.gamma, self.zeta = beta, gamma0, gamma, zeta
        self.register_buffer("basis", 2 ** torch.arange(n_bits - 1, -1, -1))
        self.register_buffer("group_basis", 2 ** torch.arange(group_size - 1, -1, -1))

    def forward(self, z: Tensor) -> Tensor:
        """Quantise unit vectors (..., n_bits) to +-1/sqrt(n_bits), straight-through in the gradient."""
        corner = torch.where(z > 0, 1.0, -1.0).type_as(z)
        return (z + (corner - z).detach()) * self.scale

    def loss(self, z: Tensor, quantized: Tensor) -> Tensor:
        """Commitment loss plus entropy penalty: low entropy per sample, high entropy of each bit over the batch.

        The paper's codebook entropy (eq. 9) is over groups of bits; the reference's, with which published weights were
        trained, is over single bits whatever its `group_size` says.
        """
        commitment = self.beta * (quantized.detach() - z).square().sum(-1).mean()
        p = torch.sigmoid(-4 * self.scale * z)
        p = torch.stack((p, 1 - p), -1)
        per_sample = _entropy(p).sum(-1).mean()
        over_batch = _entropy(_over_processes(p.flatten(0, -3).mean(0))).sum()
        return commitment + self.zeta * (self.gamma0 * per_sample - self.gamma * over_batch)


class TokenQuantizer(nn.Module):
    """Projects to the unit sphere, quantises, and maps codes to two sub-token ids."""

    def __init__(
        self,
        s1_bits: int,
        s2_bits: int,
        beta: float,
        gamma0: float,
        gamma: float,
        zeta: float,
        group_size: int,
    ) -> None:
        super().__init__()
        self.s1_bits, self.s2_bits = s1_bits, s2_bits
        self.bsq = SphericalQuantizer(s1_bits + s2_bits, beta, gamma0, gamma, zeta, group_size)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes (..., bits) and the quantizer's loss, a scalar."""
        z = F.normalize(z, dim=-1)
        quantized = self.bsq(z)
        return quantized, self.bsq.loss(z, quantized)

    def ids(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return sub-token ids s1 and s2 of vectors (..., bits)."""
        bits = z > 0  # normalising does not change a sign
        return bits_to_ids(bits[..., : self.s1_bits]), bits_to_ids(bits[..., self.s1_bits :])

    def codes(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Return the codes (..., bits) of the ids, float32."""
        bits = torch.cat((ids_to_bits(s1, self.s1_bits), ids_to_bits(s2, self.s2_bits)), -1)
        return (bits.float() * 2 - 1) * self.bsq.scale
