"""Shapes beside the published ones, against recorded outputs of the reference (kronos-model-arch 0.1.0).

``fixed_calendar/`` holds random weights with ``learn_te: false`` and 6 + 4 bits, and what the reference computes from
them. The reference's `decode` is not among it: with sub-tokens of different sizes it reads the wrong bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from btcbt.models.kronos import Kronos, KronosTokenizer

FOLDER = Path(__file__).parent / "fixed_calendar"
REFERENCE = Path(__file__).resolve().parents[2] / ".bench" / "reference"


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "arrays.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@torch.no_grad()
def check(golden, tokenizer, model, reconstruct):
    tokens = tokenizer.encode(golden["candles"], half=True)
    for ids, name in zip(tokens, ("s1", "s2"), strict=True):
        assert torch.equal(ids, golden[name])
    logits, hidden = model.decode_s1(*tokens, golden["stamps"])
    torch.testing.assert_close(logits, golden["s1_logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden, golden["hidden"], rtol=0, atol=1e-5)
    fine = model.decode_s2(hidden, golden["s1_next"])[:, -1]
    torch.testing.assert_close(fine, golden["s2_logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(reconstruct(tokens), golden["reconstruction"], rtol=0, atol=1e-5)


def test_a_fixed_calendar_and_unequal_bits_equal_the_reference(golden):
    tokenizer = KronosTokenizer.from_pretrained(FOLDER / "tokenizer")
    model = Kronos.from_pretrained(FOLDER / "model")
    assert not model.config.learn_te
    check(golden, tokenizer, model, tokenizer.decode)


def test_fixed_tables_are_sinusoids_that_no_training_changes(golden):
    stored = Kronos.from_pretrained(FOLDER / "model")
    fresh = Kronos(stored.config)
    for table, expected in zip(fresh.time_emb.tables(), stored.time_emb.tables(), strict=True):
        assert torch.equal(table, expected)
        assert not table.requires_grad


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference package; 'make bench' installs it")
def test_the_recorded_outputs_are_the_reference_s(golden, monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    from model.kronos import Kronos as ReferenceKronos
    from model.kronos import KronosTokenizer as ReferenceTokenizer

    tokenizer = ReferenceTokenizer.from_pretrained(str(FOLDER / "tokenizer")).eval()
    model = ReferenceKronos.from_pretrained(str(FOLDER / "model")).eval()
    check(golden, tokenizer, model, lambda _: tokenizer(golden["candles"])[0][1])
