"""Fits that start from checkpoints, and what their own checkpoint then declares to have looked at."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from btcbt.config import load_config, time_ms
from btcbt.errors import CandleError, CheckpointError, ConfigError
from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.checkpoints.files import NANO, read_data_ranges, weights_digest
from btcbt.models.kronos.training.finetune import finetune, ranges_after_fit
from btcbt.models.kronos.training.recipe import FinetuneConfig
from btcbt.models.kronos.training.start import freeze_calendar, load_starting_weights

FEW = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3, "select_every": 1}


def recipe(**changes):
    values = {
        "name": "tiny",
        "candles": ["a"],
        "window": 24,
        "context": [8, 16],
        "train": {"start": "2019-01-01", "end": "2019-01-15"},
        "select": {"start": "2019-01-16", "end": "2019-01-20"},
        "model": FEW,
        "output": "out",
    }
    return FinetuneConfig.model_validate(values | changes)


def uses(folder):
    return [one.use for one in read_data_ranges(folder)]


def test_a_fit_starts_from_the_weights_of_a_folder_and_keeps_its_tokenizer(make_history, tmp_path, pair, tokenizer):
    config = recipe(start={"model": str(pair)}, output=str(tmp_path / "child"))
    child = finetune({"a": make_history(24 * 20)}, config, lambda _: None)
    assert weights_digest(KronosTokenizer.from_pretrained(child / "tokenizer")) == weights_digest(tokenizer)
    assert not (child / "tokenizer_loss.csv").exists()
    model = Kronos.from_pretrained(child / "model")
    parent = Kronos.from_pretrained(pair / "model")
    assert model.config.d_model == parent.config.d_model
    moved = [(a - b).abs().max().item() for a, b in zip(model.parameters(), parent.parameters(), strict=True)]
    assert 0 < max(moved) < 0.01  # two steps of 1e-3


def test_a_child_has_looked_at_what_its_parents_had(make_history, tmp_path, pair):
    history = {"a": make_history(24 * 20)}
    config = recipe(start={"model": str(pair)}, output=str(tmp_path / "child"))
    child = finetune(history, config, lambda _: None)
    assert uses(child) == ["pretraining", "selection", "finetuning", "selection"]
    assert read_data_ranges(child)[2].end == time_ms(config.train.end)
    again = finetune(history, recipe(start={"model": str(child)}, output=str(tmp_path / "grandchild")), lambda _: None)
    assert uses(again) == uses(child), "the same candles twice are one range"


def test_choices_that_a_parent_was_made_by_pass_on_to_its_child():
    config = recipe(start={"model": "kronos-nano"})
    ranges = ranges_after_fit(config, load_starting_weights(config).ranges)
    assert [one.use for one in ranges] == ["pretraining", "selection", "looked_at", "finetuning", "selection"]


def test_what_a_parent_does_not_declare_stays_unknown(make_history, tmp_path, pair):
    shutil.copytree(pair / "tokenizer", tmp_path / "bare")
    config = recipe(
        start={"model": str(pair), "tokenizer": str(tmp_path / "bare")}, output=str(tmp_path / "child"), tokenizer=FEW
    )
    child = finetune({"a": make_history(24 * 20)}, config, lambda _: None)
    assert uses(child) == ["unknown", "pretraining", "selection", "finetuning", "selection"]
    assert uses(child / "model") == uses(child), "a folder that is moved alone still says it"


def test_the_parts_of_a_pair_declare_what_the_pair_does(pair):
    from btcbt.models.kronos.checkpoints.locate import declared_ranges

    assert declared_ranges(pair / "model") == declared_ranges(pair) == read_data_ranges(pair)


def test_the_shipped_checkpoint_has_a_name(make_history):
    start = load_starting_weights(recipe(start={"model": "kronos-nano"}))
    assert weights_digest(start.model) == weights_digest(Kronos.from_pretrained(NANO / "model"))
    assert start.ranges == read_data_ranges(NANO)
    assert start.model.config.ffn_dropout_p == 0.1


def test_a_tokenizer_may_be_kept_under_a_new_model():
    start = load_starting_weights(recipe(start={"tokenizer": "kronos-nano"}))
    assert weights_digest(start.tokenizer) == weights_digest(KronosTokenizer.from_pretrained(NANO / "tokenizer"))
    assert weights_digest(start.model) != weights_digest(Kronos.from_pretrained(NANO / "model"))


def test_the_calendar_of_a_checkpoint_is_frozen_but_not_erased(model_config):
    model = Kronos(model_config)
    before = [table.clone() for table in model.time_emb.tables()]
    freeze_calendar(model, ["hour"], zero=False)
    for old, table in zip(before, model.time_emb.tables(), strict=True):
        assert torch.equal(old, table)
    assert sum(table.requires_grad for table in model.time_emb.tables()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "mini"}, r"its s1_bits is 5, but the recipe's size has 10; correct 'size' or leave it out"),
        ({"size": {"like": "nano", "s1_bits": 5, "s2_bits": 5}}, "its n_layers is 2, but the recipe's size has 4"),
        ({"size": None, "tokenizer_size": "base"}, "its d_model is 32, but the recipe's tokenizer_size has 256"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(pair, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_starting_weights(recipe(start={"model": str(pair)}, **changes))


def test_a_size_may_be_like_another_one_but_for_some_keys():
    start = load_starting_weights(
        recipe(
            size={"d_model": 64, "n_layers": 2, "s1_bits": 6, "s2_bits": 6},
            tokenizer_size={"like": "2k", "d_model": 32, "ff_dim": 48, "s1_bits": 6, "s2_bits": 6, "group_size": 4},
            tokenizer=FEW,
        )
    )
    model, tokenizer = start.model.config, start.tokenizer.config
    assert (model.d_model, model.n_layers, model.ff_dim, model.s1_bits) == (64, 2, 256, 6)
    assert (tokenizer.d_model, tokenizer.n_enc_layers, tokenizer.s2_bits, tokenizer.group_size) == (32, 4, 6, 4)
    assert start.tokenizer.embed.weight.shape == (32, 6)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"d_model": 66}, r"recipe 'tiny', size: d_model 66 does not divide into 4 heads"),
        ({"d_model": 0}, "greater than or equal to 1"),
        ({"n_layers": 1000}, "less than or equal to 48"),
        ({"layers": 2}, "Extra inputs"),
    ],
)
def test_a_shape_that_no_network_can_have_is_refused(shape, message):
    with pytest.raises((CheckpointError, ValueError), match=message):
        load_starting_weights(recipe(start={"tokenizer": "kronos-nano"}, size=shape))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("micro", r"recipe\.yaml:1: 'size': input should be 'nano', 'mini', 'small' or 'base', got 'micro'"),
        ("{like: huge}", r"recipe\.yaml:1: 'size\.like': input should be 'nano', .*, got 'huge'"),
        ("{depth: 3}", r"recipe\.yaml:1: unknown key 'size\.depth'"),
    ],
)
def test_a_size_that_does_not_exist_is_refused_by_file_line_and_key(tmp_path, size, message):
    file = tmp_path / "recipe.yaml"
    values = recipe(start={"tokenizer": "kronos-nano"}).model_dump(mode="json", exclude={"size"}, exclude_none=True)
    file.write_text(f"size: {size}\n" + yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message):
        load_config(file, FinetuneConfig)


def test_a_size_is_recorded_as_it_was_written():
    shape = {"like": "nano", "d_model": 64}
    for size in ("mini", shape):
        config = recipe(start={"tokenizer": "kronos-nano"}, size=size)
        assert config.model_dump(mode="json")["size"] == size
        assert FinetuneConfig.model_validate_json(config.model_dump_json()) == config


def test_bits_must_agree(pair):
    with pytest.raises(ConfigError, match=r"the tokenizer has 5 \+ 5 bits, the model 8 \+ 8"):
        load_starting_weights(recipe(start={"tokenizer": str(pair)}))


def test_a_missing_checkpoint_is_refused():
    with pytest.raises(CheckpointError, match="no such folder"):
        load_starting_weights(recipe(start={"model": "./nowhere"}))


def test_a_model_where_a_tokenizer_is_asked_for_is_refused(tmp_path, model):
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="a model without its tokenizer"):
        load_starting_weights(recipe(start={"model": str(tmp_path / "model")}))


def test_without_a_tokenizer_to_fit_or_to_keep_a_recipe_is_refused():
    with pytest.raises(ValueError, match=r"name one in start\.tokenizer"):
        recipe()


def test_training_stops_an_embargo_before_the_selection(make_history, tmp_path, pair):
    hour = 3_600_000
    config = recipe(start={"model": str(pair)}, select={"start": "2019-01-15", "end": "2019-01-20"})
    assert config.train_end_ms == time_ms(config.select.start) - 24 * hour
    assert recipe(start={"model": "x"}, embargo=0).train_end_ms == time_ms(config.train.end)
    assert recipe(start={"model": "x"}, embargo=30).train_end_ms == time_ms(config.select.start) - 6 * hour
    config = config.model_copy(update={"output": str(tmp_path / "child")})
    child = finetune({"a": make_history(24 * 20)}, config, lambda _: None)
    assert read_data_ranges(child)[2].end == config.train_end_ms


def test_an_embargo_that_leaves_nothing_to_train_on_is_refused():
    message = r"the embargo of 400 candles before select\.start 2019-01-16T00:00Z reaches back to 2018-12-30T08:00Z"
    with pytest.raises(ValueError, match=message):
        recipe(start={"model": "x"}, embargo=400)


@pytest.mark.parametrize("part", ["train", "select"])
def test_a_range_without_one_window_names_itself(make_history, pair, part):
    span = {
        "train": {"start": "2018-01-01", "end": "2018-06-01"},
        "select": {"start": "2020-01-01", "end": "2020-06-01"},
    }
    with pytest.raises(CandleError, match=rf"{part}: no 24 contiguous candles in 20"):
        finetune({"a": make_history(24 * 20)}, recipe(start={"model": str(pair)}, **{part: span[part]}), lambda _: None)


def test_the_recipe_of_the_shipped_checkpoint_is_that_of_the_experiment():
    recorded = FinetuneConfig.model_validate(json.loads((NANO / "recipe.json").read_text()))
    experiment = load_config(Path(__file__).parents[5] / "experiments" / "kronos-nano.yaml", FinetuneConfig)
    assert experiment == recorded
    assert read_data_ranges(NANO)[0].end == experiment.train_end_ms
    shape = dataclasses.asdict(Kronos.from_pretrained(NANO / "model").config)
    assert dataclasses.asdict(load_starting_weights(experiment).model.config) == shape
