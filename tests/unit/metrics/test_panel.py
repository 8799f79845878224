"""The panel against a score-by-score loop, and its independence of batches."""

import math
from dataclasses import fields

import numpy as np
import pytest

from btcbt.metrics import LossPanel, score_batch
from btcbt.metrics.distribution import LEVELS, PROBABILITIES
from btcbt.metrics.panel import SANITY, SCORED
from btcbt.records import CLOSE, VOLUME

ARRAYS = [f.name for f in fields(LossPanel) if f.name not in ("interval_ms", "n_paths", "labels")]


def crps_by_pairs(samples, outcome):
    n = len(samples)
    near = sum(abs(x - outcome) for x in samples) / n
    return near - sum(abs(x - y) for x in samples for y in samples) / (2 * n * (n - 1))


def same(one, two):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def test_every_score_of_every_cell_equals_a_loop(simulate):
    given = simulate(3)
    panel = score_batch(**given)
    paths, outcomes, context = given["paths"].astype(float), given["outcomes"], given["context"]
    for b in range(3):
        last, volume = context[b, -1, CLOSE], sum(context[b, :, VOLUME]) / 9

        def scaled(x, c, last=last, volume=volume):
            return 1e4 * (x / volume if c == VOLUME else math.log(x / last))

        for h in range(4):
            for c in range(len(SCORED)):
                draws, truth = sorted(paths[b, :, h, c]), outcomes[b, h, c]
                logs = [scaled(x, c) for x in draws]
                cell = (b, h, c)
                assert panel.outcome[cell] == truth
                assert panel.mean[cell] == pytest.approx(sum(draws) / 7)
                assert panel.mean_bps[cell] == pytest.approx(sum(logs) / 7, rel=1e-5)
                assert panel.crps[cell] == pytest.approx(crps_by_pairs(draws, truth), rel=1e-5)
                expected = crps_by_pairs(logs, scaled(truth, c))
                assert panel.crps_bps[cell] == pytest.approx(expected, rel=1e-5, abs=1e-6)
                quantiles = np.quantile(draws, PROBABILITIES, method="weibull")
                np.testing.assert_allclose(panel.quantiles[cell], quantiles, rtol=1e-6)
                below, equal = sum(x < truth for x in draws), sum(x == truth for x in draws)
                assert below / 8 <= panel.pit[cell] <= (below + equal + 1) / 8
                assert panel.covered[cell][LEVELS.index(95)] == (draws[0] <= truth <= draws[-1])
        truth_logs = np.log(outcomes[b, :, CLOSE] / last) * 1e4
        logs = np.log(paths[b, :, :, CLOSE] / last) * 1e4
        near = np.mean([np.linalg.norm(x - truth_logs) for x in logs])
        apart = sum(np.linalg.norm(x - y) for x in logs for y in logs) / (2 * 7 * 6)
        assert panel.energy_bps[b] == pytest.approx(near - apart)
        steps = np.diff(np.concatenate([[0.0], truth_logs])) / 1e4
        np.testing.assert_allclose(panel.realised[b], np.cumsum(steps**2))
        each = np.diff(np.concatenate([np.zeros((7, 1)), logs], axis=1), axis=1) / 1e4
        np.testing.assert_allclose(panel.variance[b], np.cumsum(each**2, axis=1).mean(axis=0))
        past = np.diff(np.log(context[b, :, CLOSE]))
        assert panel.past_volatility[b] == pytest.approx(1e4 * math.sqrt(sum(past**2) / 8))
        assert panel.mean_volume[b] == pytest.approx(volume)
        np.testing.assert_array_equal(panel.naive[b], [last, *context[b, -1, [1, 2, 3, 4]]])


def test_scores_do_not_depend_on_how_origins_are_sharded(simulate):
    given = simulate(600)
    whole = score_batch(**given)
    shards = [score_batch(**{k: v[i : i + 77] for k, v in given.items()}) for i in range(0, 600, 77)]
    same(whole, LossPanel.concatenate(shards))
    same(whole, LossPanel.concatenate(shards[::-1]))


def test_scoring_looks_at_nothing_but_its_own_origin(simulate):
    given = simulate(20)
    before = score_batch(**given)
    given["outcomes"] = given["outcomes"].copy()
    given["outcomes"][10:] *= 1.5
    after = score_batch(**given)
    same(before.select(np.arange(10)), after.select(np.arange(10)))


def test_broken_paths_and_outcomes_score_nan_in_their_own_cell(simulate):
    given = simulate(6)
    given["paths"][0, 2, 1, CLOSE] = np.nan
    given["paths"][1, 2, 1, CLOSE] = -5.0
    given["paths"][2, 2, 1, VOLUME] = np.inf
    given["outcomes"][3, 1, CLOSE] = np.nan
    panel = score_batch(**given)
    for name in ("mean", "crps", "crps_bps", "pit"):
        missing = {tuple(cell) for cell in np.argwhere(np.isnan(getattr(panel, name)))}
        expected = {(0, 1, CLOSE), (1, 1, CLOSE), (2, 1, VOLUME)}
        assert missing == (expected if name.startswith("mean") else {*expected, (3, 1, CLOSE)})
    np.testing.assert_array_equal(np.isnan(panel.energy_bps), [True, True, False, True, False, False])
    np.testing.assert_array_equal(np.isnan(panel.variance).sum(axis=1), [3, 3, 0, 0, 0, 0])


def test_candles_that_are_none_are_counted_by_rule(simulate):
    given = simulate(2)
    p = given["paths"]
    p[0, 0, 0, 1] = p[0, 0, 0, 3] * 0.5  # high below the body
    p[0, 1, :2, 2] = p[0, 1, :2, 1] * 2  # low above it, twice
    p[1, 0, 0, 4] = -1.0
    p[1, 1, 1, 2] = -1.0
    p[1, 2, 2, 0] = np.nan
    counts = [dict(zip(SANITY, row, strict=True)) for row in score_batch(**given).insane]
    assert counts[0] == dict(zip(SANITY, (0, 0, 1, 2, 0), strict=True))
    assert counts[1] == dict(zip(SANITY, (1, 1, 0, 0, 1), strict=True))


@pytest.mark.filterwarnings("error")
def test_a_market_without_volume_or_movement_can_be_scored(simulate):
    given = simulate(3)
    given["context"][..., VOLUME] = 0.0
    given["context"][..., CLOSE] = 100.0
    given["paths"] = np.full_like(given["paths"], 100.0)
    given["outcomes"] = np.full_like(given["outcomes"], 100.0)
    panel = score_batch(**given)
    assert (panel.crps == 0.0).all()
    assert np.isnan(panel.crps_bps[..., VOLUME]).all()
    assert (panel.crps_bps[..., CLOSE] == 0.0).all()
    assert (panel.past_volatility == 0.0).all()
    assert len(np.unique(panel.pit)) > 10  # ties are broken by the jitter


def test_one_path_and_one_origin_are_enough(simulate):
    panel = score_batch(**simulate(1, n_paths=1, horizon=1))
    assert panel.crps[0, 0, CLOSE] == pytest.approx(abs(panel.mean - panel.outcome)[0, 0, CLOSE], rel=1e-5)
    assert panel.stride == 1


def test_overlap_counts_origins_that_share_candles(simulate):
    given = simulate(8, horizon=4)
    assert [score_batch(**given).overlap(step) for step in (1, 3, 4)] == [1, 3, 4]
    given["origins"] = given["origins"][0] + 3 * (given["origins"] - given["origins"][0])
    assert [score_batch(**given).overlap(step) for step in (1, 3, 4)] == [1, 1, 2]


def test_labels_travel_with_their_origins(simulate):
    given = simulate(5)
    panel = score_batch(**given, labels=["seen", "seen", "clean", "clean", "clean"])
    assert list(panel.select([0, 4]).labels) == ["seen", "clean"]
    with pytest.raises(ValueError, match="labels"):
        score_batch(**given, labels=["seen"])


def test_shapes_that_do_not_fit_are_refused(simulate):
    given = simulate(3)
    for name, wrong in (
        ("paths", given["paths"][..., :5]),
        ("outcomes", given["outcomes"][:2]),
        ("context", given["context"][:, :1]),
        ("origins", given["origins"][:1]),
    ):
        with pytest.raises(ValueError, match=name):
            score_batch(**{**given, name: wrong})


def test_panels_that_do_not_fit_together_are_refused(simulate):
    panel = score_batch(**simulate(3))
    with pytest.raises(ValueError, match="more than one panel"):
        LossPanel.concatenate([panel, panel])
    with pytest.raises(ValueError, match="differ"):
        LossPanel.concatenate([panel, score_batch(**simulate(3, horizon=2))])
    with pytest.raises(ValueError, match="no panels"):
        LossPanel.concatenate([])
