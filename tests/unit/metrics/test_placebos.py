"""Placebo forecasts: what each kind keeps, what it destroys, and what a rank among them says."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from btcbt.config import PortfolioConfig, WindowsConfig
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.metrics.placebos import KINDS, Placebo, Source, make_placebos, rank_p_value, summarise_placebos
from btcbt.portfolio import simulate
from btcbt.records import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME, Candles, Float32Array, FloatArray, Forecast
from btcbt.strategies.loading import load_strategy
from btcbt.walkforward import placebos as placebo_runs
from btcbt.walkforward.decisions import decide_all
from btcbt.walkforward.placebos import Candidate, run_placebos
from btcbt.windows import Windows, make_windows

BLOCK = 6


@pytest.fixture
def walk(make_history: Callable[..., Candles]) -> Windows:
    config = WindowsConfig(context=30, horizon=BLOCK, start="2019-01-03", end="2019-01-08")
    return make_windows(make_history(200), config)


@pytest.fixture
def paths(walk: Windows) -> Float32Array:
    return RandomWalk(context=30, horizon=BLOCK, n_paths=5, seed=1).forecast(list(walk)).paths


@pytest.fixture
def last_close(walk: Windows) -> FloatArray:
    return walk.candles.values[walk.last, CLOSE]


def first(kind: str, m: int, number: int = 0) -> Placebo:
    return [one for one in make_placebos(m, len(KINDS) * (number + 1), BLOCK, 9) if one.kind == kind][number]


def made(placebo: Placebo, paths: Float32Array, last_close: FloatArray) -> Float32Array:
    return np.stack(list(Source(paths, last_close).placebo(placebo)))


def relative(paths: Float32Array, last_close: FloatArray) -> FloatArray:
    return np.log(paths[..., :VOLUME].astype(np.float64) / last_close[:, None, None, None])


def test_every_kind_runs_equally_often_and_a_run_does_not_depend_on_the_others() -> None:
    many, few = make_placebos(100, 40, BLOCK, 3), make_placebos(100, 4, BLOCK, 3)
    assert [one.kind for one in many] == list(KINDS) * 10
    for one, other in zip(many, few, strict=False):
        assert (one.source == other.source).all()
        assert (one.sign == other.sign).all()
        assert one.seed == other.seed
    different = {(one.kind, one.source.tobytes(), one.sign.tobytes(), one.seed) for one in many}
    assert len(different) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_placebos_are_candles_and_leave_the_real_forecasts_alone(paths, last_close, kind: str) -> None:
    before = paths.copy()
    got = made(first(kind, len(paths), 1), paths, last_close)
    assert (paths == before).all()
    assert got.dtype == np.float32
    assert got.shape == paths.shape
    assert np.isfinite(got).all()
    assert (got[..., :VOLUME] > 0).all()
    assert (got[..., HIGH] >= got[..., [OPEN, CLOSE]].max(axis=-1)).all()
    assert (got[..., LOW] <= got[..., [OPEN, CLOSE]].min(axis=-1)).all()
    assert not (got == paths).all()


def test_a_shift_moves_every_forecast_by_the_same_time_and_no_less_than_a_block(paths, last_close) -> None:
    for number in range(20):
        placebo = first("shift", len(paths), number)
        moved = (np.arange(len(paths)) - placebo.source) % len(paths)
        assert len(set(moved)) == 1
        assert BLOCK <= moved[0] <= len(paths) - BLOCK
    got = made(placebo, paths, last_close)
    expected = relative(paths, last_close)[placebo.source]
    np.testing.assert_allclose(relative(got, last_close), expected, atol=1e-6)
    assert (got[..., VOLUME] == paths[placebo.source][..., VOLUME]).all()


def test_a_shuffle_uses_every_forecast_once_and_keeps_blocks_together(paths, last_close) -> None:
    placebo = first("shuffle", len(paths), 2)
    assert sorted(placebo.source) == list(range(len(paths)))
    breaks = np.count_nonzero(np.diff(placebo.source) != 1)
    assert len(paths) // BLOCK - 3 <= breaks <= len(paths) // BLOCK + 1
    np.testing.assert_allclose(
        relative(made(placebo, paths, last_close), last_close), relative(paths, last_close)[placebo.source], atol=1e-6
    )


def test_the_first_flip_turns_everything_upside_down(paths, last_close) -> None:
    got = relative(made(first("flip", len(paths)), paths, last_close), last_close)
    expected = -relative(paths, last_close)[..., [OPEN, LOW, HIGH, CLOSE]]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_later_flips_turn_whole_blocks(paths, last_close) -> None:
    placebo = first("flip", len(paths), 3)
    turns = np.flatnonzero(np.diff(placebo.sign))
    assert len(turns) > 2
    assert np.diff(turns).min() >= BLOCK
    got = made(placebo, paths, last_close)
    kept = placebo.sign > 0
    assert (got[kept] == paths[kept]).all()
    assert (got[~kept] != paths[~kept]).any(axis=(1, 2, 3)).all()


def test_a_random_walk_keeps_the_size_of_every_move_and_none_of_the_direction(paths, last_close) -> None:
    got = relative(made(first("random_walk", len(paths)), paths, last_close), last_close)[..., CLOSE]
    real = relative(paths, last_close)[..., CLOSE]
    moves, expected = (np.diff(x, axis=2, prepend=0.0) for x in (got, real))
    np.testing.assert_allclose(np.abs(moves), np.abs(expected), atol=2e-6)
    up = np.count_nonzero(moves * expected > 0)
    assert stats.binomtest(up, moves.size).pvalue > 0.001
    signs = np.sign(moves)
    assert abs(np.mean(signs[:, :, 1:] * signs[:, :, :-1])) < 4 / np.sqrt(moves.size)


def test_candles_of_a_random_walk_are_real_ones_upright_or_upside_down(paths, last_close) -> None:
    """Against a loop that follows each path candle by candle."""
    placebo = first("random_walk", len(paths))
    got = made(placebo, paths, last_close).astype(np.float64)
    for b in (0, 70):
        for s in range(paths.shape[1]):
            before_real = before = last_close[b]
            for h in range(paths.shape[2]):
                real = np.log(paths[b, s, h, :VOLUME].astype(np.float64) / before_real)
                up = before * np.exp(real)
                down = before * np.exp(-real[[OPEN, LOW, HIGH, CLOSE]])
                prices = got[b, s, h, :VOLUME]
                nearest = min(np.abs(prices / one - 1).max() for one in (up, down))
                assert nearest < 1e-6
                before_real, before = float(paths[b, s, h, CLOSE]), prices[CLOSE]


def test_amount_follows_price(paths, last_close) -> None:
    paths = paths.copy()
    paths[..., AMOUNT] = paths[..., VOLUME] * paths[..., :VOLUME].mean(axis=-1)
    for kind in KINDS:
        got = made(first(kind, len(paths), 1), paths, last_close)
        np.testing.assert_allclose(got[..., AMOUNT], got[..., VOLUME] * got[..., :VOLUME].mean(axis=-1), rtol=1e-5)


def test_too_few_origins_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than three blocks"):
        make_placebos(17, 4, BLOCK, 0)


def test_the_p_value_counts_the_real_run_among_the_placebos() -> None:
    placebos = np.arange(1.0, 200.0)
    assert rank_p_value(1000.0, placebos) == 1 / 200
    assert rank_p_value(199.0, placebos) == 2 / 200  # ties count against it
    assert rank_p_value(-1.0, placebos) == 1.0
    assert rank_p_value(100.0, [*placebos, np.nan]) == pytest.approx(101 / 200)
    assert np.isnan(rank_p_value(np.nan, placebos))
    assert np.isnan(rank_p_value(1.0, []))
    assert np.isnan(rank_p_value(1.0, [np.nan]))


def test_the_p_value_is_uniform_where_the_real_run_is_one_of_the_placebos(rng: np.random.Generator) -> None:
    draws = rng.standard_normal((4000, 20))
    p = np.array([rank_p_value(row[0], row[1:]) for row in draws])
    assert stats.chisquare(np.bincount(np.round(20 * p).astype(int), minlength=21)[1:]).pvalue > 0.001


def test_a_summary_ranks_over_all_runs_and_by_kind() -> None:
    got = summarise_placebos(2.0, [1.0, 3.0, 1.0, np.nan], ["shift", "flip", "shift", "flip"])
    assert got == pytest.approx(
        {
            "p_value": 0.5,
            "runs": 3,
            "mean": 5 / 3,
            "q95": 2.8,
            "max": 3.0,
            "shift.p_value": 1 / 3,
            "flip.p_value": 1.0,
        }
    )


def ranks(windows: Windows, paths: Float32Array, runs: int = 12, seed: int = 4) -> dict[str, float]:
    one = Candidate("t@x", "threshold", {"entry_bps": 5.0, "allow_short": True})
    forecasts = (Forecast(window, p) for window, p in zip(windows, paths, strict=True))
    targets = decide_all(load_strategy(one.use, one.params), forecasts)
    free = PortfolioConfig(fee_bps=0.0, slippage_bps=0.0, max_short=1.0)
    real = simulate(windows.candles, windows.origins, targets[:, None], [one.name], free)
    told: list[int] = []
    numbers = run_placebos([one], windows, paths, real, free, runs=runs, stride=1, seed=seed, advance=told.append)
    assert sum(told) == runs or not numbers
    return numbers


def test_a_forecast_that_knows_the_future_beats_every_placebo_and_others_do_not(
    walk: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placebo_runs, "MIN_RUNS", 1000)
    known = walk.scored
    assert known.all()
    clairvoyant = np.repeat(walk.outcomes(np.arange(len(walk)))[:, None], 3, axis=1).astype(np.float32)
    got = ranks(walk, clairvoyant)
    assert got["placebo.t@x.p_value"] == pytest.approx(1 / 13)
    assert got["placebo.t@x.runs"] == 12
    windows = list(walk)
    ignorant = [
        ranks(walk, RandomWalk(context=30, horizon=BLOCK, n_paths=5, seed=seed).forecast(windows).paths)
        for seed in range(10)
    ]
    assert 0.25 < np.mean([one["placebo.t@x.p_value"] for one in ignorant]) < 0.75


def test_runs_on_several_processes_equal_those_on_one(walk, paths, monkeypatch: pytest.MonkeyPatch) -> None:
    several = ranks(walk, paths, runs=8)
    monkeypatch.setattr(placebo_runs, "MIN_RUNS", 9)
    assert ranks(walk, paths, runs=8) == several


def test_a_walk_too_short_to_shuffle_has_no_placebos(walk: Windows, paths: Float32Array) -> None:
    short = make_windows(
        walk.candles, WindowsConfig(context=30, horizon=BLOCK, start="2019-01-03", end="2019-01-03T17:00:00Z")
    )
    assert len(short) == 17
    assert ranks(short, paths[:17]) == {}
