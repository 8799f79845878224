"""The penalty on unused codes: what it rewards, and that its groups are the sub-tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from btcbt.models.kronos.network.quantizer import CODE_SHARPNESS, bits_to_ids, code_entropy, ids_to_bits


def corners(ids: torch.Tensor, n_bits: int) -> torch.Tensor:
    """Unit vectors of codes, as sure as can be."""
    return F.normalize(2.0 * ids_to_bits(ids, n_bits) - 1.0, dim=-1)


def test_it_is_the_sum_over_all_codes_of_both_groups(rng):
    z = F.normalize(torch.from_numpy(rng.normal(size=(5, 7, 5))), dim=-1).float()
    expected = 0.0
    for part in (z[..., :3], z[..., 3:]):
        p = torch.sigmoid(CODE_SHARPNESS * part.double()).flatten(0, 1)
        table = torch.ones(len(p), 2 ** p.shape[1], dtype=torch.float64)
        for code in range(table.shape[1]):
            for bit in range(p.shape[1]):
                table[:, code] *= p[:, bit] if code >> bit & 1 else 1 - p[:, bit]
        mean = table.mean(0)
        expected += float(-(table * table.log()).sum(1).mean() + (mean * mean.log()).sum())
    assert float(code_entropy(z, 3)) == pytest.approx(expected, abs=1e-5)


def test_bits_that_repeat_each_other_cost_though_each_is_even():
    every = corners(torch.arange(256), 8)
    repeated = corners(torch.tensor([0, 15, 240, 255] * 64), 8)  # four bits at a time are the same
    for z in (every, repeated):
        assert z.sign().mean(0).abs().max() == 0.0
    assert float(code_entropy(every, 4)) < float(code_entropy(repeated, 4)) - 0.5
    one = corners(torch.zeros(256, dtype=torch.long), 8)
    assert float(code_entropy(one, 4)) == pytest.approx(0.0, abs=1e-4)
    assert float(code_entropy(100 * every, 4)) == pytest.approx(-2 * math.log(16), abs=1e-3)


def test_its_gradient_spreads_the_codes(rng):
    z = torch.from_numpy(rng.normal(size=(64, 8)) * 0.1 + 1.0).float().requires_grad_()
    used = len(bits_to_ids(z > 0).unique())
    optimizer = torch.optim.Adam([z], 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        code_entropy(F.normalize(z, dim=-1), 4).backward()
        optimizer.step()
    assert len(bits_to_ids(z > 0).unique()) > 4 * used
