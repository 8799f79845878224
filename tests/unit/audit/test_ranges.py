"""Labels are held to the ranges of fitted parts."""

from __future__ import annotations

import numpy as np
import pytest

from btcbt.audit.ranges import check_ranges
from btcbt.forecasters.random_walk import RandomWalk
from btcbt.records import DataRange
from btcbt.windows import contamination

HOUR_MS = 3_600_000
ORIGINS = HOUR_MS * np.arange(100, 110, dtype=np.int64)


def fitted(ranges):
    class Fitted(RandomWalk):
        def data_ranges(self):
            return ranges

    return Fitted(context=10, horizon=2, n_paths=2, seed=0)


def clean(origins, ranges):
    return np.full(len(origins), "clean")


def check(ranges, label=contamination):
    return check_ranges("x", fitted(ranges).parts(ORIGINS), ORIGINS, HOUR_MS, label)


@pytest.mark.parametrize("end", [99, 100])
def test_a_fit_that_ends_by_the_first_origin_is_clean(end):
    assert check((DataRange("fit", 0, HOUR_MS * end),)) == ([], [])


@pytest.mark.parametrize(("use", "label"), [("fit", "seen"), ("selection", "selected-on")])
def test_an_overlap_that_is_owned_up_to_is_noted_and_no_finding(use, label):
    found, notes = check((DataRange(use, 0, HOUR_MS * 104),))
    assert not found
    (note,) = notes
    assert f"4 {label}" in note


def test_an_overlap_that_is_called_clean_is_found_with_its_size_in_candles():
    (finding,), _ = check((DataRange("finetuning", 0, HOUR_MS * 104),), clean)
    assert finding.origin == ORIGINS[0]
    assert finding.difference == 4.0
    assert finding.stage == "split"
    assert "4 of 10 origins" in finding.detail


@pytest.mark.parametrize("ranges", [None, (DataRange("unknown", 0, 0),)])
def test_undeclared_data_are_noted_and_must_not_be_called_clean(ranges):
    found, notes = check(ranges)
    assert not found
    assert "not declared" in notes[0]
    (finding,), _ = check(ranges, clean)
    assert finding.difference == float("inf")
