"""Kronos behind transformers' Auto classes and `Trainer`, and `predict_btc`."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import btcbt.hf
from btcbt.candles import write_candles
from btcbt.errors import CandleError, CheckpointError, ConfigError
from btcbt.forecasters.kronos import load_checkpoint
from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.checkpoints.files import NANO, describe_pair, weights_digest
from btcbt.models.kronos.checkpoints.locate import find_tokenizer
from btcbt.models.kronos.hf.auto import IGNORED, KronosAutoTokenizer, KronosForCausalLM
from btcbt.models.kronos.hf.dataset import CandleDataset
from btcbt.models.kronos.training.batches import make_batch
from btcbt.models.kronos.training.losses import Encoder, model_losses
from btcbt.records import CHANNELS
from btcbt.workflows.predict import kronos_config, predict

REFERENCE = Path(__file__).resolve().parents[5] / ".bench" / "reference"


@pytest.fixture(scope="session")
def pair(tmp_path_factory, model, tokenizer):
    """A folder with ``model/`` and ``tokenizer/`` that says what it holds."""
    folder = tmp_path_factory.mktemp("pair")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "tokenizer")
    describe_pair(folder)
    return folder


@pytest.fixture
def auto(pair):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(pair), AutoTokenizer.from_pretrained(pair)


@pytest.fixture
def tokens(tokenizer, make_windows):
    """Ids, stamps and labels of four windows."""
    windows = make_windows(4, 30)
    values = np.stack([w.values for w in windows]).astype(np.float32)
    batch = make_batch(values, np.stack([w.open_time for w in windows]), 20, 5.0)
    with torch.no_grad():
        s1, s2 = tokenizer.encode(batch.candles)
    return batch, s1, s2


@pytest.mark.parametrize(
    "first",
    [
        "import btcbt.hf",
        "import transformers; from transformers import AutoTokenizer, AutoModelForCausalLM; import btcbt.hf",
        "import btcbt.hf; import transformers.modeling_utils",
        "from btcbt.models.kronos.hf import register; register(); register()",
    ],
)
def test_the_model_card_s_lines_work_in_every_order_of_imports(pair, first):
    script = f"""
{first}
from transformers import AutoTokenizer, AutoModelForCausalLM
path = {str(pair)!r}
print(type(AutoTokenizer.from_pretrained(path)).__name__, type(AutoModelForCausalLM.from_pretrained(path)).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["KronosAutoTokenizer", "KronosForCausalLM"]


def test_importing_the_package_installs_no_import_hook_and_registers_nothing():
    script = """
import sys
before = list(sys.meta_path)
import btcbt, btcbt.models.kronos.hf
assert sys.meta_path == before, sys.meta_path
assert "transformers" not in sys.modules and "torch" not in sys.modules
from transformers import CONFIG_MAPPING
assert "kronos" not in CONFIG_MAPPING
import btcbt.hf
assert "kronos" in CONFIG_MAPPING
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("btcbt")]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_plain_classes_load_from_a_pair_s_folder_and_by_the_shipped_name(pair, model, tokenizer):
    assert weights_digest(Kronos.from_pretrained(pair)) == weights_digest(model)
    for folder in (pair, pair / "model", pair / "tokenizer"):
        assert weights_digest(KronosTokenizer.from_pretrained(folder)) == weights_digest(tokenizer)
    for kind, part in ((Kronos, "model"), (KronosTokenizer, "tokenizer")):
        assert weights_digest(kind.from_pretrained("kronos-nano")) == weights_digest(kind.from_pretrained(NANO / part))


def test_every_folder_of_a_pair_is_understood(pair, model, tokenizer):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    for folder in (pair, pair / "model"):
        assert weights_digest(AutoModelForCausalLM.from_pretrained(folder)) == weights_digest(model)
        assert weights_digest(AutoTokenizer.from_pretrained(folder)) == weights_digest(tokenizer)
    assert weights_digest(AutoTokenizer.from_pretrained(pair / "tokenizer")) == weights_digest(tokenizer)
    assert AutoConfig.from_pretrained(pair).shape == model.config
    assert AutoConfig.from_pretrained(pair / "tokenizer").shape == tokenizer.config


@torch.no_grad()
def test_the_auto_model_is_the_network_under_the_same_names(auto, model, tokens):
    loaded, coder = auto
    batch, s1, s2 = tokens
    assert isinstance(coder, KronosTokenizer)
    assert list(loaded.state_dict()) == list(model.state_dict())
    expected, hidden = model.decode_s1(s1, s2, batch.stamps)
    logits, own = loaded.decode_s1(s1, s2, batch.stamps)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    next_s1 = s1[:, :1]
    torch.testing.assert_close(loaded.decode_s2(own, next_s1), model.decode_s2(hidden, next_s1), rtol=0, atol=0)
    assert loaded.network.head.proj_s1.weight is loaded.head.proj_s1.weight


@torch.no_grad()
def test_the_loss_is_that_of_our_own_training(auto, tokens):
    loaded, coder = auto
    batch, s1, s2 = tokens
    labels = torch.stack((s1, s2), -1)
    labels[:, : batch.context] = IGNORED
    result = loaded(s1=s1, s2=s2, stamp=batch.stamps, labels=labels)
    expected = model_losses(loaded.network, Encoder(coder, torch.device("cpu")), batch)["loss"]
    torch.testing.assert_close(result.loss, expected)
    assert result.s1_logits.shape[1] == s1.shape[1] - batch.context
    everywhere = loaded(s1=s1, s2=s2, stamp=batch.stamps)
    assert everywhere.loss is None
    torch.testing.assert_close(everywhere.s2_logits[:, batch.context - 1 :], result.s2_logits)


def test_what_the_auto_model_saves_is_a_plain_checkpoint(auto, pair, model, tmp_path):
    loaded, coder = auto
    loaded.save_pretrained(tmp_path)
    coder.save_pretrained(tmp_path)  # as Trainer does: it must not overwrite the model
    assert weights_digest(Kronos.from_pretrained(tmp_path)) == weights_digest(model)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved == {"model_type": "kronos", **model.config.to_dict()}
    both = load_checkpoint(str(tmp_path))
    assert weights_digest(both.tokenizer) == weights_digest(coder)
    assert weights_digest(KronosForCausalLM.from_pretrained(tmp_path).tokenizer) == weights_digest(coder)
    loaded.save_pretrained(tmp_path / "worker", is_main_process=False)
    assert not (tmp_path / "worker").exists()


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference package; 'make bench' installs it")
@torch.no_grad()
def test_the_reference_reads_what_we_save_and_we_what_it_saves(auto, tokens, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    from model.kronos import Kronos as ReferenceKronos
    from model.kronos import KronosTokenizer as ReferenceTokenizer

    loaded, coder = auto
    batch, s1, s2 = tokens
    loaded.save_pretrained(tmp_path / "ours")
    coder.save_pretrained(tmp_path / "ours")
    theirs = ReferenceKronos.from_pretrained(str(tmp_path / "ours")).eval()
    their_coder = ReferenceTokenizer.from_pretrained(str(tmp_path / "ours/tokenizer")).eval()
    theirs.save_pretrained(str(tmp_path / "theirs"))
    their_coder.save_pretrained(str(tmp_path / "theirs/tokenizer"))
    back, back_coder = load_checkpoint(str(tmp_path / "theirs"))[:2]
    expected, _ = theirs.decode_s1(s1, s2, batch.stamps)
    for ids in (their_coder.encode(batch.candles, half=True), back_coder.encode(batch.candles)):
        np.testing.assert_array_equal(ids[0], s1)
        np.testing.assert_array_equal(ids[1], s2)
    for mine in (loaded, back):
        torch.testing.assert_close(mine.decode_s1(s1, s2, batch.stamps)[0], expected, rtol=1e-5, atol=1e-5)


def test_dropout_can_be_changed_on_loading_and_the_shape_cannot(pair):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(pair, ffn_dropout_p=0.25)
    assert AutoModelForCausalLM.from_pretrained(pair, config=config).network.config.ffn_dropout_p == 0.25
    config = AutoConfig.from_pretrained(pair, d_model=64)
    with pytest.raises(CheckpointError, match="another shape"):
        AutoModelForCausalLM.from_pretrained(pair, config=config)
    half = AutoModelForCausalLM.from_pretrained(pair, dtype=torch.bfloat16)
    assert half.head.proj_s1.weight.dtype is torch.bfloat16


def test_a_model_without_its_tokenizer_says_so(auto, tmp_path):
    auto[0].save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="a model without its tokenizer; put it into"):
        KronosAutoTokenizer.from_pretrained(tmp_path)
    assert find_tokenizer(auto[0].config.name_or_path).name == "tokenizer"


def test_the_dataset_counts_the_candles_behind_the_context_alone(make_history, tokenizer):
    history = make_history(60)
    data = CandleDataset(history, tokenizer, context=20, horizon=5, stride=2)
    assert len(data) == 18  # 36 windows of 25 candles in 60
    item = data[3]
    assert {key: tuple(value.shape) for key, value in item.items()} == {
        "s1": (25,),
        "s2": (25,),
        "stamp": (25, 5),
        "labels": (25, 2),
    }
    assert (item["labels"][:20] == IGNORED).all()
    assert torch.equal(item["labels"][20:], torch.stack((item["s1"], item["s2"]), -1)[20:])
    for index, other in enumerate(data.__getitems__([3, 0, -1])):
        for key, value in data[[3, 0, 17][index]].items():
            assert torch.equal(other[key], value)
    with pytest.raises(IndexError):
        data[18]


def test_the_context_s_tokens_do_not_depend_on_what_follows(make_history, tokenizer):
    history = make_history(25)
    values = history.values.copy()
    values[20:] *= 3
    from btcbt.candles import make_candles

    other = make_candles(history.open_time, values, interval="1h")
    one, two = (CandleDataset(h, tokenizer, context=20, horizon=5)[0] for h in (history, other))
    assert torch.equal(one["s1"][:20], two["s1"][:20])
    assert torch.equal(one["s2"][:20], two["s2"][:20])
    assert not torch.equal(one["labels"], two["labels"])


def test_the_dataset_stays_inside_its_span(make_history, tokenizer):
    start, end = datetime(2019, 1, 2, tzinfo=UTC), datetime(2019, 1, 4, tzinfo=UTC)
    data = CandleDataset([make_history(96), make_history(96)], tokenizer, context=20, horizon=5, start=start, end=end)
    assert len(data) == 2 * (48 - 24)
    assert {int(item["stamp"][:, 3].min()) for item in data.__getitems__(range(len(data)))} <= {2, 3}
    with pytest.raises(CandleError, match="no 97 contiguous candles"):
        CandleDataset(make_history(96), tokenizer, context=90, horizon=7)
    with pytest.raises(ValueError, match="stride 0"):
        CandleDataset(make_history(96), tokenizer, stride=0)


def frame_of(history, rows=slice(None)):
    times = pd.to_datetime(history.open_time[rows], unit="ms")
    return pd.DataFrame(history.values[rows], columns=list(CHANNELS), index=times)


def test_predict_btc_is_the_median_of_what_the_command_samples(auto, pair, make_history, tmp_path):
    history = make_history(50)
    write_candles(history, tmp_path / "BTCUSDT_1h.parquet")
    made = predict(
        tmp_path / "BTCUSDT_1h.parquet",
        context=30,
        horizon=4,
        seed=5,
        forecaster=kronos_config(checkpoint=str(pair), n_paths=6, device="cpu"),
        output=tmp_path / "out",
    )
    options = {"context": 30, "n_paths": 6, "seed": 5}
    frame = btcbt.predict_btc(auto[0], frame_of(history), 4, **options)
    np.testing.assert_allclose(frame, np.median(made.paths, axis=0), rtol=1e-5)
    assert list(frame.columns) == list(CHANNELS)
    assert list(frame.index) == list(pd.to_datetime(made.window.future_open_time(4), unit="ms"))
    with_column = frame_of(history).rename_axis("timestamps").reset_index()
    pd.testing.assert_frame_equal(
        btcbt.predict_btc(auto[0], with_column, 4, **options), frame, check_names=False, check_freq=False
    )
    milliseconds = with_column.assign(timestamps=history.open_time)
    for data in (milliseconds, history):
        np.testing.assert_array_equal(btcbt.predict_btc(auto[0], data, 4, **options), frame)
    abroad = frame_of(history).tz_localize("UTC").tz_convert("Asia/Tokyo")
    there = btcbt.predict_btc(auto[0].network, abroad, 4, tokenizer=auto[1], **options)
    np.testing.assert_array_equal(there, frame)
    assert str(there.index.tz) == "Asia/Tokyo"
    assert there.index.tz_convert("UTC").tz_localize(None).equals(frame.index)


def test_predict_btc_gives_two_days_by_default_and_leaves_the_model_as_it_was(auto, make_history):
    model = auto[0].train()
    assert len(btcbt.predict_btc(model, make_history(12), n_paths=1)) == 48
    assert model.training


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: f.drop(columns="close"), CandleError, "column 'close' is missing"),
        (lambda f: f.reset_index(drop=True), CandleError, "no open times; give a DatetimeIndex"),
        (lambda f: f.drop(f.index[7]), CandleError, "not evenly spaced near 2019-01-01 06:00:00"),
        (lambda f: f.iloc[::-1], CandleError, "not evenly spaced"),
        (lambda f: f.iloc[:1], CandleError, "1 rows; give at least 2"),
        (lambda f: f.reset_index(drop=True).assign(time="soon"), CandleError, "column 'time' holds no times"),
    ],
)
def test_predict_btc_refuses_tables_that_are_no_history(auto, make_history, change, error, message):
    with pytest.raises(error, match=message):
        btcbt.predict_btc(auto[0], change(frame_of(make_history(12))), 2)


def test_predict_btc_refuses_what_it_cannot_do(auto, model, make_history):
    history = make_history(12)
    with pytest.raises(ConfigError, match="horizon 0: expected 1 to"):
        btcbt.predict_btc(auto[0], history, 0)
    with pytest.raises(ConfigError, match="context 1"):
        btcbt.predict_btc(auto[0], history, context=1)
    with pytest.raises(ConfigError, match="tokenizer: a Kronos does not know its tokenizer"):
        btcbt.predict_btc(model, history)
    with pytest.raises(CheckpointError, match="not loaded from files"):
        btcbt.predict_btc(KronosForCausalLM(type(auto[0].config)(**model.config.to_dict())), history)


def test_trainer_fine_tunes_it_saves_it_and_the_result_forecasts(auto, make_history, tmp_path):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate: pip install 'btcbt[train]'")
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    model, tokenizer = auto
    history = make_history(120)
    cut = datetime(2019, 1, 4, tzinfo=UTC)
    data = CandleDataset(history, tokenizer, context=20, horizon=6, end=cut)
    held_out = CandleDataset(history, tokenizer, context=20, horizon=6, start=cut)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=8,
        max_steps=12,
        learning_rate=3e-3,
        save_steps=6,
        seed=0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=held_out, processing_class=tokenizer
    )
    before = trainer.evaluate(data)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(data)["eval_loss"] < 0.9 * before
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    trainer.save_model(str(tmp_path / "final"))
    for folder in (tmp_path / "final", tmp_path / "out/checkpoint-12"):
        again = AutoModelForCausalLM.from_pretrained(folder)
        assert weights_digest(again) == weights_digest(model)
        assert weights_digest(AutoTokenizer.from_pretrained(folder)) == weights_digest(tokenizer)
    assert btcbt.predict_btc(again, history, 3, n_paths=2).shape == (3, 6)
    assert load_checkpoint(str(tmp_path / "final")).ranges is None  # nobody has said what it was trained on
