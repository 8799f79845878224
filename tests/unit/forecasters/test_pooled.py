"""Fits on all symbols of a panel."""

from dataclasses import replace

import numpy as np
import pytest

from btcbt.config import WindowsConfig
from btcbt.config.forecasters import HarConfig
from btcbt.errors import ConfigError
from btcbt.forecasters.boosted_quantiles import examples
from btcbt.forecasters.fitted import FitPeriod
from btcbt.forecasters.gjr_garch import fit_gjr
from btcbt.forecasters.har import fit_har
from btcbt.forecasters.pooled import pooled, volatility
from btcbt.forecasters.registry import create_forecaster
from btcbt.forecasters.seasonality import fit_profile, on_grid
from btcbt.records import AMOUNT, CLOSE, HIGH, LOW, VOLUME, Candles
from btcbt.windows import make_windows

HOUR = 3_600_000
WEEK = 168 * HOUR
GAP = 169


def louder(candles: Candles, ratio: float, share: float) -> Candles:
    """Another symbol that moves alike, `ratio` times as much, at another price and volume."""
    values = candles.values.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        paid = np.log(values[:, AMOUNT] / values[:, VOLUME])
    values[:, :VOLUME] = np.exp(ratio * np.log(values[:, :VOLUME]) - 3)
    values[:, VOLUME] *= share
    values[:, AMOUNT] = np.where(values[:, VOLUME] > 0, values[:, VOLUME] * np.exp(ratio * paid - 3), 0.0)
    return replace(candles, values=values)


def test_symbols_are_scaled_to_one_and_kept_apart(make_history):
    own, other = make_history(900), louder(make_history(700), 4.0, 50.0)
    one = pooled(own, [other], GAP)
    assert len(one) == 1600
    np.testing.assert_array_equal(one.open_time[700:], own.open_time)
    np.testing.assert_array_equal(one.values[700:], own.values)
    moved = other.open_time - one.open_time[:700]
    assert (moved == moved[0]).all()
    assert moved[0] % WEEK == 0
    assert one.open_time[700] - one.open_time[699] > GAP * HOUR
    theirs = replace(one, open_time=one.open_time[:700], values=one.values[:700])
    assert volatility(theirs) == pytest.approx(volatility(own), rel=1e-9)
    assert theirs.values[:, VOLUME].mean() == pytest.approx(own.values[:, VOLUME].mean(), rel=1e-9)
    prices = theirs.values[:, :VOLUME]
    assert (prices[:, HIGH] == prices.max(axis=1)).all()
    assert (prices[:, LOW] == prices.min(axis=1)).all()


def test_scale_and_volume_of_another_symbol_make_no_difference(make_history):
    own, other = make_history(900), make_history(900)
    one, same = (pooled(own, [symbol], GAP) for symbol in (other, louder(other, 3.0, 20.0)))
    first, second = fit_har(one), fit_har(same)
    np.testing.assert_allclose(second.coefficients, first.coefficients, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(second.pool.logs, first.pool.logs, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(second.pool.price, first.pool.price, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(second.pool.volume, first.pool.volume, rtol=1e-6)
    assert fit_gjr(same).beta == pytest.approx(fit_gjr(one).beta, abs=1e-3)


def test_no_example_spans_two_symbols(make_history):
    own, other = make_history(600), make_history(500)

    def count(candles):
        open_time, values = on_grid(candles)
        return len(examples(open_time, values, HOUR, fit_profile(open_time, values, HOUR))[1])

    assert count(pooled(own, [other], GAP)) == count(own) + count(other)


def test_symbols_without_volatility_are_left_out(make_history):
    own = make_history(300)
    still = replace(own, values=np.ones_like(own.values))
    single = replace(own, open_time=own.open_time[:1], values=own.values[:1])
    assert pooled(own, [still, single], GAP).open_time.tolist() == own.open_time.tolist()
    assert pooled(still, [own], GAP) is still


@pytest.fixture
def windows(make_history):
    return WindowsConfig(context=200, horizon=6, start="2019-02-15", end="2019-02-18")


CONFIG = HarConfig(kind="har", n_paths=5, pool=True, fit={"every": "24h", "window": "720h"})


def test_a_fit_on_all_symbols_declares_and_is_keyed_by_what_it_used(make_history, windows):
    own, other = make_history(1400), louder(make_history(1400), 2.0, 1.0)
    late = replace(other, open_time=other.open_time[900:], values=other.values[900:])
    alone = create_forecaster(CONFIG.model_copy(update={"pool": False}), windows, 3, candles=own)
    one, short = (create_forecaster(CONFIG, windows, 3, candles=own, others=[o]) for o in (other, late))
    assert alone.identity() == {key: value for key, value in one.identity().items() if key != "pool"}
    assert len({forecaster.key(0) for forecaster in (alone, one, short)}) == 3
    period: FitPeriod = short.periods[1]
    assert period.others[0].open_time[-1] < period.train[1] <= period.start
    spans = [(part.start, part.end) for part in short.ranges(1)]
    assert spans == [period.train, (int(late.open_time[0]), period.train[1])]
    asked = [make_windows(own, windows)[row] for row in (0, 40)]
    same = create_forecaster(CONFIG, windows, 3, candles=own, others=[other])
    np.testing.assert_array_equal(one.forecast(asked).paths, same.forecast(asked[:1] + asked[1:]).paths)
    assert not np.array_equal(one.forecast(asked).paths, alone.forecast(asked).paths)
    medians = np.median(one.forecast(asked).paths[..., CLOSE], axis=1)
    np.testing.assert_allclose(medians[:, 0], [window.last_close for window in asked], rtol=0.05)


def test_a_fit_on_all_symbols_needs_a_panel(make_history, windows):
    with pytest.raises(ConfigError, match="kind 'har': pool is true, expected an experiment on several symbols") as one:
        create_forecaster(CONFIG, windows, 3, candles=make_history(1400))
    assert "\n" not in str(one.value)
