"""Two records are compared bit for bit, and what follows from a difference is not judged again."""

from __future__ import annotations

import numpy as np
import pytest

from btcbt.audit.findings import Finding
from btcbt.audit.trace import Observation, compare, difference

TIMES = np.array([10, 20, 30], dtype=np.int64)


def observation(values, stage="forecast", component="x", field="paths", times=TIMES, axes=(), needs=(), error=""):
    return Observation(stage, component, field, np.asarray(times), np.asarray(values), axes, needs, error)


def differ(a, b, **options):
    return difference(observation(a, **options), observation(b, **options))


def test_equal_bits_are_no_difference():
    values = np.array([1.0, np.nan, -0.0])
    assert differ(values, values.copy()) is None


def test_a_single_bit_is_a_difference():
    values = np.array([1.0, 2.0, 3.0])
    time, size, field, detail = differ(values, np.array([1.0, np.nextafter(2.0, 3.0), 3.0]))
    assert (time, field) == (20, "paths")
    assert size == np.spacing(2.0)
    assert "1 of 3 values differ" in detail


def test_the_sign_of_zero_is_a_bit():
    assert differ(np.array([0.0, 1.0, 2.0]), np.array([-0.0, 1.0, 2.0])) is not None


def test_the_largest_difference_is_named_by_time_path_step_and_channel():
    values = np.zeros((3, 2, 4, 6), dtype=np.float32)
    other = values.copy()
    other[1, 0, 0, 0] = 1.0
    other[2, 1, 3, 3] = -7.0
    time, size, field, detail = differ(values, other, axes=("path", "step", "channel"))
    assert (time, size, field) == (30, 7.0, "paths.close")
    assert detail.startswith("path 1, step 3, 0 became -7")
    assert "2 of 144" in detail


@pytest.mark.parametrize("other", [[1.0, np.nan, 3.0], [1.0, np.inf, 3.0]])
def test_a_number_that_is_lost_differs_without_bound(other):
    _, size, _, _ = differ(np.array([1.0, 2.0, 3.0]), np.array(other))
    assert size == np.inf


def test_other_times_shapes_and_types_are_differences():
    a = observation(np.zeros(3), field="origins")
    time, size, field, detail = difference(a, observation(np.zeros(2), field="origins", times=TIMES[[0, 2]]))
    assert (time, size, field) == (20, 1.0, "origins.times")
    assert "is missing" in detail
    _, _, _, detail = difference(a, observation(np.zeros(4), field="origins", times=[10, 20, 25, 30]))
    assert "is new" in detail
    assert difference(a, observation(np.zeros((3, 1))))[1] == np.inf
    assert difference(a, observation(np.zeros(3, dtype=np.float32)))[1] == np.inf
    assert difference(a, None)[1] == np.inf


def test_labels_that_are_no_numbers_are_compared_too():
    _, size, _, detail = differ(np.array(["a", "b", "c"]), np.array(["a", "x", "c"]))
    assert size == np.inf
    assert "b became x" in detail


def test_what_follows_from_a_difference_is_not_judged():
    truth = [
        observation(np.zeros(3), component="a"),
        observation(np.zeros(3), component="b"),
        observation(np.zeros(3), "strategy", "s@a", "target", needs=("a",)),
        observation(np.zeros(3), "strategy", "s@b", "target", needs=("b",)),
        observation(np.zeros(3), "portfolio", "s@a", "equity", needs=("s@a",)),
        observation(np.zeros(3), "portfolio", "s@b", "equity", needs=("s@b",)),
    ]
    other = [observation(np.ones(3), o.stage, o.component, o.field) for o in truth]
    other[1] = truth[1]
    said = list(compare(truth, other, 30, "noise", "fresh"))
    assert [one if isinstance(one, str) else (one.stage, one.component) for one in said] == [
        ("forecast", "a"),
        "forecast",
        ("strategy", "s@b"),
    ]


def test_nothing_is_judged_where_the_past_differs():
    truth = [observation(np.zeros(3), "candles", "candles", "values"), observation(np.zeros(3))]
    said = list(compare(truth, [observation(np.ones(3), "candles", "candles", "values")], 30, "flip", "used"))
    (finding,) = said
    assert isinstance(finding, Finding)
    assert (finding.stage, finding.change, finding.objects, finding.origin) == ("candles", "flip", "used", 30)


def test_what_a_part_raises_is_its_finding():
    truth = [observation(np.zeros(3), "strategy", "s", "target")]
    raised = observation(np.empty(0), "strategy", "s", "", error="raised ValueError: no")
    (finding,) = compare(truth, [raised], 30, "nan", "fresh")
    assert finding.difference == np.inf
    assert "raised ValueError" in finding.detail
