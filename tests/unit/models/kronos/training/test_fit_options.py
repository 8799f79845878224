"""Schedules, adapters, several processes, and the reference's leaky scaling."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.errors import ConfigError
from btcbt.models.kronos import Kronos
from btcbt.models.kronos.checkpoints.files import read_data_ranges, read_json
from btcbt.models.kronos.training.batches import WindowSampler, make_batch
from btcbt.models.kronos.training.finetune import NEVER_CLEAN, _without_folders, finetune
from btcbt.models.kronos.training.lora import add_adapters, merge_adapters
from btcbt.models.kronos.training.losses import Encoder, model_losses
from btcbt.models.kronos.training.recipe import FinetuneConfig, Lora, Optimizer
from btcbt.models.kronos.training.schedule import ONE_CYCLE_START, learning_rate, make_optimizer
from btcbt.models.kronos.training.start import load_starting_weights
from btcbt.windows import contamination

FEW = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "select_every": 2}
HOUR_MS = 3_600_000


def recipe(pair, tmp_path, **changes):
    values = {
        "name": "tiny",
        "candles": ["bundled:BTCUSD_1h"],
        "start": {"model": str(pair)},
        "window": 24,
        "context": [8, 16],
        "train": {"start": "2019-01-15", "end": "2019-03-01"},
        "select": {"start": "2019-03-10", "end": "2019-03-12"},
        "tokenizer": FEW,
        "model": FEW,
        "device": "cpu",
        "output": str(tmp_path / "out"),
    }
    return FinetuneConfig.model_validate(values | changes)


def fitted(config, candles):
    return finetune(dict.fromkeys(config.candles, candles), config, lambda _: None)


# Schedules


def test_one_cycle_is_that_of_torch():
    settings = Optimizer(steps=200, schedule="one_cycle", learning_rate=3e-3, warmup=0.1, floor=1e-5)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=200, pct_start=0.1, div_factor=1 / ONE_CYCLE_START,
        final_div_factor=ONE_CYCLE_START / 1e-5,
    )  # fmt: skip
    for step in range(200):
        assert learning_rate(settings, step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step
        optimizer.step()
        if step < 199:
            torchs.step()


def test_cosine_warms_up_and_decays_to_its_floor():
    settings = Optimizer(steps=100, learning_rate=1.0, warmup=0.1, floor=0.2)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert np.argmax(rates) in (9, 10)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[99] == pytest.approx(0.2, abs=0.01)


def test_matrices_alone_decay(model):
    decayed, others = make_optimizer(model, Optimizer(steps=1)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert sum(len(group["params"]) for group in (decayed, others)) == len(list(model.parameters()))


# Adapters


def test_adapters_train_little_and_are_merged_into_upstream_s_layout(pair, tmp_path, sample_candles, model):
    pytest.importorskip("peft")
    config = recipe(pair, tmp_path, lora={"rank": 2, "targets": ["q_proj", "w1"]}, tokenizer=None)
    child = fitted(config, sample_candles)
    merged = Kronos.from_pretrained(child / "model")  # refuses foreign and missing keys
    parent, moved = dict(model.named_parameters()), set()
    for name, weight in merged.named_parameters():
        difference = (weight - parent[name]).detach()
        if bool(difference.abs().max() > 0):
            moved.add(name.split(".")[-2])
            assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2
    assert moved == {"q_proj", "w1"}


def test_merged_adapters_compute_what_they_did_beside_the_weights(pair, tmp_path, model_config):
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model = Kronos(model_config).eval()
    add_adapters(model, Lora(rank=4), seed=1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert 0 < sum(p.numel() for p in trained) < 0.5 * sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_(std=0.1)
    ids, stamp = torch.randint(0, 32, (2, 1, 12)), torch.zeros(1, 12, 5, dtype=torch.int64)
    before = model(ids[0], ids[1], stamp, ids[0])
    merge_adapters(model)
    after = model(ids[0], ids[1], stamp, ids[0])
    torch.testing.assert_close(before.s2, after.s2, atol=1e-4, rtol=1e-4)
    assert set(model.state_dict()) == set(Kronos(model_config).state_dict())


def test_layers_that_are_not_there_cannot_be_adapted(model_config):
    pytest.importorskip("peft")
    for targets in (("nothing",), ("q_proj", "q_prj"), ("w1", "hour_embed"), ("self_attn.q_proj",)):
        model = Kronos(model_config)
        message = (
            rf"lora\.targets \['{targets[-1]}'\]: no linear layer has that name; choose from \['fusion_proj', .*'w3'\]"
        )
        with pytest.raises(ConfigError, match=message):
            add_adapters(model, Lora(targets=targets), seed=0)
        assert set(model.state_dict()) == set(Kronos(model_config).state_dict())


def test_without_peft_its_name_is_said(model_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'btcbt\[train\]'"):
        add_adapters(Kronos(model_config), Lora(), seed=0)


def test_adapters_need_a_model_to_adapt(pair, tmp_path):
    with pytest.raises(ValueError, match=r"name it in start\.model"):
        recipe(pair, tmp_path, lora={}, start={"tokenizer": "kronos-nano"})


# Several processes


def test_two_processes_have_the_loss_curve_of_one(pair, tmp_path, sample_candles):
    pytest.importorskip("accelerate")
    values = recipe(
        pair, tmp_path, dropout=0.0, tokenizer=FEW | {"accumulate": 2}, output=str(tmp_path / "two")
    ).model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))  # JSON is YAML
    command = ["torchrun", "--nproc-per-node", "2", "--master-port", "29511", "-m", "btcbt", "finetune", "recipe.yaml"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("checkpoint in") == 1, "one process alone prints"
    one = fitted(FinetuneConfig.model_validate(values | {"output": str(tmp_path / "one")}), sample_candles)
    for name in ("tokenizer_loss.csv", "model_loss.csv"):
        curves = [list(csv.DictReader((folder / name).open())) for folder in (one, tmp_path / "two")]
        assert len(curves[0]) == len(curves[1]) == 5
        for row, other in zip(*curves, strict=True):
            assert row["split"] == other["split"]
            for key in set(row) - {"split"}:
                assert (row[key] == "") == (other[key] == "")
                assert not row[key] or float(row[key]) == pytest.approx(float(other[key]), rel=2e-4), (name, row, key)
    assert read_json(one / "fit.json") == read_json(tmp_path / "two" / "fit.json")


def test_a_batch_that_does_not_divide_is_refused(pair, tmp_path):
    with pytest.raises(ValueError, match=r"model\.batch_size 4 does not divide by accumulate 3"):
        recipe(pair, tmp_path, model=FEW | {"accumulate": 3})


# What is written down


def test_no_folder_of_the_machine_is_written_down(pair, tmp_path, sample_candles):
    file = str(tmp_path / "mine" / "candles.parquet")
    config = recipe(pair, tmp_path, candles=[file], select_on=[file], tokenizer=None, model=FEW | {"steps": 1})
    child = fitted(config, dataclasses.replace(sample_candles, source=file))
    written = read_json(child / "recipe.json")
    assert (written["candles"], written["select_on"]) == (["candles.parquet"], ["candles.parquet"])
    assert (written["start"], written["output"]) == ({"tokenizer": None, "model": "parent"}, "out")
    assert "on candles.parquet (SHA-256" in read_json(child / "data_ranges.json")["note"]
    for name in child.rglob("*.*"):
        if name.is_file():
            assert str(tmp_path).encode() not in name.read_bytes(), name
    relative = config.model_copy(update={"candles": ("bundled:BTCUSD_1h", "data/x.parquet"), "output": "runs/mine"})
    kept = _without_folders(relative.model_dump(mode="json"))
    assert (kept["candles"], kept["output"]) == (["bundled:BTCUSD_1h", "data/x.parquet"], "runs/mine")
    assert FinetuneConfig.model_validate(written)


# The reference's leaky scaling


def test_the_leaky_scaling_knows_the_whole_window_and_counts_every_candle(sample_candles):
    values, times = (array[None, :40] for array in (sample_candles.values.astype(np.float32), sample_candles.open_time))
    batch = make_batch(values, times, 20, 5.0, leaky=True)
    slow = (values - values.mean(1, keepdims=True)) / (values.std(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(batch.candles.numpy(), np.clip(slow, -5, 5), atol=1e-3)
    assert batch.context == 1
    changed = values.copy()
    changed[:, 20:] *= 1.1
    leaked = make_batch(changed, times, 20, 5.0, leaky=True).candles[:, :20]
    assert not torch.equal(batch.candles[:, :20], leaked)


def test_a_leaky_fit_is_never_clean_and_neither_are_its_children(pair, tmp_path, sample_candles):
    config = recipe(pair, tmp_path, scaling="window_with_future", model=FEW | {"steps": 1}, tokenizer=None)
    leaky = fitted(config, sample_candles)
    origins = sample_candles.open_time[-5:] + 10**12
    for folder in (leaky, leaky / "model", leaky / "tokenizer"):
        ranges = read_data_ranges(folder)
        assert NEVER_CLEAN in ranges
        assert set(contamination(origins, ranges)) == {"seen"}
        assert "CONTAMINATED" in read_json(folder / "data_ranges.json")["note"]
    honest = {"start": {"model": str(leaky)}, "output": str(tmp_path / "child"), "tokenizer": None}
    child = fitted(recipe(pair, tmp_path, **honest, model=FEW | {"steps": 1}), sample_candles)
    assert set(contamination(origins, read_data_ranges(child))) == {"seen"}
    assert set(contamination(origins, read_data_ranges(pair))) == {"clean"}


def test_one_recipe_fits_both_scalings_and_prints_their_losses_side_by_side(pair, tmp_path):
    values = recipe(pair, tmp_path, scaling=["context", "window_with_future"], tokenizer=None).model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    done = CliRunner().invoke(app, ["finetune", str(tmp_path / "recipe.yaml")])
    assert done.exit_code == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert table[1] == ["fitted", "with", "context", "window_with_future"]
    rows = {row[0]: [float(cell) for cell in row[1:]] for row in table[2:4]}
    for column, name in enumerate(("context", "window_with_future")):
        folder = tmp_path / "out" / name
        curve = csv.DictReader((folder / "model_loss.csv").open())
        best = min(float(row["loss"]) for row in curve if row["split"] == "select")
        assert rows[name][column] == pytest.approx(best, abs=2e-4), "its own measure is what was selected on"
        assert done.stdout.count(f"checkpoint in {folder}") == 1


# What the losses may know


def test_later_candles_change_no_earlier_loss(pair, tmp_path, sample_candles):
    """Through scaling, tokenizer, every layer of the model and the dependency layer, in evaluation mode, too."""
    start = load_starting_weights(recipe(pair, tmp_path))
    model, encode = start.model.eval(), Encoder(start.tokenizer, torch.device("cpu"))
    values = sample_candles.values[None, :40].astype(np.float32)
    changed = values.copy()
    changed[:, 30:] *= 1.3
    times = sample_candles.open_time[None, :40]

    @torch.no_grad()
    def losses(values):
        batch = make_batch(values, times, 16, 5.0)
        s1, s2 = encode(batch)
        logits = model(s1[:, :-1], s2[:, :-1], batch.stamps[:, :-1], s1[:, 1:], first=15)
        cross_entropy = torch.nn.functional.cross_entropy
        return torch.stack(
            [cross_entropy(part[0], ids[0, 16:], reduction="none") for part, ids in ((logits.s1, s1), (logits.s2, s2))]
        )

    before, after = losses(values), losses(changed)
    assert torch.equal(before[:, :14], after[:, :14])
    assert not torch.equal(before[:, 14:], after[:, 14:])


def test_the_mean_of_those_losses_is_what_is_measured(pair, tmp_path, sample_candles):
    start = load_starting_weights(recipe(pair, tmp_path))
    encode = Encoder(start.tokenizer, torch.device("cpu"))
    sampler = WindowSampler([sample_candles], 0, int(sample_candles.open_time[60]), 24)
    batch = make_batch(*sampler.values(np.arange(3)), 16, 5.0)
    whole = model_losses(start.model.eval(), encode, batch)["loss"]
    parts = [model_losses(start.model, encode, batch.part(i, 3))["loss"] for i in range(3)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_keeping_freed_memory_is_known_to_work_where_it_does():
    script = (
        "from btcbt.models.kronos.training.memory import keep_freed_memory as k; import sys; print(k(), sys.platform)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kept, platform = done.stdout.split()
    assert kept == str(platform == "linux")
