from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from btcbt.errors import CheckpointError
from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.checkpoints.files import (
    read_data_ranges,
    resolve_folder,
    weights_digest,
    write_data_ranges,
)
from btcbt.models.kronos.checkpoints.published import known_ranges, known_tokenizer
from btcbt.models.kronos.shapes import MODELS, TOKENIZERS, ModelConfig, TokenizerConfig
from btcbt.records import DataRange


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "parameters"), [("mini", 4_108_032), ("small", 24_741_376), ("base", 102_310_592)])
def test_models_have_the_published_sizes(name, parameters):
    with torch.device("meta"):
        assert count(Kronos(MODELS[name])) == parameters


@pytest.mark.parametrize(("name", "group_size"), [("base", 4), ("2k", 5)])
def test_tokenizers_have_the_published_size(name, group_size):
    with torch.device("meta"):
        tokenizer = KronosTokenizer(TOKENIZERS[name])
    assert count(tokenizer) == 3_958_042
    assert TOKENIZERS[name].group_size == group_size
    assert len(tokenizer.encoder) == len(tokenizer.decoder) == 3


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_network_loads_equal(model, tokenizer, tmp_path):
    for module in (model, tokenizer):
        module.save_pretrained(tmp_path)
        again = type(module).from_pretrained(tmp_path)
        assert again.config == module.config
        assert not again.training
        assert weights_digest(again) == weights_digest(module)
        for key, value in module.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key
    assert not list(tmp_path.glob(".writing-*"))


def test_files_carry_upstream_s_buffers_and_are_accepted_without_them(model, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "t")
    model.save_pretrained(tmp_path / "m")
    weights = load_file(tmp_path / "t/model.safetensors")
    assert weights["tokenizer.bsq.basis"].tolist() == [2**i for i in range(9, -1, -1)]
    assert weights["tokenizer.bsq.group_basis"].tolist() == [16, 8, 4, 2, 1]
    weights = load_file(tmp_path / "m/model.safetensors")
    assert "transformer.0.self_attn.rotary.inv_freq" in weights
    bare = {key: value for key, value in weights.items() if not key.endswith("inv_freq")}
    save_file(bare, tmp_path / "m/model.safetensors")
    assert weights_digest(Kronos.from_pretrained(tmp_path / "m")) == weights_digest(model)


def test_half_precision_files_are_read_as_float32(saved, model):
    weights = {k: v.bfloat16() for k, v in load_file(saved / "model.safetensors").items()}
    save_file(weights, saved / "model.safetensors")
    again = Kronos.from_pretrained(saved)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    torch.testing.assert_close(again.norm.weight, model.norm.weight.bfloat16().float())


def change(saved, edit):
    weights = load_file(saved / "model.safetensors")
    edit(weights)
    save_file(weights, saved / "model.safetensors")


def put(key, value):
    return lambda weights: weights.update({key: value})


BREAKS = {
    "a wrong shape": (put("head.proj_s1.bias", torch.zeros(7)), r"head\.proj_s1\.bias.*\(7,\).*\(32,\)"),
    "a missing key": (lambda w: w.pop("norm.weight"), r"'norm\.weight' is missing"),
    "a foreign key": (put("extra.weight", torch.zeros(2)), r"'extra\.weight' does not belong to Kronos"),
    "a NaN": (lambda w: w["norm.weight"].fill_(torch.nan), r"'norm\.weight' has NaN"),
    "integer weights": (put("norm.weight", torch.ones(32, dtype=torch.int64)), r"'norm\.weight' holds I64"),
    "another constant": (
        lambda w: w["dep_layer.cross_attn.rotary.inv_freq"].mul_(2),
        r"'dep_layer\.cross_attn\.rotary\.inv_freq' differs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_checkpoint_names_its_key(saved, what):
    edit, message = BREAKS[what]
    change(saved, edit)
    with pytest.raises(CheckpointError, match=message) as caught:
        Kronos.from_pretrained(saved)
    assert "\n" not in str(caught.value)


def test_a_truncated_or_garbled_file_is_a_broken_file(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:5], b"", b"\xff" * 100, (2**62).to_bytes(8, "little") + whole[8:]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: broken file"):
            Kronos.from_pretrained(saved)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        Kronos.from_pretrained(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", "expected a JSON object"),
        (b"\xff\xfe", "not JSON"),
        (b"{}", "key 's1_bits' is missing"),
        (b" " * (1 << 20) + b"{}", "larger than"),
    ],
)
def test_a_broken_configuration_names_its_file(saved, content, message):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"config\.json.*{message}"):
        Kronos.from_pretrained(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("d_model", 10**9, "expected 1 to 16384"),
        ("n_layers", 0, "expected 1 to 256"),
        ("n_layers", "2", "expected int"),
        ("n_layers", True, "expected int"),
        ("n_heads", 3, "does not divide into 3 heads"),
        ("d_model", 18, "does not divide"),
        ("s1_bits", 40, "expected 1 to 16"),
        ("ffn_dropout_p", 1.0, "probability below 1"),
        ("learn_te", 0, "expected bool"),
    ],
)
def test_impossible_shapes_are_refused_before_memory_is_taken(model_config, key, value, message):
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_dict(model_config.to_dict() | {key: value}, "config.json")


def test_unknown_keys_of_a_configuration_are_ignored_and_groups_must_divide(tokenizer_config):
    values = tokenizer_config.to_dict()
    assert TokenizerConfig.from_dict(values | {"_name": 1}, "x") == tokenizer_config
    with pytest.raises(CheckpointError, match="do not divide into groups of 3"):
        TokenizerConfig.from_dict(values | {"group_size": 3}, "x")


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_refused(monkeypatch):
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_folder("./nothing/here")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="nobody/nothing: no such folder, and not available from the hub"):
        resolve_folder("nobody/nothing")


def test_data_ranges_round_trip_and_unknown_stays_unknown(tmp_path):
    assert read_data_ranges(tmp_path) is None
    write_data_ranges(tmp_path, None)
    assert read_data_ranges(tmp_path) is None
    ranges = (
        DataRange("pretraining", 1_506_816_000_000, 1_554_076_800_000),
        DataRange("selection", 0, 3_600_000),
        DataRange("looked_at", 3_600_000, 7_200_000),
    )
    write_data_ranges(tmp_path, ranges, "a note")
    assert read_data_ranges(tmp_path) == ranges
    assert json.loads((tmp_path / "data_ranges.json").read_text())["ranges"][0]["start"] == "2017-10-01T00:00:00Z"
    (tmp_path / "data_ranges.json").write_text('{"ranges": [{"use": "fit", "start": "x", "end": "y"}]}')
    with pytest.raises(CheckpointError, match="a range is malformed"):
        read_data_ranges(tmp_path)


def test_a_declared_range_that_ends_before_it_starts_is_refused_in_one_line(tmp_path):
    entry = {"use": "fit", "start": "2025-01-01T00:00:00Z", "end": "2024-01-01T00:00:00Z"}
    (tmp_path / "data_ranges.json").write_text(json.dumps({"ranges": [entry]}))
    with pytest.raises(CheckpointError) as caught:
        read_data_ranges(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/data_ranges.json: the range 'fit' ends 2024-01-01T00:00:00Z, before its start "
        "2025-01-01T00:00:00Z; swap the two"
    )


def test_the_published_fine_tune_is_known_to_have_seen_its_range_and_its_pretraining_is_not():
    name = "lc2004/kronos_base_model_BTCUSDT_1h_finetune"
    uses = {r.use: r for r in known_ranges(name)}
    assert set(uses) == {"unknown", "finetuning", "selection"}
    assert datetime.fromtimestamp(uses["finetuning"].start / 1000, UTC) == datetime(2023, 10, 19, tzinfo=UTC)
    assert datetime.fromtimestamp(uses["selection"].end / 1000, UTC) == datetime(2025, 10, 18, 14, tzinfo=UTC)
    assert known_ranges("NeoQuasar/Kronos-small") is None
    assert known_tokenizer("NeoQuasar/Kronos-mini") == "NeoQuasar/Kronos-Tokenizer-2k"


def test_the_digest_is_of_content(model):
    before = weights_digest(model)
    with torch.no_grad():
        weight = model.norm.weight
        kept = weight[0].item()
        weight[0] = float(np.nextafter(np.float32(kept), np.float32(2)))
        assert weights_digest(model) != before
        weight[0] = kept
    assert weights_digest(model) == before
