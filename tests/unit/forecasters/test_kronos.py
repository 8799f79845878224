from __future__ import annotations

import shutil
from datetime import datetime

import numpy as np
import pytest
import torch

from btcbt import run
from btcbt.config import AnchoredKronosConfig, KronosConfig, RunConfig, WindowsConfig, time_text
from btcbt.errors import CandleError, CheckpointError, ConfigError
from btcbt.forecasters import create_forecaster
from btcbt.models.kronos import Kronos, KronosPredictor, KronosTokenizer
from btcbt.models.kronos.checkpoints.files import write_data_ranges
from btcbt.models.kronos.checkpoints.locate import UNDECLARED
from btcbt.models.kronos.inference.scaling import Scaling
from btcbt.models.kronos.shapes import ModelConfig, TokenizerConfig
from btcbt.models.kronos.training.finetune import NEVER_CLEAN
from btcbt.randomness import uniforms
from btcbt.records import CHANNELS, DataRange, Window

SHAPE = {"d_model": 32, "n_heads": 2, "ff_dim": 48, "s1_bits": 5, "s2_bits": 5}
NO_DROPOUT = {"ffn_dropout_p": 0.0, "attn_dropout_p": 0.0, "resid_dropout_p": 0.0}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder with a small random pair that declares its ranges."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    coder = {"d_in": 6, "n_enc_layers": 3, "n_dec_layers": 3, "beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05}
    KronosTokenizer(TokenizerConfig(**SHAPE, **NO_DROPOUT, **coder, group_size=5)).save_pretrained(folder / "tokenizer")
    Kronos(ModelConfig(**SHAPE, **NO_DROPOUT, n_layers=2, token_dropout_p=0.0, learn_te=True)).save_pretrained(
        folder / "model"
    )
    write_data_ranges(folder, (DataRange("pretraining", 0, 1_000),))
    return folder


def windows_config(context, horizon):
    return WindowsConfig(context=context, horizon=horizon, start=datetime(2019, 6, 1), end=datetime(2019, 7, 1))


def build(checkpoint, *, context=20, horizon=4, seed=3, kind="kronos", **options):
    config_class = AnchoredKronosConfig if kind == "kronos_anchored" else KronosConfig
    config = config_class(**({"kind": kind, "checkpoint": str(checkpoint), "device": "cpu", "n_paths": 3} | options))
    return create_forecaster(config, windows_config(context, horizon), seed)


def test_a_forecast_equals_the_drop_in_predictor_s_paths(checkpoint, make_windows):
    import pandas as pd

    windows = make_windows(3, 20)
    batch = build(checkpoint, top_p=0.9).forecast(windows)
    predictor = KronosPredictor(
        Kronos.from_pretrained(checkpoint / "model"), KronosTokenizer.from_pretrained(checkpoint / "tokenizer"), "cpu"
    )
    frames = [pd.DataFrame(w.values, columns=list(CHANNELS)) for w in windows]
    past = [pd.Series(pd.to_datetime(w.open_time, unit="ms")) for w in windows]
    future = [pd.Series(pd.to_datetime(w.future_open_time(4), unit="ms")) for w in windows]
    paths = predictor.predict_paths(frames, past, future, 4, top_p=0.9, sample_count=3, seed=3)
    assert batch.paths.dtype == np.float32
    assert (paths[..., :4] > 0).all()
    paths[..., 4:] = np.maximum(paths[..., 4:], 0)  # a forecaster's volumes are not negative, upstream's may be
    np.testing.assert_allclose(batch.paths, paths, rtol=1e-5)
    assert batch.origins.tolist() == [w.origin for w in windows]


def test_paths_do_not_depend_on_the_batch(checkpoint, make_windows):
    windows = make_windows(9, 20)
    forecaster = build(checkpoint)
    whole = forecaster.forecast(windows).paths
    parts = np.concatenate([forecaster.forecast(windows[i : i + 4]).paths for i in range(0, 9, 4)])
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_systematic_sampling_uses_other_numbers_and_says_so(checkpoint, make_windows):
    windows = make_windows(2, 20)
    plain, spread = build(checkpoint), build(checkpoint, sampling="systematic")
    assert not np.allclose(plain.forecast(windows).paths, spread.forecast(windows).paths)
    assert plain.identity()["sampling"] == "independent"
    assert spread.identity()["sampling"] == "systematic"


def test_an_anchored_block_equals_each_origin_scaled_on_the_block_s_first_candles(checkpoint, make_windows):
    context, block, horizon, n_paths = 20, 6, 4, 3
    windows = make_windows(14, context + block - 1)
    anchored = build(checkpoint, kind="kronos_anchored", block=block, context=context)
    assert anchored.context == context + block - 1
    batch = anchored.forecast(windows)
    assert batch.provenance["forecaster"] == "kronos_anchored"
    generator = build(checkpoint).generator
    from btcbt.models.kronos.inference.calendar import stamps
    from btcbt.models.kronos.inference.sampling import Filter, KeyedDraw

    steps = set()
    for window, paths in zip(windows, batch.paths, strict=True):
        step = window.origin // window.interval_ms % block
        steps.add(step)
        seen = window.values[-(context + step) :].astype(np.float32)
        scaling = Scaling.fit(seen[:context])
        times = np.concatenate((window.open_time[-(context + step) :], window.future_open_time(horizon)))
        alone = generator.generate(
            torch.from_numpy(scaling.apply(seen, 5.0))[None],
            torch.from_numpy(stamps(times))[None],
            horizon=horizon,
            n_paths=n_paths,
            draw=KeyedDraw(torch.from_numpy(uniforms(3, [window.origin], n_paths, horizon))),
            keep=Filter(),
        )
        expected = scaling.invert(alone[0, 0].numpy())
        expected[..., 4:] = np.maximum(expected[..., 4:], 0)
        np.testing.assert_allclose(paths, expected, rtol=2e-5)
    assert steps == set(range(block))


def test_anchored_paths_do_not_depend_on_the_other_origins_of_the_call(checkpoint, make_windows):
    windows = make_windows(13, 20 + 5)
    anchored = build(checkpoint, kind="kronos_anchored", block=6)
    whole = anchored.forecast(windows).paths
    order = np.random.default_rng(0).permutation(13)
    parts = [order[:5], order[5:6], order[6:]]
    for rows in parts:
        shuffled = anchored.forecast([windows[i] for i in rows]).paths
        np.testing.assert_allclose(shuffled, whole[rows], rtol=2e-5)


def test_an_anchored_forecast_does_not_see_what_follows_its_origin(checkpoint, make_windows):
    windows = make_windows(6, 25)
    anchored = build(checkpoint, kind="kronos_anchored", block=6)
    together = anchored.forecast(windows).paths
    poisoned = []
    for window in windows[1:]:
        values = window.values.copy()
        values[-1] *= 1.5  # each window's own newest candle: the future of the window before it
        poisoned.append(Window(window.open_time, values, window.interval_ms))
    np.testing.assert_allclose(anchored.forecast([windows[0], *poisoned[-1:]]).paths[0], together[0], rtol=2e-5)


def test_weights_and_sampling_make_the_identity_and_places_do_not(checkpoint, tmp_path):
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, moved)
    assert build(checkpoint).identity() == build(moved).identity()
    base = build(checkpoint).identity()
    for options in ({"temperature": 0.9}, {"top_k": 3}, {"top_p": 0.5}, {"clip": 4.0}, {"max_context": 64}):
        assert build(checkpoint, **options).identity() != base
    with torch.no_grad():
        model = Kronos.from_pretrained(moved / "model")
        model.norm.weight[0] += 0.1
        model.save_pretrained(moved / "model")
    assert build(moved).identity()["model_sha256"] != base["model_sha256"]


def test_declared_ranges_are_read_and_undeclared_ones_are_unknown(checkpoint, tmp_path):
    import shutil

    assert build(checkpoint).data_ranges() == (DataRange("pretraining", 0, 1_000),)
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    (bare / "data_ranges.json").unlink()
    assert build(bare).data_ranges() is None


LATER = DataRange("finetuning", 0, 4_000_000_000_000)
SEPARATE = [
    ((DataRange("pretraining", 0, 2_000),), "clean"),
    ((LATER,), "seen"),
    ((DataRange("selection", 0, 4_000_000_000_000),), "selected-on"),
    ((NEVER_CLEAN,), "seen"),
    (None, "unknown"),
]


def separate_tokenizer(checkpoint, folder, ranges):
    shutil.copytree(checkpoint / "tokenizer", folder)
    if ranges is not None:
        write_data_ranges(folder, ranges)
    return str(folder)


@pytest.mark.parametrize(("ranges", "label"), SEPARATE)
def test_a_run_counts_what_a_separate_tokenizer_has_looked_at(checkpoint, tmp_path, ranges, label):
    tree = {
        "name": "apart",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 20, "horizon": 2, "start": "2019-06-01T00:00Z", "end": "2019-06-01T04:00Z"},
        "forecasters": {
            "apart": {
                "kind": "kronos",
                "checkpoint": str(checkpoint),
                "tokenizer": separate_tokenizer(checkpoint, tmp_path / "apart", ranges),
                "n_paths": 2,
            }
        },
        "store": {"root": str(tmp_path / "runs")},
    }
    done = run(RunConfig.model_validate(tree, strict=False))
    assert done.manifest["forecasters"]["apart"]["labels"] == {label: 4}


def test_ranges_of_a_separate_tokenizer_are_added_to_the_model_s(checkpoint, tmp_path):
    own = DataRange("pretraining", 0, 1_000)
    for number, (ranges, expected) in enumerate([((LATER,), {own, LATER}), ((), {own}), (None, {own, UNDECLARED})]):
        tokenizer = separate_tokenizer(checkpoint, tmp_path / str(number), ranges)
        assert set(build(checkpoint, tokenizer=tokenizer).data_ranges()) == expected
    for place in (checkpoint, checkpoint / "tokenizer"):  # a pair lends its own
        assert build(checkpoint, tokenizer=str(place)).data_ranges() == (own,)
    bare = shutil.copytree(checkpoint / "model", tmp_path / "bare")
    assert set(build(bare, tokenizer=str(checkpoint / "tokenizer")).data_ranges()) == {own, UNDECLARED}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"context": 60, "max_context": 62, "overflow": "refuse"},
            r"context 60 \+ horizon 4 - 1 exceeds max_context 62",
        ),
        ({"horizon": 8, "max_context": 8}, "windows.horizon 8 does not fit max_context 8"),
        ({"kind": "kronos_anchored", "max_context": 46}, r"context 20 \+ block 24 - 1 \+ horizon 4 is 47 tokens"),
        ({"device": "mps", "dtype": "bfloat16"}, "device 'mps' is not available"),
    ],
)
def test_what_cannot_fit_or_run_is_refused(checkpoint, options, message):
    with pytest.raises(ConfigError, match=message):
        build(checkpoint, **options)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("kind", "length"), [("kronos", 20), ("kronos_anchored", 25)])
@pytest.mark.parametrize("row", [-3, -1])
def test_a_value_that_float32_cannot_hold_is_named(checkpoint, make_windows, kind, length, row):
    options = {"block": 6} if kind == "kronos_anchored" else {}
    good, bad = make_windows(2, length)
    values = bad.values.copy()
    values[row, 3] = 1e39
    message = rf"candle at {time_text(int(bad.open_time[row]))}: its close of 1e\+39 is too large"
    with pytest.raises(CandleError, match=message):
        build(checkpoint, kind=kind, **options).forecast([good, Window(bad.open_time, values, bad.interval_ms)])


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_drop_in_predictor_names_a_value_that_it_cannot_scale(checkpoint, make_windows):
    import pandas as pd

    predictor = KronosPredictor(
        Kronos.from_pretrained(checkpoint / "model"), KronosTokenizer.from_pretrained(checkpoint / "tokenizer"), "cpu"
    )
    (window,) = make_windows(1, 20)
    times = [pd.Series(pd.to_datetime(t, unit="ms")) for t in (window.open_time, window.future_open_time(4))]
    for value, message in (
        (1e30, r"series 0: row 7: its volume of 1e\+30 is too large"),
        (1e39, "row 7 has a NaN or inf"),
    ):
        frame = pd.DataFrame(window.values, columns=list(CHANNELS))
        frame.loc[7, "volume"] = value
        with pytest.raises(CandleError, match=message):
            predictor.predict(frame, *times, 4)


def test_a_model_without_its_tokenizer_is_refused(checkpoint, tmp_path):
    alone = shutil.copytree(checkpoint / "model", tmp_path / "alone")
    with pytest.raises(CheckpointError, match="a model without its tokenizer"):
        build(alone)
    tokenizer = separate_tokenizer(checkpoint, tmp_path / "coder", None)
    assert build(alone, tokenizer=tokenizer).data_ranges() is None
    assert build(checkpoint / "model").identity() == build(checkpoint).identity()


def test_a_tokenizer_of_other_bits_is_refused(checkpoint, tmp_path):
    tokenizer = KronosTokenizer.from_pretrained(checkpoint / "tokenizer")
    other = KronosTokenizer(TokenizerConfig(**(tokenizer.config.to_dict() | {"s2_bits": 10})))
    other.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"5 \+ 5 bits, the tokenizer 5 \+ 10"):
        build(checkpoint, tokenizer=str(tmp_path))


def test_batch_sizes_are_positive_and_anchored_ones_are_whole_blocks(checkpoint):
    assert build(checkpoint).batch_size >= 1
    assert build(checkpoint, batch_size=7).batch_size == 7
    anchored = build(checkpoint, kind="kronos_anchored", block=6)
    assert anchored.batch_size % 6 == 0
    assert build(checkpoint)._bytes_per_origin() > 0
