from __future__ import annotations

import csv
import dataclasses
import json
import math
from datetime import datetime

import numpy as np
import pytest
import torch

from btcbt.config import time_ms
from btcbt.errors import CandleError, CheckpointError, ConfigError
from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.checkpoints.files import read_data_ranges, weights_digest, write_data_ranges
from btcbt.models.kronos.training.batches import WindowSampler, make_batch
from btcbt.models.kronos.training.loop import Fit, runs_in_bfloat16
from btcbt.models.kronos.training.losses import Encoder, model_losses, tokenizer_losses
from btcbt.models.kronos.training.recipe import FinetuneConfig, Optimizer, Span
from btcbt.models.kronos.training.start import freeze_calendar
from btcbt.records import HIGH, LOW, VOLUME, DataRange
from btcbt.workflows.finetune import run_recipe

FEW = {"steps": 12, "batch_size": 4, "learning_rate": 3e-3, "select_every": 4}


def recipe(**changes):
    values = {
        "name": "tiny",
        "candles": ["a"],
        "window": 32,
        "context": [12, 20],
        "train": {"start": "2019-01-01", "end": "2019-01-15"},
        "select": {"start": "2019-01-15", "end": "2019-01-20"},
        "tokenizer": FEW,
        "model": FEW,
        "output": "out",
        "device": "cpu",
    }
    return FinetuneConfig.model_validate(values | changes)


@pytest.fixture
def samplers(make_history):
    config = recipe()
    history = [make_history(24 * 20)]
    return tuple(sampler(history, span) for span in (config.train, config.select))


def sampler(histories, span, window=32):
    return WindowSampler(histories, time_ms(span.start), time_ms(span.end), window)


def test_training_and_selection_windows_lie_inside_their_spans_and_cross_no_gap(make_history):
    history = make_history(24 * 20, missing=range(100, 103))
    config = recipe()
    for span in (config.train, config.select):
        windows = sampler([history], span)
        _, times = windows.values(np.arange(len(windows.starts)))
        assert (np.diff(times, axis=1) == history.interval_ms).all()
        assert times.min() >= time_ms(span.start)
        assert times.max() < time_ms(span.end)
    inside = (24 * 14 - 3) - 2 * 31  # two runs of contiguous hours, each 31 windows short
    assert len(sampler([history], config.train).starts) == inside


def test_a_span_without_one_window_is_refused(make_history):
    span = Span(start=datetime(2019, 1, 1), end=datetime(2019, 1, 2))
    with pytest.raises(CandleError, match=r"no 32 contiguous candles in 2019-01-01T00:00Z \.\. 2019-01-02T00:00Z"):
        sampler([make_history(100)], span)


def test_a_candle_too_large_for_float32_is_named_where_a_window_holds_it(make_history):
    history = make_history(24 * 20)
    values = history.values.copy()
    values[100, VOLUME] = 1e30
    broken = dataclasses.replace(history, values=values, source="mine.parquet")
    config = recipe()
    message = r"train: candles mine\.parquet: volume 1e\+30 at 2019-01-05T04:00Z is too large to be scaled in float32"
    with pytest.raises(CandleError, match=message):
        WindowSampler([history, broken], time_ms(config.train.start), time_ms(config.train.end), 32, "train")
    sampler([broken], config.select)  # no window of that range holds it
    limit = math.sqrt(float(np.finfo(np.float32).max) / 32)
    values[100, VOLUME] = limit
    windows = sampler([broken], config.train)
    rows = np.flatnonzero((windows.starts[:, 1] > 68) & (windows.starts[:, 1] <= 100))
    assert len(rows) == 32
    with np.errstate(all="raise", under="ignore"):
        assert bool(torch.isfinite(make_batch(*windows.values(rows), 31, 5.0).candles).all())


def test_the_scaling_of_a_window_does_not_look_behind_its_context(samplers):
    values, times = samplers[0].values(np.arange(3))
    changed = values.copy()
    changed[:, 20:] *= 1.5
    before, after = (make_batch(v, times, 20, 5.0).candles for v in (values, changed))
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_the_model_s_loss_counts_the_candles_behind_the_context_alone(samplers):
    torch.manual_seed(0)
    config = recipe()
    tokenizer, model = small_pair()
    batch = samplers[0].draw(config, 4, (1, 0))
    losses = model_losses(model, encoder(tokenizer), batch)
    s1, s2 = tokenizer.encode(batch.candles)
    logits = model(s1[:, :-1], s2[:, :-1], batch.stamps[:, :-1], s1[:, 1:])
    behind = slice(batch.context - 1, None)
    slow = [
        torch.nn.functional.cross_entropy(part[:, behind].flatten(0, 1), ids[:, batch.context :].flatten())
        for part, ids in ((logits.s1, s1), (logits.s2, s2))
    ]
    torch.testing.assert_close(losses["s1"], slow[0])
    torch.testing.assert_close(losses["s2"], slow[1])
    torch.testing.assert_close(losses["loss"], (slow[0] + slow[1]) / 2)


def test_the_validation_loss_is_causal_in_every_layer(samplers):
    """A later candle changes no earlier logit, in evaluation mode too (in the reference it does)."""
    tokenizer, model = small_pair()
    batch = samplers[1].draw(recipe(), 2, (1, 0))
    s1, s2 = tokenizer.encode(batch.candles)
    with torch.no_grad():
        before = model(s1[:, :-1], s2[:, :-1], batch.stamps[:, :-1], s1[:, 1:])
        s1[:, 20:], s2[:, 20:] = s1[:, 20:] ^ 1, s2[:, 20:] ^ 1
        after = model(s1[:, :-1], s2[:, :-1], batch.stamps[:, :-1], s1[:, 1:])
    assert torch.equal(before.s1[:, :20], after.s1[:, :20])
    assert torch.equal(before.s2[:, :19], after.s2[:, :19])
    assert not torch.equal(before.s2[:, 19:], after.s2[:, 19:])


def test_a_mirrored_window_is_a_valid_one_turned_upside_down(samplers):
    config = recipe(mirror=True)
    draws = [samplers[0].draw(config, 16, (1, step)) for step in range(4)]
    plain = [samplers[0].draw(recipe(), 16, (1, step)) for step in range(4)]
    flipped = 0
    for mirrored, straight in zip(draws, plain, strict=True):
        assert mirrored.context == straight.context
        same = (mirrored.candles == straight.candles).all(-1).all(-1)
        flipped += int((~same).sum())
        assert (mirrored.candles[..., HIGH] >= mirrored.candles[..., LOW] - 6).all()
        torch.testing.assert_close(mirrored.candles[..., 4:], straight.candles[..., 4:])
        torch.testing.assert_close(
            mirrored.candles[~same][..., 3], -straight.candles[~same][..., 3], atol=2e-3, rtol=1e-3
        )
    assert 16 < flipped < 48


def fitted(samplers, config=None, settings=None, objective=tokenizer_losses):
    tokenizer, _ = small_pair(seed=5)
    settings = settings or Optimizer(**FEW)
    fit = Fit(tokenizer, objective, *samplers, config or recipe(), settings, "tokenizer", report=lambda _: None)
    fit.run()
    return tokenizer, fit


def test_fits_are_reproducible_learn_and_keep_the_best_weights(samplers):
    (first, fit), (second, again) = fitted(samplers), fitted(samplers)
    assert weights_digest(first) == weights_digest(second)
    assert fit.progress == again.progress
    selected = [row["loss"] for row in fit.progress.rows if row["split"] == "select"]
    assert len(selected) == 4
    assert min(selected) < 0.8 * selected[0]
    assert fit.progress.best_loss == min(selected) == fit.evaluate()["loss"]
    assert not first.training


@pytest.mark.parametrize("seed", [20250101000000, 2**63 - 1])
def test_any_seed_of_a_recipe_can_be_drawn_from(samplers, seed):
    _, fit = fitted(samplers, config=recipe(seed=seed), settings=Optimizer(**FEW | {"steps": 1}))
    assert fit.progress.step == 1


def test_the_stream_of_a_small_seed_is_what_it_ever_was(samplers, monkeypatch):
    seeds = []
    monkeypatch.setattr("btcbt.models.kronos.training.loop.torch.manual_seed", seeds.append)
    fitted(samplers, config=recipe(seed=3), settings=Optimizer(**FEW | {"steps": 2}))
    assert seeds[-2:] == [6_000_018, 6_000_019]


def test_a_batch_computed_in_parts_is_one_step(samplers):
    """The reconstruction is a mean over windows; the quantizer's entropy is not, so it is left out."""

    def mean_only(network, batch):
        losses = tokenizer_losses(network, batch)
        return losses | {"loss": losses["coarse"] + losses["full"]}

    whole, _ = fitted(samplers, objective=mean_only)
    parts, _ = fitted(samplers, objective=mean_only, settings=Optimizer(**FEW | {"accumulate": 4}))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


def test_a_stage_that_gets_no_better_ends_early(samplers):
    calls = []

    def worse(network, batch):
        losses = tokenizer_losses(network, batch)
        if not network.training:
            calls.append(1)
            return losses | {"loss": torch.tensor(float(len(calls)))}
        return losses

    _, fit = fitted(samplers, objective=worse, settings=Optimizer(**FEW | {"steps": 1000, "patience": 3}))
    assert fit.progress.step == 12
    assert fit.progress.best_step == 0


@pytest.mark.parametrize("broken", ["loss", "gradient's norm", "selection loss"])
def test_a_number_that_is_none_stops_the_fit_with_the_best_weights(samplers, broken):
    """From step 6 on; the weights of step 4 had been looked at."""
    steps = []

    def objective(network, batch):
        losses = tokenizer_losses(network, batch)
        if network.training:
            steps.append(1)
        loss = losses["loss"]
        if len(steps) > 6 and network.training and broken == "loss":
            loss = loss * torch.nan
        if len(steps) > 6 and broken == "gradient's norm":
            loss = loss + (loss - loss.detach()).sqrt()  # its value is right, its derivative infinite
        if len(steps) > 6 and not network.training and broken == "selection loss":
            loss = loss * torch.inf
        return losses | {"loss": loss}

    tokenizer, _ = small_pair(seed=5)
    fit = Fit(tokenizer, objective, *samplers, recipe(), Optimizer(**FEW), "tokenizer", report=lambda _: None)
    step = 8 if broken == "selection loss" else 6
    message = rf"the {broken} is (nan|inf) at step {step}; the weights of step 4 \(selection loss .*\) are kept"
    with pytest.raises(CheckpointError, match=message):
        fit.run()
    assert fit.progress.best_step == 4
    steps.clear()
    assert fit.evaluate()["loss"] == fit.progress.best_loss


def test_windows_of_a_fixed_context_are_tokenised_once(samplers):
    tokenizer, _ = small_pair()
    encode = encoder(tokenizer)
    config = recipe(context=[16, 16])
    batch = samplers[0].draw(config, 8, (1, 0))
    first = encode(batch)
    encode.engine = None  # nothing is encoded any more
    again = encode(batch)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    slow = tokenizer.encode(batch.candles)
    assert all(torch.equal(a, b) for a, b in zip(first, slow, strict=True))
    assert samplers[0].draw(recipe(), 8, (1, 0)).keys is None, "with contexts drawn anew no window comes again"


def test_the_tokens_of_a_window_do_not_depend_on_its_batch(samplers):
    encode = encoder(small_pair()[0])
    batch = samplers[0].draw(recipe(), 6, (1, 0))
    whole = encode(batch)
    alone = [encode(batch.part(i, 6)) for i in range(6)]
    for part in (0, 1):
        assert torch.equal(whole[part], torch.cat([tokens[part] for tokens in alone]))


def test_bfloat16_is_for_devices_that_have_it():
    assert not runs_in_bfloat16(recipe(), torch.device("cpu"))
    assert runs_in_bfloat16(recipe(precision="bfloat16"), torch.device("cpu"))


def test_calendar_tables_that_are_not_trained_stay_zero():
    _, model = small_pair()
    freeze_calendar(model, ["hour", "weekday"], zero=True)
    tables = dict(zip(("minute", "hour", "weekday", "day", "month"), model.time_emb.tables(), strict=True))
    assert {name for name, table in tables.items() if bool(table.any())} == {"hour", "weekday"}
    assert {name for name, table in tables.items() if table.requires_grad} == {"hour", "weekday"}


def test_a_recipe_writes_a_checkpoint_that_says_what_it_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = "{steps: 2, batch_size: 2, select_every: 1}"
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: tiny
candles: ["bundled:BTCUSD_1h", "bundled:ETHUSD_1h"]
window: 16
context: [6, 10]
train: {{start: 2019-01-15, end: 2019-02-01}}
select: {{start: 2019-02-12, end: 2019-02-20}}
select_on: ["bundled:BTCUSD_1h"]
tokenizer: {few}
model: {few}
calendar: [hour]
precision: bfloat16
output: made
"""
    )
    lines = []
    (folder,), _ = run_recipe("recipe.yaml", lines.append)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "kronos"  # the Auto classes read this
    assert folder.name == "made"
    KronosTokenizer.from_pretrained(folder / "tokenizer")
    Kronos.from_pretrained(folder / "model")
    ranges = read_data_ranges(folder)
    assert [r.use for r in ranges] == ["pretraining", "selection"]
    assert ranges[0].start == 1_547_510_400_000
    assert ranges[1].end == 1_550_620_800_000
    assert json.loads((folder / "recipe.json").read_text())["seed"] == 0
    with (folder / "model_loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train", "select"}
    assert any("tokens/s" in line and "min left" in line for line in lines)
    for stage in ("tokenizer", "model"):
        assert (folder / f"{stage}_loss.png").read_bytes().startswith(b"\x89PNG")


def test_ranges_of_the_first_years_are_read_as_they_were_written(tmp_path):
    first = time_ms(recipe(train={"start": "0001-01-01", "end": "2019-01-15"}).train.start)
    ranges = (DataRange("pretraining", first, 0), DataRange("finetuning", 1_500, 2_000))
    write_data_ranges(tmp_path, ranges)
    assert read_data_ranges(tmp_path) == (ranges[0], DataRange("finetuning", 1_000, 2_000))
    assert "0001-01-01T00:00:00Z" in (tmp_path / "data_ranges.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": [12, 40]}, r"context 12\.\.40 must lie within"),
        ({"select": {"start": "2019-01-10", "end": "2019-01-20"}}, "starts before the training range ends"),
        ({"select_on": ["b"]}, "not among candles"),
        ({"train": {"start": "2019-01-15", "end": "2019-01-15"}}, "is not after start"),
        ({"size": "huge"}, "nano"),
        ({"model": FEW | {"betas": [1.0, 0.95]}}, "less than 1"),
        ({"model": FEW | {"batch_size": 10**11}}, "less than or equal to 65536"),
        ({"window": 10**8}, "less than or equal to 1000000"),
        ({"embargo": 20_000_000}, r"the embargo of 20,000,000 candles .* reaches back to before year 1"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        recipe(**change)


def test_a_broken_recipe_names_its_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\nwindoww: 3\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml:2: unknown key 'windoww'"):
        run_recipe(path, lambda _: None)


def encoder(tokenizer):
    return Encoder(tokenizer, torch.device("cpu"))


def small_pair(seed=0):
    from btcbt.models.kronos.shapes import MODELS, TOKENIZERS

    torch.manual_seed(seed)
    return KronosTokenizer(TOKENIZERS["nano"]).eval(), Kronos(MODELS["nano"]).eval()
