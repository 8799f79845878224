"""The slow twin of the streamed scores: its keys, its groups, and its numbers against pandas and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from btcbt.metrics import score_batch
from btcbt.metrics.inference import diebold_mariano
from btcbt.metrics.panel import SCORED
from btcbt.metrics.streaming import volatility_regimes
from btcbt.records import CLOSE, VOLUME
from tests.unit.metrics import whole_panel
from tests.unit.metrics.whole_panel import compare, scores, summarise

SPLIT = ["seen"] * 100 + ["clean"] * 300


@pytest.fixture
def given(simulate):
    return simulate(400)


@pytest.fixture
def panel(given):
    return score_batch(**given, labels=SPLIT)


def test_the_headline_numbers_equal_those_of_pandas(given, panel):
    numbers = summarise(panel)
    paths, outcome = given["paths"].astype(float), given["outcomes"]
    frame = pd.DataFrame(
        {
            "median": np.median(paths[:, :, 3, CLOSE], axis=1),
            "mean": paths[:, :, 3, CLOSE].mean(axis=1),
            "outcome": outcome[:, 3, CLOSE],
            "naive": given["context"][:, -1, CLOSE],
        }
    )
    error = frame["median"] - frame["outcome"]
    assert numbers["mae.close.h4"] == pytest.approx(error.abs().mean(), rel=1e-5)
    assert numbers["mape.close.h4"] == pytest.approx(100 * (error / frame["outcome"]).abs().mean(), rel=1e-5)
    naive = (frame["naive"] - frame["outcome"]).abs().mean()
    assert numbers["mase.close.h4"] == pytest.approx(error.abs().mean() / naive, rel=1e-5)
    squared = (frame["mean"] - frame["outcome"]) ** 2
    assert numbers["rmse.close.h4"] == pytest.approx(np.sqrt(squared.mean()), rel=1e-5)
    naive_squared = ((frame["naive"] - frame["outcome"]) ** 2).mean()
    assert numbers["r2.close.h4"] == pytest.approx(1 - squared.mean() / naive_squared, rel=1e-4)
    logs = np.log(frame.div(frame["naive"], axis=0))
    assert numbers["mae_bps.close.h4"] == pytest.approx(1e4 * (logs["median"] - logs["outcome"]).abs().mean(), rel=1e-4)
    hits = np.sign(logs["median"]) == np.sign(logs["outcome"])
    assert numbers["direction.close.h4"] == pytest.approx(hits.mean())
    volume = np.median(paths[:, :, 3, VOLUME], axis=1), outcome[:, 3, VOLUME]
    changes = [np.sign(v - given["context"][:, -1, VOLUME]) for v in volume]
    moved = (changes[0] != 0) & (changes[1] != 0)
    assert numbers["direction.volume.h4"] == pytest.approx(np.mean((changes[0] == changes[1])[moved]), abs=1e-6)
    log_mean = np.log(paths[:, :, 3, CLOSE] / frame["naive"].to_numpy()[:, None]).mean(axis=1)
    assert numbers["ic.close.h4"] == pytest.approx(np.corrcoef(log_mean, logs["outcome"])[0, 1], rel=1e-3)
    assert numbers["scored.close.h4"] == 1.0
    assert numbers["origins"] == 400.0
    assert numbers["coverage95_attainable"] == 75.0  # seven paths: 6 / 8


def test_every_score_has_every_step_and_channel(panel):
    numbers = summarise(panel, splits=False)
    steps = ("h1", "h2", "h3", "h4", "all")
    for score in ("mae", "rmse", "mape", "mase", "r2", "bias", "mae_bps", "rmse_bps", "bias_bps", "crps"):
        assert all(f"{score}.{channel}.{step}" in numbers for channel in SCORED for step in steps)
    for score in (
        "coverage50",
        "coverage95",
        "width80_bps",
        "pinball",
        "pinball_q025",
        "pinball_q500",
        "direction",
    ):
        assert all(f"{score}.{channel}.{step}" in numbers for channel in SCORED for step in steps)
    for score in ("pit_p", "ic_t", "rank_ic", "rank_ic_t", "direction_p"):
        assert all(f"{score}.{channel}.{step}" in numbers for channel in SCORED for step in steps[:4])
    assert {"qlike.h4", "volatility_mae_bps.all", "energy_bps", "insane_high_too_low"} <= set(numbers)
    assert all(isinstance(value, float) for value in numbers.values())


def test_no_score_of_a_sound_forecast_is_nan(panel):
    numbers = summarise(panel, panel.select(np.arange(0, 400, 2)), splits=True)
    # A comparison of a forecast with itself has no test; everything else does.
    assert [k for k, v in numbers.items() if np.isnan(v) and not k.startswith("versus.")] == []


def test_splits_are_the_scores_of_the_groups(given):
    given["origins"] = given["origins"] + 3_600_000 * (600 * np.arange(400) // 400 * 2)
    panel = score_batch(**given, labels=SPLIT)
    numbers = summarise(panel)
    months = pd.to_datetime(given["origins"], unit="ms").strftime("%Y-%m")
    assert len(set(months)) > 1
    groups = {f"by_month.{m}": months == m for m in set(months)}
    groups |= {f"by_label.{label}": np.asarray(SPLIT) == label for label in ("seen", "clean")}
    regime = pd.qcut(panel.past_volatility, 3, labels=["low", "middle", "high"])
    groups |= {f"by_volatility.{name}": np.asarray(regime == name) for name in ("low", "middle", "high")}
    for name, rows in groups.items():
        assert numbers[f"{name}.origins"] == rows.sum()
        alone = summarise(panel.select(rows), splits=False)
        for key in ("crps_bps.close.h4", "mase.volume.h1", "coverage90.high.all", "qlike.h4", "energy_bps"):
            assert numbers[f"{name}.{key}"] == pytest.approx(alone[key])
        assert f"{name}.crps_bps.close.h2" not in numbers
    assert {k.split(".")[1] for k in numbers if k.startswith("by_month.")} == set(months)


def test_a_panel_without_labels_is_not_split_by_them(given):
    assert not any(key.startswith("by_label") for key in summarise(score_batch(**given)))


def test_a_constant_volatility_makes_one_regime():
    regimes, thresholds = volatility_regimes(np.full(10, 5.0))
    assert (regimes == 0).all()
    assert thresholds == (5.0, 5.0)


def test_comparison_is_the_test_of_paired_losses(simulate):
    given = simulate(400, horizon=12)
    panel = score_batch(**given)
    wide = score_batch(**{**given, "paths": simulate(400, horizon=12, sharpness=3.0)["paths"]})
    numbers = compare(panel, wide.select(np.arange(50, 400)))
    ours, theirs = (p.crps_bps[50:, 11, CLOSE].astype(float) for p in (panel, wide))
    test = diebold_mariano(ours, theirs, 12)
    assert test.statistic != diebold_mariano(ours, theirs, 1).statistic
    assert numbers["origins"] == 350.0
    assert numbers["crps_bps.close.h12.dm"] == pytest.approx(test.statistic)
    assert numbers["crps_bps.close.h12.dm_p"] == pytest.approx(test.p_value)
    assert numbers["crps_bps.close.h12.skill"] == pytest.approx(1 - ours.mean() / theirs.mean())
    assert numbers["crps_bps.close.h12.hln"] == pytest.approx(diebold_mariano(ours, theirs, 12, "hln").statistic)
    assert numbers["crps_bps.close.h12.dm"] < 0 < numbers["crps_bps.close.h12.skill"]
    assert {"abs_bps.volume.h1.dm_p", "energy_bps.skill", "qlike.h12.dm"} <= set(numbers)
    mirrored = compare(wide, panel)
    assert mirrored["energy_bps.dm"] > 0


def test_a_forecast_that_fails_now_and_then_cannot_hide_it(given):
    given["paths"][:40, 0, :, :] = np.nan
    numbers = summarise(score_batch(**given))
    assert numbers["scored.close.h4"] == 0.9
    assert numbers["insane_not_finite"] == pytest.approx(40 / (400 * 7))
    assert np.isfinite(numbers["crps.close.h4"])


def test_one_origin_has_scores_but_no_tests(simulate):
    numbers = summarise(score_batch(**simulate(1)))
    assert np.isfinite(numbers["crps_bps.close.h4"])
    assert np.isnan(numbers["pit_p.close.h4"])
    assert np.isnan(numbers["ic_t.close.h4"])


def test_pooled_steps_are_the_mean_over_steps_of_a_mean(panel):
    table = scores(panel)["crps_bps"]
    np.testing.assert_allclose(table[-1], table[:-1].mean(axis=0))


def test_panels_that_cannot_be_compared_are_refused(panel, simulate):
    later = simulate(3)
    later["origins"] = later["origins"] + 10**12
    with pytest.raises(ValueError, match="share no origin"):
        compare(panel, score_batch(**later))
    with pytest.raises(ValueError, match="horizons differ"):
        compare(panel, score_batch(**simulate(3, horizon=2)))
    with pytest.raises(ValueError, match="without origins"):
        summarise(panel.select(np.zeros(400, dtype=bool)))


def test_errors_equal_those_of_scikit_learn(rng):
    forecast, outcome, naive = rng.normal(100.0, 5.0, (3, 200, 4))
    for k in range(4):
        f, o, n = forecast[:, k], outcome[:, k], naive[:, k]
        assert whole_panel.mean_absolute_error(forecast, outcome)[k] == pytest.approx(sk.mean_absolute_error(o, f))
        squared = sk.root_mean_squared_error(o, f)
        assert whole_panel.root_mean_squared_error(forecast, outcome)[k] == pytest.approx(squared)
        assert whole_panel.mean_absolute_percentage_error(forecast, outcome)[k] == pytest.approx(
            100 * sk.mean_absolute_percentage_error(o, f)
        )
        assert whole_panel.mean_absolute_scaled_error(forecast, outcome, naive)[k] == pytest.approx(
            sk.mean_absolute_error(o, f) / sk.mean_absolute_error(o, n)
        )
        assert whole_panel.bias(forecast, outcome)[k] == pytest.approx(sum(f - o) / 200)


def test_r2_against_a_constant_is_that_of_scikit_learn(rng):
    outcome = rng.normal(size=50)
    forecast = outcome + 0.3 * rng.normal(size=50)
    naive = np.full(50, outcome.mean())
    assert whole_panel.r2_out_of_sample(forecast, outcome, naive) == pytest.approx(sk.r2_score(outcome, forecast))


def test_pooling_steps_is_scoring_the_flat_array(rng):
    forecast, outcome, naive = rng.normal(100.0, 5.0, (3, 30, 6, 2))
    for score in (whole_panel.mean_absolute_scaled_error, whole_panel.r2_out_of_sample):
        flat = [a.reshape(180, 2) for a in (forecast, outcome, naive)]
        np.testing.assert_allclose(score(forecast, outcome, naive, axis=(0, 1)), score(*flat))


def test_nan_is_left_out_on_every_side_of_a_ratio():
    forecast, outcome, naive = (
        np.array([1.0, np.nan, 3.0, 4.0]),
        np.array([2.0, 2.0, 2.0, np.nan]),
        np.ones(4),
    )
    assert whole_panel.mean_absolute_error(forecast, outcome) == 1.0
    assert whole_panel.mean_absolute_scaled_error(forecast, outcome, naive) == 1.0
    assert whole_panel.r2_out_of_sample(forecast, outcome, naive) == 0.0
    broken_naive = np.array([np.nan, 1.0, 0.0, 1.0])
    assert whole_panel.mean_absolute_scaled_error(5 * forecast, outcome, broken_naive) == 6.5  # |15 - 2| / |0 - 2|
    assert whole_panel.r2_out_of_sample(5 * forecast, outcome, broken_naive) == 1 - 6.5**2


@pytest.mark.filterwarnings("error")
def test_nothing_left_is_nan_without_a_warning():
    empty = np.full(3, np.nan)
    assert np.isnan(whole_panel.mean_absolute_error(empty, np.ones(3)))
    assert np.isnan(whole_panel.directional_accuracy(np.zeros(3), np.ones(3)))
    assert np.isnan(whole_panel.mean_absolute_scaled_error(np.ones(3), np.ones(3), np.ones(3)))
    assert np.isnan(whole_panel.r2_out_of_sample(np.ones(3), np.ones(3), np.ones(3)))
    assert np.isnan(whole_panel.mean_absolute_percentage_error(np.ones(2), np.zeros(2)))


def test_an_hour_without_volume_does_not_make_the_percentage_infinite():
    assert whole_panel.mean_absolute_percentage_error([1.0, 3.0], [0.0, 2.0]) == 50.0


def test_direction_counts_signs_and_leaves_out_zeros():
    forecast = np.array([1.0, -1.0, 2.0, 0.0, 1.0, np.nan])
    outcome = np.array([0.5, 1.0, 3.0, 1.0, 0.0, 1.0])
    assert whole_panel.directional_accuracy(forecast, outcome) == pytest.approx(2 / 3)
