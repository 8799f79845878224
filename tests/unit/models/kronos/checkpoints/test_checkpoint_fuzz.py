"""Mutated checkpoints: each loads, or is refused in one line, and none takes memory for what is not in its file."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from btcbt.errors import CheckpointError
from btcbt.forecasters.kronos import load_checkpoint
from btcbt.models.kronos import Kronos
from btcbt.models.kronos.checkpoints.files import MODEL_FOLDER, TOKENIZER_FOLDER

MUTANTS = 200
VALUES = [None, True, -1, 0, 1, 3, 2**31, 1e308, 0.5, "", "x", [], {}, [[]], "__import__('os')", 2**200]


@pytest.fixture
def pair(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / MODEL_FOLDER)
    tokenizer.save_pretrained(tmp_path / TOKENIZER_FOLDER)
    return tmp_path


def mutate(rng, content: bytes, header: int) -> bytes:
    """Flips, cuts and overwrites; most of them in the header, where the form of a file is."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, header if rng.random() < 0.7 else len(changed)))
        upto = at + int(rng.integers(1, 32))
        match int(rng.integers(4)):
            case 0 if at < len(changed):
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                del changed[at:upto]
            case 2:
                changed[at:upto] = rng.bytes(len(changed[at:upto]))
            case 3:
                del changed[at:]
    return bytes(changed)


def mutate_json(rng, content: bytes) -> bytes:
    """Another value for a key, a key less, a key more, or other bytes."""
    values = json.loads(content)
    key = list(values)[int(rng.integers(len(values)))]
    match int(rng.integers(4)):
        case 0:
            values[key] = VALUES[int(rng.integers(len(VALUES)))]
        case 1:
            del values[key]
        case 2:
            values[f"{key}_"] = values[key]
        case 3:
            return mutate(rng, content, len(content))
    return json.dumps(values).encode()


def test_mutated_checkpoints_load_or_are_refused_in_one_line(pair, rng: np.random.Generator) -> None:
    files = sorted(path for path in pair.rglob("*") if path.is_file())
    assert len(files) == 4
    before = {path: path.read_bytes() for path in files}
    seen: Counter[str] = Counter()
    for number in range(MUTANTS):
        path = files[number % len(files)]
        content = before[path]
        is_json = path.suffix == ".json"
        header = 8 + int.from_bytes(content[:8], "little")
        path.write_bytes(mutate_json(rng, content) if is_json else mutate(rng, content, header))
        message = ""
        try:
            load_checkpoint(str(pair))
        except CheckpointError as error:
            message = str(error)
        assert len(message.splitlines()) <= 1, number
        assert len(message) < 1000
        seen["refused" if message else "loaded"] += 1
        path.write_bytes(content)
        assert sorted(p for p in pair.rglob("*") if p.is_file()) == files
    assert sum(seen.values()) == MUTANTS
    assert seen["loaded"] > 0
    assert seen["refused"] > MUTANTS / 2


def test_a_network_that_is_not_in_its_file_takes_no_memory(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pair / MODEL_FOLDER / "config.json"
    values = json.loads(config.read_text()) | {"d_model": 16_384, "n_heads": 8, "ff_dim": 65_536, "n_layers": 256}
    config.write_text(json.dumps(values))  # some four terabytes
    made: list[int] = []
    original = torch.nn.Parameter.__new__
    monkeypatch.setattr(
        torch.nn.Parameter,
        "__new__",
        lambda cls, data=None, requires_grad=True: (
            made.append(0 if data is None or data.is_meta else data.numel()),
            original(cls, data, requires_grad),
        )[1],
    )
    with pytest.raises(CheckpointError, match=r"is missing|has shape"):
        Kronos.from_pretrained(pair / MODEL_FOLDER)
    assert made
    assert sum(made) == 0
