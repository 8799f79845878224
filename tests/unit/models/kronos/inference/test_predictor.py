from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from btcbt.errors import ConfigError
from btcbt.models.kronos import KronosPredictor
from btcbt.records import CHANNELS


@pytest.fixture(scope="module")
def predictor(tokenizer, model):
    return KronosPredictor(model, tokenizer, device="cpu", max_context=64)


@pytest.fixture(scope="module")
def series(make_series):
    return make_series(30, 4)


@pytest.fixture(scope="module")
def make_series():
    def make(length, horizon):
        rng = np.random.default_rng(5)
        close = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(length)))
        frame = pd.DataFrame({"open": close, "high": close * 1.01, "low": close * 0.99, "close": close})
        times = pd.Series(pd.date_range("2024-01-01", periods=length + horizon, freq="h"))
        return frame, times[:length], times[length:].reset_index(drop=True)

    return make


def test_quantiles_are_those_of_the_sampled_paths(predictor, series):
    frame, past, future = series
    table = predictor.predict_quantiles(
        frame, past, future, 4, top_p=0.9, sample_count=21, seed=3, quantiles=(0.1, 0.5, 1.0)
    )
    paths = predictor.predict_paths([frame], [past], [future], 4, top_p=0.9, sample_count=21, seed=3)[0]
    assert list(table.index) == list(future)
    assert table.columns.names == ["channel", "quantile"]
    for i, channel in enumerate(CHANNELS):
        np.testing.assert_allclose(table[channel, 0.1], np.quantile(paths[..., i], 0.1, axis=0), rtol=1e-6)
        np.testing.assert_allclose(table[channel, 0.5], np.median(paths[..., i], axis=0), rtol=1e-6)
        np.testing.assert_array_equal(table[channel, 1.0], paths[..., i].max(axis=0))


@pytest.mark.parametrize("quantiles", [(), (0.5, 1.2), (float("nan"),), (-0.1,)])
def test_quantiles_outside_of_the_unit_interval_are_refused(predictor, series, quantiles):
    frame, past, future = series
    with pytest.raises(ConfigError, match="expected one or more numbers from 0 to 1"):
        predictor.predict_quantiles(frame, past, future, 4, quantiles=quantiles)


def test_upstream_s_newest_options_are_accepted_and_change_nothing(predictor, series):
    frame, past, future = series
    greedy = {"pred_len": 4, "top_k": 1, "verbose": False}
    plain = predictor.predict(frame, past, future, **greedy)
    pd.testing.assert_frame_equal(predictor.predict(frame, past, future, **greedy, use_kv_cache=False), plain)
