"""The calibrated forecaster: what it may know, what it leaves alone, and what it does to real hours."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import ValidationError

from btcbt.candles import make_candles
from btcbt.config import CalibratedConfig, EwmaVolatilityConfig, RunConfig, WindowsConfig, time_ms
from btcbt.forecasters import create_forecaster
from btcbt.forecasters.calibrated import LOOKED_AT, Calibrated
from btcbt.forecasters.ewma_volatility import EwmaVolatility
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.metrics import score_batch
from btcbt.records import (
    AMOUNT,
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    VOLUME,
    Candles,
    DataRange,
    Float32Array,
    ForecastBatch,
    Window,
)
from btcbt.storage.forecasts import history_digests, window_digests
from btcbt.windows import Windows, contamination, make_windows
from tests.unit.metrics.whole_panel import scores

CONTEXT, HORIZON, PATHS = 40, 6, 12


def base(n_paths: int = PATHS, cls: type = RandomWalk) -> RandomWalk:
    return cls(context=CONTEXT, horizon=HORIZON, n_paths=n_paths, seed=5)


def split(candles: Candles, stride: int = 1, end: str = "2019-01-09") -> Windows:
    whole = WindowsConfig(context=CONTEXT, horizon=HORIZON, start="2019-01-02", end=end, stride=stride)
    return make_windows(candles, whole)


def scaled(paths: Float32Array, factor: float, offset: float = 0.0) -> Float32Array:
    """Paths whose log prices are `factor` times as far from their median, and `offset` higher."""
    logs = np.log(paths[..., :VOLUME].astype(np.float64))
    median = np.median(logs, axis=1, keepdims=True)
    out = paths.copy()
    out[..., :VOLUME] = np.exp(median + factor * (logs - median) + offset)
    out[..., HIGH] = out[..., : CLOSE + 1].max(axis=-1)
    out[..., LOW] = out[..., : CLOSE + 1].min(axis=-1)
    return out


def follow(
    forecaster: Calibrated, windows: Sequence[Window], paths: Float32Array, sizes: Sequence[int] = (50,)
) -> Float32Array:
    """Calibrate given paths, handed over in batches of some sizes."""
    batches, start, turn = [], 0, 0
    origins = np.array([window.origin for window in windows])
    while start < len(origins):
        stop = start + sizes[turn % len(sizes)]
        batches.append(ForecastBatch(origins[start:stop], paths[start:stop], {"by": "test"}))
        start, turn = stop, turn + 1
    return np.concatenate([batch.paths for batch in forecaster.follow(windows, batches)])


@pytest.fixture
def walk(make_history: Callable[..., Candles]) -> tuple[Windows, Float32Array]:
    """A week of origins, and forecasts that are much too narrow."""
    windows = split(make_history(240))
    return windows, scaled(base().forecast(list(windows)).paths, 0.3, 0.002)


def test_a_perturbed_future_leaves_earlier_forecasts_unchanged_bit_for_bit(
    make_history: Callable[..., Candles], rng: np.random.Generator
) -> None:
    candles = make_history(240)
    windows = split(candles)
    before = Calibrated(base()).forecast(list(windows)).paths
    for cut in (60, 100, 150):
        known = int(windows.last[cut]) + 1
        values = candles.values.copy()
        values[known:, :VOLUME] *= rng.uniform(0.5, 2.0, (len(values) - known, 1))
        values[known:, VOLUME] *= rng.uniform(0.0, 9.0, len(values) - known)
        other = split(make_candles(candles.open_time, values, interval="1h", source="changed"))
        after = Calibrated(base()).forecast(list(other)).paths
        assert before[: cut + 1].tobytes() == after[: cut + 1].tobytes()
        assert (before[cut + 1 :] != after[cut + 1 :]).any(axis=(1, 2, 3)).all()


def test_each_outcome_is_used_from_the_first_origin_that_knows_it(walk: tuple[Windows, Float32Array]) -> None:
    """Changing the forecast of one origin at one step changes what is issued exactly h candles later, not before."""
    windows, _ = walk
    paths = scaled(base().forecast(list(windows)).paths, 4.0)  # so wide that every outcome lies inside
    before = follow(Calibrated(base()), windows, paths)
    row = 30
    for step in range(HORIZON):
        changed = paths.copy()
        changed[row, :, step, :VOLUME] *= 1.5
        after = follow(Calibrated(base()), windows, changed)
        differs = np.flatnonzero((before != after).any(axis=(1, 2, 3)))
        assert differs[0] == row
        assert differs[1] == row + step + 1


def test_how_a_walk_is_cut_into_batches_changes_no_bit(walk: tuple[Windows, Float32Array]) -> None:
    windows, paths = walk
    expected = follow(Calibrated(base()), windows, paths, [len(paths)])
    for sizes in ([1], [7], [64, 1, 30]):
        assert follow(Calibrated(base()), windows, paths, sizes).tobytes() == expected.tobytes()


def test_later_origins_change_nothing_and_an_earlier_start_does(walk: tuple[Windows, Float32Array]) -> None:
    windows, paths = walk
    whole = follow(Calibrated(base()), windows, paths)
    assert follow(Calibrated(base()), windows[:90], paths[:90]).tobytes() == whole[:90].tobytes()
    assert (follow(Calibrated(base()), windows[20:], paths[20:])[40:] != whole[60:]).any()


def test_paths_keep_their_ranks_and_stay_candles(walk: tuple[Windows, Float32Array]) -> None:
    windows, paths = walk
    got = follow(Calibrated(base()), windows, paths)
    assert np.isfinite(got).all()
    assert (got[..., HIGH] >= got[..., [OPEN, CLOSE]].max(axis=-1)).all()
    assert (got[..., LOW] <= got[..., [OPEN, CLOSE]].min(axis=-1)).all()
    for channel in (OPEN, CLOSE, VOLUME):
        order = np.argsort(paths[..., channel], axis=1, kind="stable")
        assert (np.diff(np.take_along_axis(got[..., channel], order, axis=1), axis=1) >= 0).all()
    spread = [np.ptp(np.log(p[-20:, :, :, CLOSE]), axis=1).mean() for p in (paths, got)]
    assert spread[1] > 1.5 * spread[0]


def test_the_first_forecast_is_left_as_it_is(walk: tuple[Windows, Float32Array]) -> None:
    windows, paths = walk
    np.testing.assert_allclose(follow(Calibrated(base()), windows[:1], paths[:1]), paths[:1], rtol=3e-7)


def test_amount_follows_volume_and_price(walk: tuple[Windows, Float32Array]) -> None:
    windows, paths = walk
    paths = paths.copy()
    paths[..., VOLUME] *= 3.0
    paths[..., AMOUNT] = paths[..., VOLUME] * paths[..., :VOLUME].mean(axis=-1)
    got = follow(Calibrated(base()), windows, paths)
    np.testing.assert_allclose(got[..., AMOUNT], got[..., VOLUME] * got[..., :VOLUME].mean(axis=-1), rtol=1e-5)
    assert got[-40:, ..., VOLUME].mean() < 0.7 * paths[-40:, ..., VOLUME].mean()


@pytest.mark.parametrize("n_paths", [1, 2, 3])
def test_few_paths_are_calibrated_as_far_as_they_reach(make_history: Callable[..., Candles], n_paths: int) -> None:
    windows = split(make_history(240))
    paths = scaled(base(n_paths).forecast(list(windows)).paths, 0.2)
    got = follow(Calibrated(base(n_paths)), windows, paths)
    assert np.isfinite(got).all()
    if n_paths == 1:
        np.testing.assert_allclose(got, paths, rtol=3e-7)
    else:
        assert np.ptp(got[-30:, ..., CLOSE], axis=1).mean() > 1.3 * np.ptp(paths[-30:, ..., CLOSE], axis=1).mean()


def test_paths_that_all_agree_pass_through(walk: tuple[Windows, Float32Array]) -> None:
    windows, paths = walk
    same = np.repeat(paths[:, :1], PATHS, axis=1)
    np.testing.assert_allclose(follow(Calibrated(base()), windows, same), same, rtol=3e-7)


def test_hours_without_any_volume_are_no_trouble(walk: tuple[Windows, Float32Array]) -> None:
    windows, paths = walk
    idle = paths.copy()
    idle[::2, ..., VOLUME:] = 0.0
    idle[1::2, : PATHS // 2 + 2, :, VOLUME:] = 0.0
    got = follow(Calibrated(base()), windows, idle)
    assert np.isfinite(got).all()
    assert (got[::2, ..., VOLUME] == 0.0).all()


def test_a_forecast_that_is_no_candle_passes_through_and_teaches_nothing(walk: tuple[Windows, Float32Array]) -> None:
    windows, paths = walk
    broken = paths.copy()
    broken[40, 3, 2, LOW] = -1.0
    got = follow(Calibrated(base()), windows, broken)
    assert got[40].tobytes() == broken[40].tobytes()
    assert np.isfinite(got).all()
    worse = broken.copy()
    worse[40, :, :, CLOSE] *= 7.0
    other = follow(Calibrated(base()), windows, worse)
    assert np.delete(got, 40, axis=0).tobytes() == np.delete(other, 40, axis=0).tobytes()


def test_gaps_in_the_origins_and_strides_are_walked_over(make_history: Callable[..., Candles]) -> None:
    gappy = split(make_history(400, missing=[90, 91, 170]), end="2019-01-15")
    gaps = np.diff(gappy.origins) // 3_600_000
    assert gaps.max() > CONTEXT
    for windows in (gappy, split(make_history(240), stride=4), split(make_history(240), stride=48)):
        paths = scaled(base().forecast(list(windows)).paths, 0.3)
        got = follow(Calibrated(base()), windows, paths)
        assert np.isfinite(got).all()
        if len(windows) > 10:
            assert np.ptp(got[-1, ..., CLOSE], axis=0).mean() > 1.2 * np.ptp(paths[-1, ..., CLOSE], axis=0).mean()


def test_windows_that_are_not_those_of_the_forecasts_are_refused(walk: tuple[Windows, Float32Array]) -> None:
    windows, paths = walk
    batch = ForecastBatch(windows.origins[:5], paths[:5])
    with pytest.raises(ValueError, match="not those of the forecasts"):
        list(Calibrated(base()).follow(windows[1:6], [batch]))
    with pytest.raises(ValueError, match="not those of the forecasts"):
        list(Calibrated(base()).follow(windows[:4], [batch]))
    with pytest.raises(ValueError, match="not after the one before"):
        list(Calibrated(base()).follow([*windows[:5], *windows[:5]], [batch, batch]))


def test_calibrating_twice_is_refused() -> None:
    with pytest.raises(TypeError, match="Calibrated is based on another forecaster; use its base"):
        Calibrated(Calibrated(base()))


def test_its_identity_holds_its_base_and_its_rates() -> None:
    config = CalibratedConfig(kind="calibrated", base="walk", rates=(0.01,))
    whole = WindowsConfig(context=CONTEXT, horizon=HORIZON, start="2019-01-02", end="2019-01-09")
    one = create_forecaster(config, whole, 5, {"walk": base()})
    assert one.identity() == Calibrated(base(), replace(Calibrated(base()).rates, floors=(0.01,))).identity()
    others = [Calibrated(base()), Calibrated(base(PATHS + 1)), Calibrated(base(cls=EwmaVolatility))]
    assert all(one.identity() != other.identity() for other in others)
    assert one.data_ranges() == (LOOKED_AT,)
    assert (one.context, one.horizon, one.n_paths, one.seed) == (CONTEXT, HORIZON, PATHS, 5)


def test_digests_of_a_history_part_where_two_walks_part(make_history: Callable[..., Candles]) -> None:
    candles = make_history(240)
    windows = split(candles)
    digests = window_digests(windows)
    chain = history_digests(windows.origins, digests)
    assert len(set(chain.tolist())) == len(windows)
    assert (history_digests(windows.origins[:50], digests[:50]) == chain[:50]).all()
    assert not (history_digests(windows.origins[1:], digests[1:]) == chain[1:]).any()
    left_out = np.arange(len(windows)) != 20
    shorter = history_digests(windows.origins[left_out], digests[left_out])
    assert (shorter[:20] == chain[:20]).all()
    assert not (shorter[20:] == chain[21:]).any()


@pytest.mark.parametrize("wrong", ["nobody", "second"])
def test_a_base_must_be_an_uncalibrated_forecaster_of_the_experiment(wrong: str) -> None:
    tree = {
        "name": "x",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 9, "horizon": 2, "start": "2019-06-01", "end": "2019-06-02"},
        "forecasters": {
            "walk": {"kind": "random_walk"},
            "second": {"kind": "calibrated", "base": "walk"},
            "third": {"kind": "calibrated", "base": wrong},
        },
    }
    with pytest.raises(ValidationError, match=rf"'third': base '{wrong}' is not one of \['walk'\]"):
        RunConfig.model_validate(tree)


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (0.4, 0.0), (2.5, 0.0)])
def test_on_real_hours_coverage_comes_right_and_crps_gets_no_worse(
    sample_candles: Candles, factor: float, offset: float
) -> None:
    config = WindowsConfig(context=120, horizon=6, start="2018-05-01", end="2018-06-20")
    windows = make_windows(sample_candles, config)
    ewma = create_forecaster(EwmaVolatilityConfig(kind="ewma_volatility"), config, 7)
    paths = scaled(ewma.forecast(list(windows)).paths, factor, offset)
    got = follow(Calibrated(ewma), windows, paths)
    rows = np.flatnonzero(windows.scored)
    outcomes, contexts = windows.outcomes(rows), windows.contexts(rows)
    before, after = (scores(score_batch(windows.origins[rows], p[rows], outcomes, contexts)) for p in (paths, got))
    wrong = [np.abs(part["coverage90"][:6] - 90) for part in (before, after)]
    assert wrong[1][:, CLOSE].max() < max(2.0, 0.6 * wrong[0][:, CLOSE].max())
    assert wrong[1][:, VOLUME].max() < 2.0
    assert after["crps_bps"][6, CLOSE] < 1.002 * before["crps_bps"][6, CLOSE]


@pytest.mark.parametrize(
    ("declared", "expected"), [((), ["selected-on", "selected-on", "clean"]), (None, ["unknown"] * 3)]
)
def test_its_own_choices_were_made_with_the_summer_of_2019_in_sight(
    declared: tuple[DataRange, ...] | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RandomWalk, "data_ranges", lambda _: declared)
    forecaster = Calibrated(base())
    origins = np.array([time_ms(datetime(2019, *day, tzinfo=UTC)) for day in ((1, 2), (9, 30), (10, 1))])
    assert contamination(origins, forecaster.data_ranges()).tolist() == expected
    (part,) = forecaster.parts(origins)
    assert contamination(origins, part.ranges).tolist() == expected
