"""The networks against recorded outputs of the reference implementation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from btcbt.models.kronos import Kronos, KronosPredictor, KronosTokenizer
from btcbt.models.kronos.inference.calendar import stamps
from btcbt.models.kronos.inference.scaling import Scaling
from btcbt.records import CHANNELS


@pytest.fixture(scope="session")
def golden(shared):
    with np.load(shared / "golden/kronos/golden.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def tokenizer(shared):
    return KronosTokenizer.from_pretrained(shared / "golden/kronos/tokenizer")


@pytest.fixture(scope="session")
def model(shared):
    return Kronos.from_pretrained(shared / "golden/kronos/model")


@pytest.fixture(scope="session")
def tokens(golden):
    return torch.from_numpy(golden["s1"]), torch.from_numpy(golden["s2"])


def test_scaling_equals_the_reference_bit_for_bit(golden):
    scaled = Scaling.fit(golden["raw"]).apply(golden["raw"], clip=5)
    np.testing.assert_array_equal(scaled, golden["normalized"])


def test_stamps_equal_the_reference(golden):
    times = np.concatenate((golden["fit_history_time"], golden["fit_future_time"]), axis=1)
    index = pd.to_datetime(times[0], unit="ms")
    expected = np.stack((index.minute, index.hour, index.weekday, index.day, index.month), axis=1)
    np.testing.assert_array_equal(stamps(times)[0], expected)


@torch.no_grad()
def test_tokens_are_exactly_the_reference_s(golden, tokenizer):
    x = torch.from_numpy(golden["normalized"])
    s1, s2 = tokenizer.encode(x, half=True)
    np.testing.assert_array_equal(s1, golden["s1"])
    np.testing.assert_array_equal(s2, golden["s2"])
    np.testing.assert_array_equal(tokenizer.encode(x, half=False), golden["joint_index"])


@torch.no_grad()
def test_reconstructions_and_quantizer_loss_equal_the_reference(golden, tokenizer, tokens):
    result = tokenizer(torch.from_numpy(golden["normalized"]))
    np.testing.assert_allclose(result.coarse, golden["recon_coarse"], atol=1e-5)
    np.testing.assert_allclose(result.full, golden["recon_full"], atol=1e-5)
    np.testing.assert_allclose(result.quantizer_loss, golden["bsq_loss"], atol=1e-6)
    np.testing.assert_allclose(tokenizer.decode(tokens, half=True), golden["reconstruction"], atol=1e-5)
    joint = torch.from_numpy(golden["joint_index"])
    np.testing.assert_allclose(tokenizer.decode(joint, half=False), golden["reconstruction"], atol=1e-5)


@torch.no_grad()
def test_logits_and_hidden_states_equal_the_reference(golden, model, tokens):
    s1_logits, hidden = model.decode_s1(*tokens, torch.from_numpy(golden["stamps"][:, :40]))
    np.testing.assert_allclose(s1_logits, golden["s1_logits"], atol=1e-4)
    np.testing.assert_allclose(hidden, golden["hidden"], atol=1e-4)
    s2_logits = model.decode_s2(hidden, torch.from_numpy(golden["forced_s1"]))
    np.testing.assert_allclose(s2_logits[:, -1], golden["s2_logits"], atol=1e-4)


@torch.no_grad()
def test_training_logits_and_losses_equal_the_reference_s_training_mode(golden, model, tokens):
    s1, s2 = tokens
    stamp = torch.from_numpy(golden["stamps"][:, :39])
    logits = model(s1[:, :-1], s2[:, :-1], stamp, s1[:, 1:], dependency_positions=True)
    np.testing.assert_allclose(logits.s1, golden["train_s1_logits"], atol=1e-4)
    np.testing.assert_allclose(logits.s2, golden["train_s2_logits"], atol=1e-4)
    losses = [float(loss) for loss in logits.loss(s1[:, 1:], s2[:, 1:])]
    np.testing.assert_allclose(losses, golden["train_loss"], atol=1e-4)


@pytest.mark.parametrize("case", ["fit", "slide", "long"])
def test_greedy_forecasts_equal_the_reference(golden, tokenizer, model, case):
    predictor = KronosPredictor(model, tokenizer, "cpu", max_context=int(golden["max_context"]))
    frames = [pd.DataFrame(history, columns=list(CHANNELS)) for history in golden[f"{case}_history"]]
    past = [pd.Series(pd.to_datetime(t, unit="ms")) for t in golden[f"{case}_history_time"]]
    future = [pd.Series(pd.to_datetime(t, unit="ms")) for t in golden[f"{case}_future_time"]]
    expected = golden[f"{case}_prediction"]
    horizon = expected.shape[1]
    result = predictor.predict_batch(frames, past, future, horizon, T=1.0, top_k=1, top_p=1.0, sample_count=1)
    np.testing.assert_allclose(np.stack([frame.to_numpy() for frame in result]), expected, rtol=2e-4)
    one = predictor.predict(frames[1], past[1], future[1], horizon, top_k=1, top_p=1.0, verbose=False)
    np.testing.assert_allclose(one.to_numpy(), expected[1], rtol=2e-4)
    assert list(one.columns) == list(CHANNELS)
    assert (one.index == future[1]).all()
