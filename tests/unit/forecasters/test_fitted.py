"""What every model that is fitted on months must do, and the forecaster around it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from btcbt.errors import CandleError, ConfigError
from btcbt.forecasters.boosted_quantiles import BoostedQuantiles
from btcbt.forecasters.fitted import FitSchedule, Fitted, FittedModel, plan_fits
from btcbt.forecasters.gjr_garch import GjrGarch
from btcbt.forecasters.har import Har
from btcbt.records import CLOSE, HIGH, LOW, VOLUME, Candles, Window
from btcbt.windows import contamination

HOUR = 3_600_000
CONTEXT, FIT, EVERY = 200, 1000, 48
SCHEDULE = FitSchedule(EVERY * HOUR, FIT * HOUR, 6 * HOUR)
MODELS: dict[str, Callable[[], FittedModel]] = {
    "har": Har,
    "gjr_garch": GjrGarch,
    "boosted_quantiles": lambda: BoostedQuantiles(rounds=5, leaf_size=50),
}
History = Callable[..., Candles]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> FittedModel:
    return MODELS[request.param]()


def first_origin(candles: Candles) -> int:
    return int(candles.open_time[0]) + (FIT + 6) * HOUR


def build(model: FittedModel, candles: Candles, *, horizon: int = 6, n_paths: int = 5, seed: int = 3, **more) -> Fitted:
    first = first_origin(candles)
    periods = plan_fits(candles, first, first + 100 * HOUR, SCHEDULE)
    return Fitted(model, periods, SCHEDULE, context=CONTEXT, horizon=horizon, n_paths=n_paths, seed=seed, **more)


def windows_of(candles: Candles, origins: range) -> list[Window]:
    """Windows at some hours after the first origin."""
    out = []
    for hour in origins:
        stop = int(np.searchsorted(candles.open_time, first_origin(candles) + hour * HOUR))
        rows = slice(stop - CONTEXT, stop)
        out.append(Window(candles.open_time[rows], candles.values[rows], HOUR))
    return out


def with_values(candles: Candles, values: np.ndarray) -> Candles:
    return replace(candles, values=values)


def assert_candles(paths: np.ndarray) -> None:
    prices = paths[..., :VOLUME]
    assert np.isfinite(paths).all()
    assert (prices > 0).all()
    assert (paths[..., VOLUME:] >= 0).all()
    assert (paths[..., HIGH] >= prices.max(axis=-1)).all()
    assert (paths[..., LOW] <= prices.min(axis=-1)).all()


def test_sampled_paths_are_candles_around_the_last_close(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    batch = build(model, candles, horizon=24, n_paths=400).forecast(windows_of(candles, range(0, 9, 3)))
    assert batch.paths.shape == (3, 400, 24, 6)
    assert batch.paths.dtype == np.float32
    assert batch.provenance["forecaster"] == model.kind
    assert_candles(batch.paths)
    assert (batch.paths[..., HIGH] > batch.paths[..., LOW]).mean() > 0.99
    last = np.array([window.last_close for window in windows_of(candles, range(0, 9, 3))])
    relative = batch.paths[..., CLOSE] / last[:, None, None] - 1
    spread = relative[:, :, -1].std(axis=1)
    assert ((spread > 0.01) & (spread < 0.1)).all()  # 0.6 % an hour make 2.9 % a day
    if model.kind != "boosted_quantiles":  # which has a view on direction
        assert (np.abs(relative[:, :, -1].mean(axis=1)) < 4 * spread / 20).all()


def test_batches_and_their_order_do_not_change_a_path(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    forecaster = build(model, candles)
    windows = windows_of(candles, range(40, 60))  # across the end of a period
    whole = forecaster.forecast(windows).paths
    for size in (1, 7):
        parts = [forecaster.forecast(windows[i : i + size]).paths for i in range(0, 20, size)]
        assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(forecaster.forecast(windows[::-1]).paths[::-1], whole)


def test_more_paths_and_steps_keep_the_first_ones(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    windows = windows_of(candles, range(3))
    few = build(model, candles, n_paths=4, horizon=5).forecast(windows).paths
    many = build(model, candles, n_paths=9, horizon=30).forecast(windows).paths
    assert np.array_equal(many[:, :4, :5], few)


def test_another_seed_and_another_origin_draw_other_paths(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    (window,) = windows_of(candles, range(1))
    later = replace(window, open_time=window.open_time + 24 * HOUR)
    paths = build(model, candles, n_paths=8).forecast([window, later]).paths
    other = build(model, candles, n_paths=8, seed=4).forecast([window]).paths
    closes = np.concatenate((paths, other))[..., CLOSE].reshape(24, -1)
    assert len(np.unique(closes, axis=0)) == 24


@pytest.mark.parametrize("change", ["scaled", "cut", "broken"])
def test_candles_after_an_origin_change_nothing(model: FittedModel, make_history: History, change: str) -> None:
    candles = make_history(1200)
    origin = first_origin(candles) + 60 * HOUR
    stop = int(np.searchsorted(candles.open_time, origin))
    future = candles.values.copy()
    future[stop:] = np.nan if change == "broken" else future[stop:] * 3.0
    changed = with_values(candles, future)
    if change == "cut":
        changed = Candles(candles.open_time[:stop], candles.values[:stop], HOUR)
    asked = windows_of(candles, range(30, 61, 10))
    true, other = (build(model, history, until=origin) for history in (candles, changed))
    assert true.key(1) == other.key(1)
    assert np.array_equal(true.forecast(asked).paths, other.forecast(windows_of(changed, range(30, 61, 10))).paths)


def test_a_candle_of_the_fit_changes_the_key_and_the_paths(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    values = candles.values.copy()
    values[500:700, :VOLUME] *= np.linspace(1.0, 1.2, 200)[:, None]
    true, other = build(model, candles), build(model, with_values(candles, values))
    window = windows_of(candles, range(1))
    assert true.key(0) != other.key(0)
    assert not np.array_equal(true.forecast(window).paths, other.forecast(window).paths)


def test_a_fit_is_a_pure_function_of_its_candles(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    window = windows_of(candles, range(50, 52))
    again = build(model, candles)
    again.forecast(windows_of(candles, range(2)))
    assert np.array_equal(build(model, candles).forecast(window).paths, again.forecast(window).paths)


def test_gaps_in_the_history_are_left_out_of_the_fit(model: FittedModel, make_history: History) -> None:
    candles = make_history(1400, missing=[150, 151, 152, 980])
    batch = build(model, candles, horizon=24, n_paths=30).forecast(windows_of(candles, range(30, 40)))
    assert_candles(batch.paths)


def test_a_window_whose_prices_do_not_move_is_forecast_not_to(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    (window,) = windows_of(candles, range(1))
    values = window.values.copy()
    values[:, :VOLUME] = 1234.5
    paths = build(model, candles).forecast([replace(window, values=values)]).paths
    assert_candles(paths)
    np.testing.assert_allclose(paths[..., :VOLUME], 1234.5, rtol=1e-6)


def test_wild_and_idle_windows_give_candles(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    (window,) = windows_of(candles, range(1))
    leaps, idle, halted = (window.values.copy() for _ in range(3))
    leaps[:, :VOLUME] *= np.where(np.arange(CONTEXT) % 2 == 0, 1e-8, 1e8)[:, None]
    idle[:, VOLUME:] = 0.0
    halted[-30:, :VOLUME] = halted[-31, CLOSE]
    asked = [replace(window, values=values) for values in (leaps, idle, halted)]
    assert_candles(build(model, candles, horizon=24, n_paths=30).forecast(asked).paths)


def test_a_history_without_moves_is_refused(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    values = candles.values.copy()
    values[:, :VOLUME] = 1234.5
    flat = with_values(candles, values)
    with pytest.raises(CandleError, match=r"usable candles .* expected 500 or more .* lengthen fit\.window"):
        build(model, flat).forecast(windows_of(flat, range(1)))


def test_every_fit_ends_an_embargo_before_what_it_serves(make_history: History) -> None:
    candles = make_history(1400)
    first = first_origin(candles)
    periods = plan_fits(candles, first, first + 200 * HOUR, SCHEDULE)
    assert [period.start for period in periods] == [first + n * EVERY * HOUR for n in range(5)]
    for period in periods:
        closes = period.candles.open_time + HOUR
        assert closes[-1] == period.train[1] == period.start - SCHEDULE.embargo
        assert closes[0] - HOUR == period.train[0]
    longer = plan_fits(candles, first, first + 300 * HOUR, SCHEDULE)
    assert [period.train for period in longer[:5]] == [period.train for period in periods]


def test_without_every_one_fit_serves_all(make_history: History) -> None:
    candles = make_history(1400)
    first = first_origin(candles)
    (period,) = plan_fits(candles, first, first + 200 * HOUR, FitSchedule(None, FIT * HOUR))
    assert (period.start, period.end) == (first, first + 200 * HOUR)
    assert period.train == (first - FIT * HOUR, first)


def test_parts_say_what_each_fit_looked_at_and_origins_are_clean(make_history: History) -> None:
    candles = make_history(1200)
    forecaster = build(Har(), candles)
    origins = np.array([window.origin for window in windows_of(candles, range(40, 60))])
    parts = list(forecaster.parts(origins))
    assert [part.rows.tolist() for part in parts] == [list(range(8)), list(range(8, 20))]
    assert [part.weights for part in parts] == [forecaster.key(0), forecaster.key(1)]
    for part in parts:
        (looked_at,) = part.ranges
        assert looked_at.use == "fit"
        assert set(contamination(origins[part.rows], part.ranges)) == {"clean"}
        assert set(contamination(np.array([looked_at.end - HOUR]), part.ranges)) == {"seen"}
    assert set(forecaster.data_ranges()) == {part.ranges[0] for part in forecaster.parts(origins)} | {
        forecaster.data_ranges()[-1]
    }


def test_an_identity_is_json_and_knows_parameters_and_schedule(model: FittedModel, make_history: History) -> None:
    candles = make_history(1200)
    identity = dict(build(model, candles).identity())
    assert json.loads(json.dumps(identity)) == identity
    assert identity["kind"] == model.kind
    other = Fitted(
        model, build(model, candles).periods, FitSchedule(None, HOUR), context=CONTEXT, horizon=6, n_paths=5, seed=3
    )
    assert dict(other.identity()) != identity
    assert dict(build(Har((1, 24)), candles).identity()) != dict(build(Har(), candles).identity())


def test_a_history_that_begins_too_late_is_refused(make_history: History) -> None:
    candles = make_history(1200)
    first = int(candles.open_time[0]) + 500 * HOUR
    with pytest.raises(CandleError, match=r"needs candles from .* but they start 2019-01-01.*shorten fit\.window"):
        plan_fits(candles, first, first + HOUR, SCHEDULE)


def test_an_origin_that_no_fit_serves_is_refused(make_history: History) -> None:
    candles = make_history(1400)
    with pytest.raises(ValueError, match="no fit serves"):
        build(Har(), candles).number(first_origin(candles) + 200 * HOUR)


def test_a_context_that_is_too_short_is_refused(model: FittedModel, make_history: History) -> None:
    with pytest.raises(ConfigError, match=r"windows\.context is 100, expected 169 or more"):
        Fitted(model, build(model, make_history(1200)).periods, SCHEDULE, context=100, horizon=2, n_paths=2, seed=0)


def test_a_key_is_the_digest_of_model_parameters_and_candles(make_history: History) -> None:
    candles = make_history(1200)
    forecaster = build(Har(), candles)
    part = forecaster.periods[0].candles
    text = json.dumps([{"kind": "har", "version": 1, "lags": [1, 6, 24, 168]}, HOUR], sort_keys=True)
    data = text.encode() + part.open_time.tobytes() + part.values.tobytes()
    assert forecaster.key(0) == hashlib.sha256(data).hexdigest()
