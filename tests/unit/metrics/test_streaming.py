"""Scores added up batch by batch, against the slow twin, which takes the whole panel at once."""

import numpy as np
import pytest

from btcbt.metrics import ScoreStream, confidence_sets, score_batch
from btcbt.metrics.comparison import model_confidence_set
from btcbt.metrics.table import dotted_key
from btcbt.records import CLOSE, VOLUME
from tests.unit.metrics.whole_panel import compare, summarise

LABELS = np.array([""] * 50 + ["seen"] * 100 + ["clean"] * 250)


def stream_of(panel, scratch, sizes=(1, 99, 168, 132)):
    stream = ScoreStream(
        panel.origins,
        panel.past_volatility,
        panel.labels,
        horizon=panel.horizon,
        n_paths=panel.n_paths,
        interval_ms=panel.interval_ms,
        scratch=scratch,
    )
    start = 0
    for size in sizes:
        stream.add(panel.select(np.arange(start, start + size)))
        start += size
    return stream


def numbers(rows):
    """Rows under their dotted keys, without the forecaster."""
    keyed = [(dotted_key("x", row, reference=True).removeprefix("forecast.x."), row.value) for row in rows]
    assert len(dict(keyed)) == len(keyed)
    return dict(keyed)


def assert_equal(streamed, whole):
    assert set(streamed) == set(whole)
    wrong = {
        key: (streamed[key], value)
        for key, value in whole.items()
        if not np.isclose(streamed[key], value, rtol=1e-9, atol=1e-9, equal_nan=True)
    }
    assert not wrong


@pytest.fixture
def panels(simulate):
    """Two forecasters; the second has broken paths, dead hours and an outcome that nobody knows."""
    given, other = simulate(400), simulate(400)
    outcomes = given["outcomes"]
    outcomes[7, 2, VOLUME] = 0.0
    outcomes[9, 1] = np.nan
    other = {**given, "paths": other["paths"]}
    other["paths"][3, 1, 2] = np.nan
    other["paths"][350:, :, :, 1] = 1.0
    return score_batch(**given, labels=LABELS), score_batch(**other, labels=LABELS)


def test_every_streamed_score_is_that_of_the_slow_twin(panels, tmp_path):
    for panel in panels:
        with stream_of(panel, tmp_path) as stream:
            assert_equal(numbers(stream.rows()), summarise(panel))


def test_every_streamed_comparison_is_that_of_the_slow_twin(panels, tmp_path):
    reference, panel = panels
    with stream_of(reference, tmp_path) as a, stream_of(panel, tmp_path) as b:
        whole = {f"versus.{key}": value for key, value in compare(panel, reference).items()}
        assert_equal(numbers(b.comparison(a, "walk")), whole)
        assert {row.group for row in b.comparison(a, "walk")} == {"against=walk"}


def test_a_comparison_is_made_at_the_shared_origins(panels, tmp_path):
    reference, panel = panels
    part = reference.select(np.arange(50, 400))
    with stream_of(part, tmp_path, sizes=(350,)) as a, stream_of(panel, tmp_path) as b:
        got = numbers(b.comparison(a, "walk"))
        assert got["versus.origins"] == 350
        assert_equal(got, {f"versus.{key}": value for key, value in compare(panel, part).items()})


def test_streams_that_cannot_be_compared_are_refused(panels, simulate, tmp_path):
    later, short = simulate(400), simulate(400, horizon=2)
    later["origins"] = later["origins"] + 10**12
    with stream_of(panels[0], tmp_path) as ours:
        for given, message in ((later, "share no origin"), (short, "horizons differ")):
            with stream_of(score_batch(**given), tmp_path) as other, pytest.raises(ValueError, match=message):
                list(ours.comparison(other, "other"))


def test_only_the_next_origins_are_taken_and_all_of_them_are_needed(panels, tmp_path):
    reference, _ = panels
    with stream_of(reference, tmp_path, sizes=(10,)) as stream:
        with pytest.raises(ValueError, match="not the next origins"):
            stream.add(reference.select(np.arange(11, 20)))
        with pytest.raises(ValueError, match="10 of 400 origins"):
            list(stream.rows())


def test_nothing_is_left_in_the_scratch_folder(panels, tmp_path):
    with stream_of(panels[0], tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_confidence_sets_are_those_of_the_losses_of_the_panels(simulate, tmp_path):
    given = simulate(400)
    sharp = score_batch(**given)
    wide = score_batch(**{**given, "paths": simulate(400, sharpness=4.0)["paths"]})
    with stream_of(sharp, tmp_path) as a, stream_of(wide, tmp_path) as b:
        rows = confidence_sets({"sharp": a.losses(), "wide": b.losses()}, reps=200)
        p = {dotted_key(name, row).removeprefix("confidence_set."): row.value for name, row in rows}
    assert p["crps_bps.close.h4.sharp"] == p["energy_bps.sharp"] == 1.0
    losses = np.column_stack([sharp.crps_bps[:, 3, CLOSE], wide.crps_bps[:, 3, CLOSE]])
    assert p["crps_bps.close.h4.wide"] == model_confidence_set(losses, ["a", "b"], 4, reps=200)["b"] < 0.05
    energy = np.column_stack([sharp.energy_bps, wide.energy_bps])
    assert p["energy_bps.wide"] == model_confidence_set(energy, ["a", "b"], 4, reps=200)["b"]
    assert len(p) == 6
