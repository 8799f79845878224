"""Dependence between steps by the order of past forecast errors: marginals, template, and what is known when."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from btcbt.config import ReorderedConfig
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.forecasters.reordered import OWN_WEIGHT, ErrorTemplate, Reordered, join_candles, positions_of
from btcbt.records import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME, ForecastBatch, Window

CONTEXT, H, PATHS = 30, 4, 40
Maker = Callable[..., list[Window]]


class Unordered(RandomWalk):
    """A random walk without memory in a path: each step has its own draw."""

    def forecast(self, windows):
        batch = super().forecast(windows)
        paths = batch.paths.copy()
        for step in range(1, self.horizon):
            paths[:, :, step] = np.roll(paths[:, :, step], 7 * step, axis=1)
        return ForecastBatch(batch.origins, paths, batch.provenance)


def unordered() -> Unordered:
    return Unordered(context=CONTEXT, horizon=H, n_paths=PATHS, seed=5)


def closes(paths):
    return paths[..., CLOSE]


def test_every_step_keeps_its_closes_volumes_and_amounts_to_the_last_bit(make_windows: Maker) -> None:
    windows = make_windows(60, CONTEXT)
    before, after = unordered().forecast(windows).paths, Reordered(unordered()).forecast(windows).paths
    for channel in (CLOSE, VOLUME, AMOUNT):
        assert np.array_equal(np.sort(after[..., channel], axis=1), np.sort(before[..., channel], axis=1))
    assert not np.array_equal(closes(after)[-1], closes(before)[-1])


def test_paths_follow_the_errors_and_then_their_own_order(make_windows: Maker) -> None:
    """The twin of `sources`: a loop over sorted lists, for a template that is half filled."""
    rng = np.random.default_rng(2)
    template = ErrorTemplate(H, 50)
    for window, row in zip(make_windows(30, CONTEXT), rng.random((30, H)), strict=True):
        template.rows.append(row)
        template._fresh.append(1.0)
        template.observe(window)
    samples = rng.random((PATHS, H)).astype(np.float32)
    moved = np.take_along_axis(samples, template.sources(samples), axis=0)
    n_led = round(PATHS * 30 / (30 + OWN_WEIGHT))
    for step in range(H):
        led = [template.rows[int((path + 0.5) * 30 / n_led)][step] for path in range(n_led)]
        own = [(sorted(samples[:, step]).index(samples[path, step]) + 0.5) / PATHS for path in range(n_led, PATHS)]
        expected = np.sort(samples[:, step])[rankdata(led + own, method="ordinal") - 1]
        assert np.array_equal(moved[:, step], expected)


def test_dependence_between_steps_becomes_that_of_the_errors(make_windows: Maker) -> None:
    windows = make_windows(1200, CONTEXT)
    base = unordered()
    plain = base.forecast(windows).paths
    template = ErrorTemplate(H, 2000)
    for window, forecast in zip(windows, plain, strict=True):
        template.observe(window)
        template.issue(window, closes(forecast))
    errors = np.array(template.rows)
    assert len(errors) == 1200 - H
    after = Reordered(base).forecast(windows).paths[1000:]
    for a, b in ((0, 1), (0, 3), (2, 3)):
        of_errors = spearmanr(errors[:, a], errors[:, b]).statistic
        of_paths = np.mean([spearmanr(one[:, a], one[:, b]).statistic for one in closes(after)])
        of_base = np.mean([spearmanr(one[:, a], one[:, b]).statistic for one in closes(plain[1000:])])
        assert of_errors > 0.35  # outcomes are paths
        assert abs(of_base) < 0.1
        assert of_paths == pytest.approx(of_errors, abs=0.15)


def test_an_error_is_used_when_the_outcomes_of_all_its_steps_are_known(make_windows: Maker) -> None:
    windows = make_windows(12, CONTEXT)
    forecasts = unordered().forecast(windows).paths
    template, known = ErrorTemplate(H, 100), []
    for window, forecast in zip(windows, forecasts, strict=True):
        template.observe(window)
        known.append(len(template.rows))
        template.issue(window, closes(forecast))
    assert known == [0] * H + list(range(1, 12 - H + 1))
    outcomes = np.log([windows[1 + step].values[-1, CLOSE] for step in range(H)])
    assert np.array_equal(
        template.rows[0], positions_of(np.sort(np.log(closes(forecasts[0]).astype(np.float64)), axis=0), outcomes)
    )


def test_forecasts_do_not_depend_on_later_windows(make_windows: Maker) -> None:
    windows = make_windows(40, CONTEXT)
    whole = Reordered(unordered()).forecast(windows).paths
    assert np.array_equal(Reordered(unordered()).forecast(windows[:25]).paths, whole[:25])
    values = windows[25].values.copy()
    values[-1, :VOLUME] *= 1.5
    changed = [*windows[:25], Window(windows[25].open_time, values, windows[25].interval_ms)]
    assert np.array_equal(Reordered(unordered()).forecast(changed).paths[:25], whole[:25])


def test_an_error_with_an_outcome_in_a_gap_is_never_used(make_windows: Maker) -> None:
    windows = make_windows(80, CONTEXT)
    asked = [*windows[:10], *windows[50:]]  # farther apart than a window is long
    template = ErrorTemplate(H, 100)
    forecasts = unordered().forecast(asked).paths
    for window, forecast in zip(asked, forecasts, strict=True):
        template.observe(window)
        template.issue(window, closes(forecast))
    assert len(template.rows) == (10 - H) + (30 - H)


def test_the_newest_errors_make_the_template(make_windows: Maker) -> None:
    windows = make_windows(40, CONTEXT)
    few, many = (ErrorTemplate(H, n) for n in (5, 100))
    for window, forecast in zip(windows, unordered().forecast(windows).paths, strict=True):
        for template in (few, many):
            template.observe(window)
            template.issue(window, closes(forecast))
    assert np.array_equal(np.array(few.rows), np.array(many.rows)[-5:])


def test_candles_join_the_close_before_them_and_stay_valid(make_windows: Maker) -> None:
    windows = make_windows(60, CONTEXT)
    before, paths = (one.forecast(windows).paths.astype(np.float64) for one in (unordered(), Reordered(unordered())))
    body = paths[..., [OPEN, CLOSE]]
    assert (paths[..., HIGH] >= body.max(axis=-1)).all()
    assert (paths[..., LOW] <= body.min(axis=-1)).all()
    one = before[0].astype(np.float32)
    last = windows[0].last_close
    joined = join_candles(one, last, np.tile(np.arange(PATHS)[:, None], H))
    np.testing.assert_allclose(joined, one, rtol=1e-6)
    swapped = join_candles(one, last, np.roll(np.tile(np.arange(PATHS)[:, None], H), 1, axis=0))
    np.testing.assert_allclose(swapped, np.roll(one, 1, axis=0), rtol=1e-6)
    gaps = np.log(paths[-1, :, 1:, OPEN] / paths[-1, :, :-1, CLOSE])
    expected = np.log(before[-1, :, 1:, OPEN] / before[-1, :, :-1, CLOSE])
    np.testing.assert_allclose(np.sort(gaps, axis=0), np.sort(expected, axis=0), atol=1e-6)


def test_positions_are_lines_between_samples_and_never_reach_zero_or_one() -> None:
    ordered = np.array([[0.0], [1.0], [3.0]])
    for outcome, position in ((0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (2.0, 2.5), (3.0, 3.0)):
        assert positions_of(ordered, np.array([outcome]))[0] == pytest.approx(position / 4)
    far = [positions_of(ordered, np.array([x]))[0] for x in (-1e6, -10.0, -1.0, 4.0, 13.0, 1e6)]
    assert (np.diff(far) > 0).all()
    assert far[0] > 0
    assert far[2] < 0.25 < 0.75 < far[3]
    assert far[5] < 1


def test_forecasts_that_cannot_be_ordered_stay_and_are_not_learned_from(make_windows: Maker) -> None:
    class Broken(Unordered):
        def forecast(self, windows):
            batch = super().forecast(windows)
            batch.paths[20, 3, 1, CLOSE] = np.nan
            batch.paths[21, 0, 0, LOW] = -1.0
            batch.paths[22, :, 2] = batch.paths[22, :1, 2]
            return batch

    windows = make_windows(40, CONTEXT)
    base = Broken(context=CONTEXT, horizon=H, n_paths=PATHS, seed=5)
    before, after = base.forecast(windows).paths, Reordered(base).forecast(windows).paths
    for row in (20, 21, 22):
        assert np.array_equal(after[row], before[row], equal_nan=True)
    assert not np.array_equal(after[23], before[23])
    assert np.isfinite(after[23:]).all()


def test_it_is_named_in_the_summary_in_the_manifest_and_in_the_identity(make_windows: Maker) -> None:
    config = ReorderedConfig(kind="reordered", base="fracast")
    assert config.remark == "the paths of fracast, the order of steps is that of its past errors (Schaake shuffle)"
    forecaster = Reordered(unordered(), errors=7)
    assert forecaster.forecast(make_windows(2, CONTEXT)).provenance["reordered"] == "Schaake shuffle of past errors"
    assert forecaster.identity()["errors"] == 7
    assert forecaster.paths_are == "dependent"


def test_windows_out_of_order_are_refused(make_windows: Maker) -> None:
    windows = make_windows(2, CONTEXT)
    with pytest.raises(ValueError, match="not after"):
        Reordered(unordered()).forecast([windows[1], windows[0]])
