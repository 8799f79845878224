"""The shipped checkpoint: its size, its promises, and that cheaper arithmetic samples the same distribution."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from scipy import stats
from scoringrules import crps_ensemble

from btcbt.config import KronosConfig, WindowsConfig, time_ms
from btcbt.forecasters import create_forecaster
from btcbt.models.kronos.checkpoints.files import NANO, read_data_ranges
from btcbt.records import CLOSE
from btcbt.windows import contamination, make_windows

START, END = datetime(2019, 6, 1, tzinfo=UTC), datetime(2019, 9, 29, tzinfo=UTC)
CONFIG = WindowsConfig(context=240, horizon=24, start=START, end=END)
bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 arithmetic"
)


@pytest.fixture(scope="session")
def windows(sample_candles):
    return make_windows(sample_candles, CONFIG)


def some(windows, n):
    rows = np.flatnonzero(windows.scored)
    rows = rows[np.linspace(0, len(rows) - 1, n).astype(int)]
    return rows, [windows[int(row)] for row in rows]


def returns(chosen, seed=7, **options):
    """Sampled log returns of the close (B, S, H)."""
    forecaster = create_forecaster(KronosConfig(device="cpu", **options), CONFIG, seed)
    parts = [forecaster.forecast(chosen[i : i + 16]).paths for i in range(0, len(chosen), 16)]
    last = np.array([window.last_close for window in chosen])
    return np.log(np.concatenate(parts)[..., CLOSE].astype(np.float64) / last[:, None, None])


def test_the_shipped_checkpoint_is_small():
    assert sum(path.stat().st_size for path in NANO.rglob("*") if path.is_file()) <= 6_000_000


def test_it_is_selected_on_the_main_experiment_and_clean_after_it():
    ranges = read_data_ranges(NANO)
    assert {r.use for r in ranges} == {"pretraining", "selection", "looked_at"}
    assert all(read_data_ranges(NANO / part) == ranges for part in ("model", "tokenizer"))
    origins = [
        time_ms(START),
        time_ms(datetime(2019, 9, 30, 23, tzinfo=UTC)),
        time_ms(datetime(2019, 10, 1, tzinfo=UTC)),
    ]
    assert contamination(np.array(origins), ranges).tolist() == ["selected-on", "selected-on", "clean"]
    assert contamination([time_ms(datetime(2019, 3, 16, tzinfo=UTC))], ranges).tolist() == ["seen"]


def test_it_beats_the_same_network_untrained_by_a_wide_margin(windows, tmp_path):
    import shutil

    from btcbt.models.kronos import Kronos
    from btcbt.models.kronos.shapes import MODELS

    torch.manual_seed(0)
    Kronos(MODELS["nano"]).save_pretrained(tmp_path / "model")
    shutil.copytree(NANO / "tokenizer", tmp_path / "tokenizer")
    rows, chosen = some(windows, 32)
    last = np.array([window.last_close for window in chosen])
    outcome = np.log(windows.outcomes(rows)[..., CLOSE] / last[:, None])
    trained, untrained = (
        crps_ensemble(outcome, returns(chosen, n_paths=16, checkpoint=c), m_axis=1).mean()
        for c in ("kronos-nano", str(tmp_path))
    )
    assert trained < 0.6 * untrained


@bfloat16
def test_bfloat16_paths_have_the_marginals_of_float32_ones(windows):
    _, chosen = some(windows, 8)
    exact, coarse = returns(chosen, n_paths=96), returns(chosen, seed=8, n_paths=96, dtype="bfloat16")
    p = [
        stats.ks_2samp(exact[b, :, step], coarse[b, :, step]).pvalue for b in range(len(chosen)) for step in (0, 5, 23)
    ]
    assert min(p) > 1e-3 / len(p)
    assert np.mean(np.array(p) < 0.1) < 0.4


@bfloat16
@pytest.mark.proof
def test_bfloat16_costs_no_accuracy(windows):
    rows, chosen = some(windows, 600)
    last = np.array([window.last_close for window in chosen])
    outcome = np.log(windows.outcomes(rows)[..., CLOSE] / last[:, None])
    exact, coarse = (
        crps_ensemble(outcome, returns(chosen, n_paths=30, dtype=dtype), m_axis=1) for dtype in ("float32", "bfloat16")
    )
    # Rounding leads to other tokens soon, so the two are as different as two draws: their noise is allowed for.
    difference = (coarse - exact) / exact.mean(axis=0)
    error = difference.std(axis=0) / len(chosen) ** 0.5
    for step in (0, 5, 23):
        change = difference[:, step].mean()
        print(f"bfloat16 changes the CRPS of step {step + 1} by {change:+.3%}, standard error {error[step]:.3%}")
        assert abs(change) < 0.005 + 3 * error[step]


@pytest.mark.proof
def test_batches_of_1_7_and_64_sample_the_same_tokens(windows):
    _, chosen = some(windows, 128)
    forecaster = create_forecaster(KronosConfig(device="cpu"), CONFIG, 7)
    paths = [
        np.concatenate([forecaster.forecast(chosen[i : i + size]).paths for i in range(0, 128, size)])
        for size in (1, 7, 64)
    ]
    for other in paths[1:]:
        np.testing.assert_allclose(other, paths[0], rtol=1e-4, atol=1e-2)
