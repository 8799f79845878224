from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from arch.univariate import GARCH, StudentsT, ZeroMean
from scipy import stats
from scipy.optimize import approx_fprime

from btcbt.forecasters import garch
from btcbt.forecasters.ewma_volatility import EwmaVolatility
from btcbt.forecasters.garch import Garch, fit_garch, simulate_garch
from btcbt.records import CLOSE, HIGH, OPEN, VOLUME, Candles, Window

Maker = Callable[..., list[Window]]


def simulate(rng: np.random.Generator, n: int, omega: float, alpha: float, beta: float, nu: float) -> np.ndarray:
    """Returns (n,) of a GARCH(1,1) process that starts from its long-run variance."""
    z = rng.standard_t(nu, n) * np.sqrt((nu - 2) / nu)
    returns, variance = np.empty(n), omega / (1 - alpha - beta)
    for i in range(n):
        returns[i] = np.sqrt(variance) * z[i]
        variance = omega + alpha * returns[i] ** 2 + beta * variance
    return returns


def arch_model(returns: np.ndarray) -> ZeroMean:
    return ZeroMean(returns, volatility=GARCH(), distribution=StudentsT(), rescale=False)


def window_of(returns: np.ndarray, price: float = 100.0, start: int = 0) -> Window:
    """A window whose candles are bare moves from close to close."""
    close = price * np.exp(np.concatenate(([0.0], np.cumsum(returns))))
    opening = np.concatenate((close[:1], close[:-1]))
    bars = np.stack((opening, np.maximum(opening, close), np.minimum(opening, close), close), axis=1)
    values = np.concatenate((bars, np.ones((len(close), 2))), axis=1)
    return Window(start + 3_600_000 * np.arange(len(close), dtype=np.int64), values, 3_600_000)


def test_the_gradient_of_the_likelihood_equals_finite_differences(rng: np.random.Generator) -> None:
    returns = simulate(rng, 300, 0.05, 0.1, 0.85, 5.0)
    likelihood = garch._Likelihood(returns)
    for theta in ([0.05, 0.95, 0.1, 0.2], [0.3, 0.6, 0.5, 0.4], [1e-3, 1.0, 0.02, 0.01]):
        point = np.array(theta)
        expected = approx_fprime(point, lambda x: likelihood(x)[0], 1e-7)
        np.testing.assert_allclose(likelihood(point)[1], expected, rtol=2e-4, atol=2e-3)


def test_the_fit_is_a_maximum_of_archs_own_likelihood(rng: np.random.Generator) -> None:
    """The slow twin: arch's fit, which now and then stops on the lower of two hills."""
    for _ in range(6):
        returns = simulate(rng, 400, 0.05, 0.12, 0.82, 4.0)
        theirs = arch_model(returns).fit(disp="off")
        ours = fit_garch(returns)
        assert ours is not None
        assert ours.log_likelihood >= theirs.loglikelihood - 1e-3
        again = arch_model(returns).fit(
            disp="off", starting_values=np.array([ours.omega, ours.alpha, ours.beta, ours.nu])
        )
        assert ours.log_likelihood == pytest.approx(again.loglikelihood, abs=1e-2)


def test_the_forecast_variance_equals_archs_at_the_same_parameters(rng: np.random.Generator) -> None:
    returns = simulate(rng, 500, 0.05, 0.12, 0.82, 6.0)
    fit = fit_garch(returns)
    assert fit is not None
    theirs = arch_model(returns).fix([fit.omega, fit.alpha, fit.beta, fit.nu]).forecast(horizon=1)
    assert fit.next_variance == pytest.approx(theirs.variance.to_numpy()[-1, 0], rel=1e-9)


def test_the_fit_finds_the_parameters_of_a_long_simulated_past(rng: np.random.Generator) -> None:
    fit = fit_garch(0.01 * simulate(rng, 12_000, 0.05, 0.10, 0.85, 6.0))
    assert fit is not None
    assert fit.alpha == pytest.approx(0.10, abs=0.02)
    assert fit.beta == pytest.approx(0.85, abs=0.03)
    assert fit.omega == pytest.approx(0.05e-4, rel=0.3)
    assert fit.nu == pytest.approx(6.0, rel=0.15)


@pytest.mark.parametrize("unit", [1e-7, 1.0, 1e3])
def test_the_unit_of_the_returns_does_not_change_the_fit(rng: np.random.Generator, unit: float) -> None:
    returns = simulate(rng, 300, 0.05, 0.1, 0.85, 5.0)
    plain, scaled = fit_garch(returns), fit_garch(unit * returns)
    assert plain is not None
    assert scaled is not None
    assert scaled.alpha == pytest.approx(plain.alpha, abs=1e-4)
    assert scaled.nu == pytest.approx(plain.nu, rel=1e-3)
    assert scaled.next_variance == pytest.approx(plain.next_variance * unit**2, rel=1e-3)


def test_the_simulation_equals_a_loop_over_paths_and_steps(rng: np.random.Generator) -> None:
    models = np.array([[1e-6, 0.1, 0.85, 4.0, 3e-5], [2e-6, 0.3, 0.5, 9.0, 1e-4]])
    u = rng.random((2, 3, 5))
    sigma, steps = simulate_garch(models, u)
    for b, (omega, alpha, beta, nu, first) in enumerate(models):
        for s in range(3):
            variance = first
            for h in range(5):
                shock = np.sqrt(variance * (nu - 2) / nu) * stats.t.ppf(u[b, s, h], nu)
                assert sigma[b, s, h] == pytest.approx(np.sqrt(variance), rel=1e-9)
                assert steps[b, s, h] == pytest.approx(shock - variance / 2, rel=1e-9)
                variance = omega + alpha * shock**2 + beta * variance


def test_simulated_variances_average_to_archs_analytic_forecast(rng: np.random.Generator) -> None:
    returns = simulate(rng, 400, 0.05, 0.1, 0.85, 12.0)
    omega, alpha, beta, nu = 0.05e-4, 0.1, 0.85, 12.0
    theirs = arch_model(0.01 * returns).fix([omega, alpha, beta, nu]).forecast(horizon=10).variance
    expected = theirs.to_numpy()[-1]
    sigma, _ = simulate_garch(np.array([[omega, alpha, beta, nu, expected[0]]]), rng.random((1, 40_000, 10)))
    np.testing.assert_allclose((sigma[0] ** 2).mean(axis=0), expected, rtol=0.02)


def test_the_largest_and_smallest_uniforms_move_the_price_by_the_bound() -> None:
    model = np.array([[1e-6, 0.1, 0.85, 2.1, 1e-4]])
    _, steps = simulate_garch(model, np.array([0.0, 1.0 - 2.0**-53]).reshape(1, 2, 1))
    assert steps[0, :, 0].tolist() == [-garch.MAX_SHOCK - 5e-5, garch.MAX_SHOCK - 5e-5]


def test_the_spread_of_the_first_step_is_the_models_sigma(make_windows: Maker) -> None:
    (window,) = make_windows(1, 500)
    fit = fit_garch(np.diff(np.log(window.values[:, CLOSE])))
    assert fit is not None
    paths = Garch(context=500, horizon=2, n_paths=20_000, seed=3).forecast([window]).paths
    logs = np.log(paths[0, :, 0, CLOSE].astype(np.float64) / window.last_close) + fit.next_variance / 2
    assert logs.std() == pytest.approx(np.sqrt(fit.next_variance), rel=0.05)
    standard = logs / np.sqrt(fit.next_variance * (fit.nu - 2) / fit.nu)
    assert stats.kstest(standard, stats.t(fit.nu).cdf).pvalue > 0.01


def test_intervals_cover_simulated_outcomes_at_their_nominal_rate(rng: np.random.Generator) -> None:
    context, horizon, n = 300, 12, 250
    stride = context + horizon
    returns = 0.006 * simulate(rng, n * stride, 0.05, 0.10, 0.85, 5.0)
    blocks = returns.reshape(n, stride)
    windows = [window_of(block[:context], start=3_600_000 * stride * i) for i, block in enumerate(blocks)]
    forecaster = Garch(context=context + 1, horizon=horizon, n_paths=200, seed=0)
    paths = np.concatenate([forecaster.forecast(windows[i : i + 50]).paths for i in range(0, n, 50)])
    outcome = np.cumsum(blocks[:, context:], axis=1)
    for step in (0, horizon - 1):
        last = np.array([window.last_close for window in windows])
        logs = np.log(paths[:, :, step, CLOSE] / last[:, None])
        below = (logs < outcome[:, step, None]).mean(axis=1)
        covered = np.mean((below > 0.1) & (below < 0.9))
        assert covered == pytest.approx(0.8, abs=0.07)
        assert stats.kstest(below, "uniform").pvalue > 0.01


def test_the_mean_path_is_the_last_close_within_error(make_windows: Maker) -> None:
    (window,) = make_windows(1, 300, volatility=0.01)
    paths = Garch(context=300, horizon=12, n_paths=20_000, seed=4).forecast([window]).paths
    ratio = paths[0, :, :, CLOSE].astype(np.float64) / window.last_close
    error = ratio.std(axis=0) / np.sqrt(len(ratio))
    assert (np.abs(ratio.mean(axis=0) - 1.0) < 4 * error).all()


def fallback_like(window: Window) -> np.ndarray:
    forecaster = EwmaVolatility(context=len(window.values), horizon=4, n_paths=3, seed=6)
    return forecaster.forecast([window]).paths[0]


def test_only_the_window_that_cannot_be_fitted_falls_back(make_windows: Maker) -> None:
    good, other = make_windows(2, 120)
    flat = window_of(np.zeros(119), start=int(other.open_time[0]))
    forecaster = Garch(context=120, horizon=4, n_paths=3, seed=6)
    mixed = forecaster.forecast([good, flat, other])
    assert mixed.provenance["fallbacks"] == "1"
    assert np.array_equal(mixed.paths[1], fallback_like(flat))
    assert np.array_equal(mixed.paths[[0, 2]], forecaster.forecast([good, other]).paths)
    assert not np.array_equal(mixed.paths[0], fallback_like(good))


def test_a_short_window_falls_back(make_windows: Maker) -> None:
    short, enough = garch.MIN_RETURNS, garch.MIN_RETURNS + 1
    (window,) = make_windows(1, short)
    batch = Garch(context=short, horizon=4, n_paths=3, seed=6).forecast([window])
    assert batch.provenance["fallbacks"] == "1"
    assert np.array_equal(batch.paths[0], fallback_like(window))
    batch = Garch(context=enough, horizon=4, n_paths=3, seed=6).forecast(make_windows(1, enough))
    assert batch.provenance["fallbacks"] == "0"


def test_an_optimiser_that_does_not_converge_falls_back_without_a_word(
    make_windows: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garch, "MAX_ITERATIONS", 1)
    (window,) = make_windows(1, 150)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = Garch(context=150, horizon=4, n_paths=3, seed=6).forecast([window])
    assert batch.provenance["fallbacks"] == "1"
    assert np.array_equal(batch.paths[0], fallback_like(window))


def test_on_real_hours_every_fit_is_at_least_as_likely_as_archs(sample_candles: Candles) -> None:
    """Some of these windows have two hills, so a fit from one start alone would fail here."""
    context = 360
    returns = np.diff(np.log(sample_candles.values[:, CLOSE]))
    for end in np.linspace(context, len(sample_candles), 60).astype(int)[::3]:
        past = returns[end - context : end - 1]
        ours, theirs = fit_garch(past), arch_model(100 * past).fit(disp="off")
        assert ours is not None
        assert ours.log_likelihood >= theirs.loglikelihood + len(past) * np.log(100) - 1e-3


def test_a_calm_end_of_a_stormy_window_shrinks_the_candles(rng: np.random.Generator) -> None:
    returns = simulate(rng, 300, 0.05, 0.1, 0.85, 8.0) * np.where(np.arange(300) < 200, 0.02, 0.004)
    window = window_of(returns)
    window.values[:, HIGH] *= 1.01  # one wick for every candle, so that what scales it can be read off
    fit = fit_garch(returns)
    assert fit is not None
    first = Garch(context=301, horizon=1, n_paths=50, seed=2).forecast([window]).paths[0, :, 0]
    scale = np.sqrt(fit.next_variance / np.mean(returns**2))
    assert scale < 0.6
    wicks = np.log(first[:, HIGH] / np.maximum(first[:, OPEN], first[:, CLOSE]))
    np.testing.assert_allclose(wicks, scale * np.log(1.01), rtol=1e-3)


def test_the_move_and_the_drawn_candle_are_independent(make_windows: Maker) -> None:
    (window,) = make_windows(1, 200)
    values = window.values.copy()
    values[:, VOLUME] = np.arange(200)
    numbered = Window(window.open_time, values, window.interval_ms)
    for kind in (Garch, EwmaVolatility):
        paths = kind(context=200, horizon=4, n_paths=2000, seed=1).forecast([numbered]).paths[0]
        moves = np.diff(np.log(paths[..., CLOSE]), axis=1).ravel()
        drawn = paths[:, 1:, VOLUME].ravel()
        assert abs(stats.spearmanr(moves, drawn).statistic) < 4 / np.sqrt(len(drawn))
        assert np.array_equal(np.unique(drawn), np.arange(1, 200))


@pytest.mark.parametrize("case", ["one jump", "mostly flat", "steady rise", "alternating", "huge"])
def test_odd_returns_neither_raise_nor_warn(case: str, rng: np.random.Generator) -> None:
    returns = {
        "one jump": np.where(np.arange(150) == 75, 0.5, 0.0),
        "mostly flat": np.where(rng.random(150) < 0.03, 0.02, 0.0),
        "steady rise": np.full(150, 0.001),
        "alternating": 0.01 * (-1.0) ** np.arange(150),
        "huge": 18.0 * (-1.0) ** np.arange(150),
    }[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = Garch(context=151, horizon=24, n_paths=50, seed=0).forecast([window_of(returns)]).paths
    assert np.isfinite(paths).all()
    assert (paths > 0).all()
