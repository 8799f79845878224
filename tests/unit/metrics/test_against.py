from __future__ import annotations

import numpy as np
import pytest

from btcbt.metrics import pairs
from btcbt.metrics.inference import diebold_mariano


def against(losses):
    return {
        f"{name}.{row.group.replace('=', '.')}.{row.channel}.h{row.step}.{row.metric}": row.value
        for name, row in pairs.against(losses)
    }


def series(rng, names, n=200, overlap=4):
    return {name: {("crps", 4): (overlap, 10 + rng.standard_normal(n).cumsum() * 0.01)} for name in names}


def test_every_forecaster_is_tested_against_each_one_before_it(rng):
    losses = series(rng, ["walk", "frozen", "refitted"])
    numbers = against(losses)
    pairs = [("frozen", "walk"), ("refitted", "walk"), ("refitted", "frozen")]
    assert {key.split(".close")[0] for key in numbers} == {f"{a}.against.{b}" for a, b in pairs}
    for a, b in pairs:
        ours, theirs = losses[a]["crps", 4][1], losses[b]["crps", 4][1]
        test, key = diebold_mariano(ours, theirs, 4), f"{a}.against.{b}.close.h4.crps"
        assert numbers[f"{key}.difference"] == pytest.approx(ours.mean() - theirs.mean())
        assert numbers[f"{key}.skill"] == pytest.approx(1 - ours.mean() / theirs.mean())
        assert (numbers[f"{key}.dm"], numbers[f"{key}.dm_p"]) == (test.statistic, test.p_value)
        low, high = numbers[f"{key}.low"], numbers[f"{key}.high"]
        assert (low < 0 < high) == (test.p_value > 0.05)
        assert low < test.mean < high


def test_equal_losses_have_no_statistic_and_few_origins_no_interval(rng):
    losses = series(rng, ["a"])
    same = against({"a": losses["a"], "b": losses["a"]})
    assert same["b.against.a.close.h4.crps.difference"] == 0
    assert np.isnan(same["b.against.a.close.h4.crps.dm_p"])
    short = against(series(rng, ["a", "b"], n=9))
    assert np.isnan(short["b.against.a.close.h4.crps.low"])
    assert np.isfinite(short["b.against.a.close.h4.crps.difference"])


def test_one_forecaster_is_tested_against_nobody(rng):
    assert against(series(rng, ["alone"])) == {}
