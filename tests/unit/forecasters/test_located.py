"""The location of Kronos paths: what is moved, by how much, and what a learned location may know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from btcbt.config import AnchoredKronosConfig, KronosConfig, LocatedConfig, RunConfig, WindowsConfig
from btcbt.errors import CheckpointError, ConfigError, ForecasterError
from btcbt.forecasters import create_forecaster
from btcbt.forecasters.base import Forecaster
from btcbt.forecasters.kronos import load_checkpoint
from btcbt.forecasters.located import LOOKED_AT, PRIOR_MEAN, PRIOR_WEIGHT, Located, LocationRegression
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.forecasters.refitted import Refitted
from btcbt.metrics.ensembles import estimator
from btcbt.models.kronos import Kronos, KronosPredictor, KronosTokenizer
from btcbt.models.kronos.checkpoints.location_prior import PRIOR_FILE, LocationPrior, read_prior
from btcbt.models.kronos.inference.scaling import Scaling
from btcbt.records import CHANNELS, CLOSE, HIGH, LOW, VOLUME, ForecastBatch, Refit, Window
from tests.tiny_kronos import save_tiny

CONTEXT, HORIZON, PATHS = 20, 4, 6
WINDOWS = WindowsConfig(context=CONTEXT, horizon=HORIZON, start="2019-01-02", end="2019-02-01")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def kronos(checkpoint, **options) -> Forecaster:
    kind = options.get("kind", "kronos")
    section = AnchoredKronosConfig if kind == "kronos_anchored" else KronosConfig
    config = section(**{"kind": kind, "checkpoint": str(checkpoint), "device": "cpu", "n_paths": PATHS} | options)
    return create_forecaster(config, WINDOWS, 3)


class Misplaced(RandomWalk):
    """A random walk that continues from where a made-up tokenizer puts the last close."""

    def forecast(self, windows):
        batch = super().forecast(windows)
        paths = batch.paths.copy()
        paths[..., :VOLUME] *= (self.reconstruct(windows) / last_closes(windows))[:, None, None, None]
        return ForecastBatch(batch.origins, paths, batch.provenance)

    def reconstruct(self, windows):
        error = [0.01 * np.sin(window.origin / window.interval_ms) for window in windows]
        return last_closes(windows) * np.exp(error)


def misplaced() -> Misplaced:
    return Misplaced(context=CONTEXT, horizon=HORIZON, n_paths=PATHS, seed=5)


def last_closes(windows: Sequence[Window]) -> np.ndarray:
    return np.array([window.values[-1, CLOSE] for window in windows])


def follow(forecaster, windows, paths, sizes=(50,)):
    origins = np.array([window.origin for window in windows])
    cuts = np.cumsum(np.resize(sizes, len(windows)))
    parts = np.split(np.arange(len(windows)), cuts[cuts < len(windows)])
    batches = [ForecastBatch(origins[rows], paths[rows]) for rows in parts]
    return np.concatenate([batch.paths for batch in forecaster.follow(windows, batches)])


def test_reconstruction_moves_every_price_by_exactly_the_tokenizer_s_error_on_the_last_close(checkpoint, make_windows):
    windows = make_windows(3, CONTEXT)
    before, after = (
        kronos(checkpoint, location=one).forecast(windows).paths for one in ("as_decoded", "reconstruction")
    )
    tokenizer = KronosTokenizer.from_pretrained(checkpoint / "tokenizer").eval()
    context = np.stack([window.values for window in windows]).astype(np.float32)
    scaling = Scaling.fit(context)
    with torch.inference_mode():
        decoded = tokenizer.decode(tokenizer.encode(torch.from_numpy(scaling.apply(context, 5.0)))).numpy()
    error = scaling.invert(decoded)[:, -1, CLOSE] / last_closes(windows)
    assert np.abs(np.log(error)).min() > 1e-4
    np.testing.assert_allclose(after[..., :VOLUME], before[..., :VOLUME] / error[:, None, None, None], rtol=1e-5)
    assert np.array_equal(after[..., VOLUME], before[..., VOLUME])


@pytest.mark.parametrize("location", ["reconstruction", "driftless", "learned"])
def test_prices_of_a_candle_keep_their_order_and_volumes_stay(checkpoint, location, make_windows):
    windows = make_windows(12, CONTEXT)
    base = kronos(checkpoint)
    before = base.forecast(windows).paths
    after = follow(Located(base, location), windows, before)
    assert not np.array_equal(before, after)
    enclosed = before[..., HIGH] >= before[..., LOW]
    assert (after[..., HIGH] >= after[..., LOW])[enclosed].all()
    assert np.array_equal(np.argmax(after[..., :VOLUME], axis=-1), np.argmax(before[..., :VOLUME], axis=-1))
    assert np.array_equal(after[..., VOLUME], before[..., VOLUME])


def test_driftless_paths_end_where_they_begin_on_average(checkpoint, make_windows):
    windows = make_windows(3, CONTEXT)
    paths = kronos(checkpoint, location="driftless").forecast(windows).paths.astype(np.float64)
    np.testing.assert_allclose(paths[..., CLOSE].mean(axis=1) / last_closes(windows)[:, None], 1.0, rtol=1e-5)


@pytest.mark.parametrize("location", ["reconstruction", "driftless"])
def test_stored_paths_are_moved_as_they_are_when_they_are_sampled(checkpoint, location, make_windows):
    windows = make_windows(5, CONTEXT)
    base = kronos(checkpoint)
    moved = follow(Located(base, location), windows, base.forecast(windows).paths)
    np.testing.assert_allclose(kronos(checkpoint, location=location).forecast(windows).paths, moved, rtol=1e-5)


def test_a_location_declares_how_its_paths_are_made(checkpoint):
    assert [kronos(checkpoint, location=one).paths_are for one in ("as_decoded", "reconstruction", "driftless")] == [
        "independent",
        "independent",
        "dependent",
    ]
    base, spread = kronos(checkpoint), kronos(checkpoint, sampling="systematic")
    assert Located(base, "reconstruction").paths_are == "independent"
    assert Located(spread, "reconstruction").paths_are == "dependent"
    assert estimator(Located(base, "learned").paths_are) == estimator(Located(base, "driftless").paths_are) == "plain"


def test_as_decoded_is_the_forecast_that_was_stored_before(checkpoint):
    plain, moved = kronos(checkpoint).identity(), kronos(checkpoint, location="reconstruction").identity()
    assert "location" not in plain
    assert moved == {**plain, "location": "reconstruction"}


@pytest.mark.parametrize("location", ["reconstruction", "driftless"])
def test_an_anchored_block_moves_each_origin_by_its_own_last_candle(checkpoint, location, make_windows):
    options = {"kind": "kronos_anchored", "block": 6}
    base = kronos(checkpoint, **options)
    windows = make_windows(9, base.context)
    moved = follow(Located(base, location), windows, base.forecast(windows).paths)
    direct = kronos(checkpoint, location=location, **options).forecast(windows).paths
    np.testing.assert_allclose(direct, moved, rtol=1e-4)


def test_the_drop_in_predictor_moves_paths_only_if_asked(checkpoint, make_windows):
    (window,) = make_windows(1, CONTEXT)
    pair = Kronos.from_pretrained(checkpoint / "model"), KronosTokenizer.from_pretrained(checkpoint / "tokenizer")
    frame = [pd.DataFrame(window.values, columns=list(CHANNELS))]
    times = [[pd.Series(pd.to_datetime(t, unit="ms"))] for t in (window.open_time, window.future_open_time(HORIZON))]
    plain, moved, still = (
        KronosPredictor(*pair, "cpu", **options).predict_paths(frame, *times, HORIZON, sample_count=PATHS)
        for options in ({}, {"location": "reconstruction"}, {"location": "driftless"})
    )
    ratio = moved[..., :VOLUME] / plain[..., :VOLUME]
    error = kronos(checkpoint).reconstruct([window])[0] / window.last_close
    np.testing.assert_allclose(ratio, 1.0 / error, rtol=1e-4)
    np.testing.assert_allclose(still[..., CLOSE].mean(axis=1) / window.last_close, 1.0, rtol=1e-5)


def test_learned_finds_that_the_decoder_s_error_is_no_news(make_windows):
    windows = make_windows(400, CONTEXT)
    base = misplaced()
    before = base.forecast(windows).paths
    after = follow(Located(base), windows, before)
    off = [np.median(p[200:, :, 0, CLOSE], axis=1) / last_closes(windows)[200:] - 1.0 for p in (before, after)]
    assert np.std(off[1]) < 0.5 * np.std(off[0])


def test_the_regression_is_that_of_a_loop(make_windows):
    windows = make_windows(60, CONTEXT)
    base = misplaced()
    closes = base.forecast(windows).paths[..., CLOSE]
    last = last_closes(windows)
    error = np.log(base.reconstruct(windows) / last)
    online = LocationRegression(HORIZON)
    moves = online.moves(windows, closes, error, np.ones(60, dtype=bool))
    for row in (0, 1, 30, 59):
        for step in range(HORIZON):
            gram, moment = np.diag(PRIOR_WEIGHT), np.array(PRIOR_WEIGHT) * np.array(PRIOR_MEAN)
            for past in range(row - step):  # its outcome closed by the origin
                logs = np.log(closes[past, :, step].astype(np.float64))
                spread = np.abs(logs - np.median(logs)).mean()
                x = np.clip(np.array([error[past], np.median(logs) - np.log(last[past]) - error[past]]) / spread, -4, 4)
                y = np.clip(np.log(last[past + step + 1] / last[past]) / spread, -4, 4)
                fresh = 1.0 if past == 0 else 1.0 / (step + 1)
                gram, moment = gram + fresh * np.outer(x, x), moment + fresh * x * y
            a, b = np.clip(np.linalg.solve(gram, moment), -1, 2)
            own = np.median(np.log(closes[row, :, step].astype(np.float64))) - np.log(last[row]) - error[row]
            np.testing.assert_allclose(moves[row, step], (a - 1) * error[row] + (b - 1) * own, rtol=1e-6, atol=1e-9)


def test_a_changed_future_moves_nothing_before_it_is_known(make_windows):
    windows = make_windows(60, CONTEXT)
    base = misplaced()
    paths = base.forecast(windows).paths
    first = follow(Located(base), windows, paths)
    at = 30  # the candle after this origin is another one, in every window that contains it
    moment = windows[at].open_time[-1]
    changed = []
    for window in windows:
        values = window.values.copy()
        values[window.open_time > moment, : CLOSE + 1] *= 1.05
        changed.append(replace(window, values=values))
    second = follow(Located(base), changed, paths)
    assert np.array_equal(first[: at + 1], second[: at + 1])
    assert not np.array_equal(first[at + 2], second[at + 2])


def test_neither_batches_nor_where_a_walk_is_resumed_change_a_learned_path(make_windows):
    windows = make_windows(150, CONTEXT)
    base = misplaced()
    paths = base.forecast(windows).paths
    whole = follow(Located(base), windows, paths, (150,))
    assert np.array_equal(follow(Located(base), windows, paths, (7, 64, 1)), whole)
    assert np.array_equal(follow(Located(base), windows[:90], paths[:90]), whole[:90])
    assert np.array_equal(Located(base).forecast(windows).paths, whole)


def test_an_origin_with_a_price_that_is_not_positive_is_left_alone(make_windows):
    windows = make_windows(30, CONTEXT)
    base = misplaced()
    paths = base.forecast(windows).paths.copy()
    paths[10, 0, 0, LOW] = 0.0
    after = follow(Located(base), windows, paths)
    assert np.array_equal(after[10], paths[10])
    assert np.isfinite(after).all()


def test_each_refit_is_moved_by_its_own_tokenizer(checkpoint, make_windows):
    windows = make_windows(6, CONTEXT)
    refits = {
        clip: Refit(windows[at].origin, windows[at].origin + 3 * 3_600_000, "", "", f"weights {clip}", ())
        for clip, at in ((5.0, 0), (0.5, 3))
    }
    parts = {refit: kronos(checkpoint, clip=clip) for clip, refit in refits.items()}
    first, second = parts.items()

    def serving(origin):
        return first[0] if origin < second[0].start else second[0]

    forecaster = Refitted(first[1], serving, parts.__getitem__, {})
    closes = forecaster.reconstruct(windows)
    np.testing.assert_allclose(closes[:3], first[1].reconstruct(windows[:3]), rtol=1e-6)
    np.testing.assert_allclose(closes[3:], second[1].reconstruct(windows[3:]), rtol=1e-6)
    assert not np.allclose(closes[3:], first[1].reconstruct(windows[3:]), rtol=1e-6)


def test_a_prior_serves_the_first_origins_and_is_part_of_the_identity(make_windows):
    windows = make_windows(1, CONTEXT)
    base = misplaced()
    paths = base.forecast(windows).paths
    without, plain = Located(base).identity(), follow(Located(base), windows, paths)
    # Ten thousand outcomes where the decoder put the paths.
    base.location_prior = LocationPrior(np.tile(1e4 * np.eye(2), (2, 1, 1)), np.full((2, 2), 1e4))
    moved = follow(Located(base), windows, paths)
    assert Located(base).identity() != without
    np.testing.assert_allclose(moved, paths, rtol=1e-4)
    assert not np.allclose(plain, paths, rtol=1e-4)


def test_a_prior_is_read_from_the_checkpoint_and_a_broken_one_is_refused(tmp_path):
    folder = save_tiny(tmp_path / "pair")
    assert load_checkpoint(str(folder)).location is None
    prior = LocationPrior(np.tile(np.eye(2), (3, 1, 1)), np.ones((3, 2)))
    prior.write(folder, "made up")
    found = load_checkpoint(str(folder)).location
    assert found is not None
    assert np.array_equal(found.gram, prior.gram)
    assert load_checkpoint(str(folder), str(folder)).location is None  # a tokenizer named on its own
    (folder / PRIOR_FILE).write_text('{"gram": [[1.0]], "moment": [1.0]}')
    with pytest.raises(CheckpointError, match="expected 'gram'"):
        read_prior(folder / PRIOR_FILE)


def test_the_shipped_checkpoint_knows_that_the_error_of_its_decoder_is_no_news():
    prior = load_checkpoint("kronos-nano").location
    assert prior is not None
    assert len(prior.moment) == 24
    assert (np.abs(LocationRegression(24, prior).coefficients) < 0.35).all()
    assert len(LocationRegression(48, prior).moment) == 48


def test_located_forecasts_are_labelled_by_what_was_looked_at(checkpoint):
    located = Located(kronos(checkpoint))
    assert set(LOOKED_AT) < set(located.data_ranges())
    (part,) = located.parts(np.array([0]))
    assert set(LOOKED_AT) < set(part.ranges)


def test_an_unknown_location_and_a_learned_one_without_history_are_refused(checkpoint):
    with pytest.raises(ValidationError, match="as_decoded"):
        KronosConfig(location="centred")
    with pytest.raises(ValidationError, match="kind: located, base: NAME"):
        KronosConfig(location="learned")
    pair = Kronos.from_pretrained(checkpoint / "model"), KronosTokenizer.from_pretrained(checkpoint / "tokenizer")
    with pytest.raises(ConfigError, match=r"'reconstructed' is unknown \(did you mean 'reconstruction'"):
        KronosPredictor(*pair, "cpu", location="reconstructed")
    with pytest.raises(ConfigError, match="outcomes of earlier forecasts"):
        KronosPredictor(*pair, "cpu", location="learned")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"kind": "har"}, "has no tokenizer"),
        ({"kind": "kronos", "location": "reconstruction"}, "has location 'reconstruction' already"),
    ],
)
def test_a_base_that_cannot_be_moved_is_refused_with_its_experiment(base, message):
    windows = {"context": 200, "horizon": 4, "start": "2019-06-01", "end": "2019-06-02"}
    forecasters = {"base": base, "moved": {"kind": "located", "base": "base"}}
    with pytest.raises(ValidationError, match=message):
        RunConfig(name="x", candles={"path": "bundled:BTCUSD_1h"}, windows=windows, forecasters=forecasters)


def test_a_base_without_a_tokenizer_is_refused(make_windows):
    base = RandomWalk(context=CONTEXT, horizon=HORIZON, n_paths=PATHS, seed=5)
    with pytest.raises(ForecasterError, match="has no tokenizer"):
        Located(base).forecast(make_windows(2, CONTEXT))


def test_the_summary_names_the_location():
    assert LocatedConfig(kind="located", base="kronos").remark == "the paths of kronos, location: learned"
    assert KronosConfig(location="driftless").remark == "location: driftless"
    assert KronosConfig().remark == ""
