"""Every planted leak is caught, at the stage where it was planted; honest parts pass."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from btcbt.audit import STAGE_NAMES, Stages, audit_experiment
from btcbt.candles import make_candles, write_candles
from btcbt.config import RunConfig
from btcbt.walkforward import refits
from tests.contract import leaks
from tests.tiny_kronos import save_tiny

HOUR_MS = 3_600_000
START_MS = 1_546_300_800_000  # 2019-01-01T00:00Z
HOURS = 1440


@dataclass(frozen=True)
class Leak:
    """A planted leak.

    Attributes
    ----------
    what : str
        In words.
    stage : str
        Where it is caught first.
    parts : dict
        What is put in the place of the experiment's own stages.
    objects : str
        Which objects give it away: ``fresh`` ones, ``used`` ones, or those of a fresh ``process`` alone.
    """

    what: str
    stage: str
    parts: dict[str, Any] = field(default_factory=dict)
    objects: str = "fresh"


# Each of these is audited by itself.
ALONE = {
    "centred_mean": Leak("a centred rolling mean", "candles", {"prepare": leaks.centred_mean}),
    "left_labelled_resample": Leak(
        "4h bars labelled at the left, so visible before they close",
        "candles",
        {"prepare": leaks.left_labelled_resample},
    ),
    "same_day_merge": Leak(
        "the daily close merged on its own day, not as of", "candles", {"prepare": leaks.same_day_merge}
    ),
    "next_return": Leak("the next return left among the features", "candles", {"prepare": leaks.next_return}),
    "fourier_filter": Leak(
        "smoothing by a Fourier filter over the whole series", "candles", {"prepare": leaks.fourier_filter}
    ),
    "winsorise": Leak("winsorising by quantiles of the full sample", "candles", {"prepare": leaks.winsorise}),
    "standardise_everything": Leak(
        "standardising by moments of the full sample", "candles", {"prepare": leaks.standardise_everything}
    ),
    "backward_fill": Leak("a gap filled backward", "candles", {"prepare": leaks.backward_fill}),
    "keep_last_revision": Leak(
        "duplicates resolved by the last revision",
        "candles",
        {"prepare": leaks.keep_last_revision, "read": leaks.read_revised},
    ),
    "off_by_one": Leak("a window that includes the next candle", "windows", {"split": leaks.off_by_one}),
    "without_future_gaps": Leak("eligibility decided by gaps to come", "windows", {"split": leaks.without_future_gaps}),
    "without_crashes": Leak("origins before large moves removed", "windows", {"split": leaks.without_crashes}),
    "same_bar": Leak("a fill in the candle that was decided on", "portfolio", {"simulate": leaks.same_bar}),
    "at_current_close": Leak("a fill at the current close", "portfolio", {"simulate": leaks.at_current_close}),
    "at_best_price": Leak("a fill at the low of the next candle", "portfolio", {"simulate": leaks.at_best_price}),
    "skips_losers": Leak("orders dropped where they would lose", "portfolio", {"simulate": leaks.skips_losers}),
    "overlap": Leak(
        "training that overlaps the origins, labelled clean",
        "split",
        {"forecasters": partial(leaks.build, ["Trained"]), "label": leaks.label_by_start},
    ),
    "undeclared": Leak(
        "undeclared training data, labelled clean",
        "split",
        {"forecasters": partial(leaks.build, ["Undeclared"]), "label": leaks.label_clean},
    ),
}
# These are about what a refit is fitted on, and need a forecaster that is refitted.
REFITS = {
    "refits_up_to_their_end": Leak(
        "a refit selected on the candles that it forecasts", "refit", {"plan": leaks.refits_up_to_their_end}
    ),
    "refits_on_shifted_candles": Leak(
        "a refit on later candles under earlier dates", "refit", {"plan": leaks.refits_on_shifted_candles}
    ),
    "refits_without_embargo": Leak("a refit without its embargo", "split", {"plan": leaks.refits_without_embargo}),
}
READER = Leak("a strategy that looks candles up in a file of its own", "strategy")
# These are classes of `leaks`, audited together: each is named, and none hides another.
FORECASTERS = {
    "ScaledOverHorizon": Leak("normalisation over context and horizon", "scaling"),
    "ScaledOnEverything": Leak("a scaler fitted on everything", "scaling"),
    "DriftOfEverything": Leak("a model fitted on the whole file", "forecast"),
    "NearestFeature": Leak("features joined by nearest time", "forecast"),
    "BatchNormalised": Leak("normalisation over a batch that holds later windows", "forecast"),
    "CountsCalls": Leak("an answer that depends on earlier calls", "forecast", objects="repeated"),
    "CachedByIndex": Leak("features of the whole history cached by row", "forecast", objects="process"),
    "SeesOutcome": Leak("a calibrator that sees the current outcome", "calibration"),
    "LearnsTooEarly": Leak("a calibrator wired to candles from after the origin", "calibration"),
    "CorrectsTheWholeWalk": Leak("a calibrator fitted on all origins of the walk", "calibration"),
}
STRATEGIES = {
    "TunedOnTest": Leak("a threshold tuned on the test range", "strategy"),
    "Remembers": Leak("a strategy that remembers what an earlier pass showed it", "strategy", objects="repeated"),
    "KeepsGlobal": Leak("a strategy that keeps the candles in a global", "strategy"),
}
# These show in a fresh process alone, and have one each.
PROCESS = {
    "scale_by_first_call": Leak(
        "statistics of the first history that was met, kept in a global",
        "candles",
        {"prepare": leaks.scale_by_first_call},
        "process",
    ),
    "ReadsThroughPython": Leak("a strategy that opens the candles' file", "strategy", objects="process"),
}
LEAKS = {**ALONE, **REFITS, **FORECASTERS, **STRATEGIES, **PROCESS, "ReadsTheFile": READER}

HONEST = {
    "trailing_mean": Stages(prepare=leaks.trailing_mean),
    "right_labelled_resample": Stages(prepare=leaks.right_labelled_resample),
    "forward_fill": Stages(prepare=leaks.forward_fill),
    "first_revision": Stages(read=leaks.read_revised, prepare=leaks.keep_first_revision),
    "history_kept_but_past_used": Stages(
        forecasters=partial(leaks.build, ["Honest", "Corrects"]), strategies=partial(leaks.rules, ["HonestRule"])
    ),
    "ranges_owned_up_to": Stages(forecasters=partial(leaks.build, ["Trained", "Undeclared"])),
}


@pytest.fixture(scope="module")
def candle_file(tmp_path_factory):
    """Sixty days of simulated hours with gaps, and a crash."""
    rng = np.random.default_rng(11)
    steps = rng.standard_t(4, HOURS) * 0.006
    steps[[700, 1100]] = -0.12
    close = 4000 * np.exp(np.cumsum(steps))
    opening = np.concatenate([[4000], close[:-1]]) * np.exp(0.001 * rng.standard_normal(HOURS))
    high = np.maximum(opening, close) * np.exp(0.002 * rng.exponential(size=HOURS))
    low = np.minimum(opening, close) * np.exp(-0.002 * rng.exponential(size=HOURS))
    volume = np.exp(3 + rng.standard_normal(HOURS))
    values = np.stack([opening, high, low, close, volume, volume * close], axis=1)
    times = START_MS + HOUR_MS * np.arange(HOURS, dtype=np.int64)
    keep = np.setdiff1d(np.arange(HOURS), [*range(600, 603), *range(900, 906), 1200])
    file = tmp_path_factory.mktemp("candles") / "simulated.parquet"
    write_candles(make_candles(times[keep], values[keep], interval="1h"), file)
    return file


def experiment(file, **changes):
    tree = {
        "name": "audited",
        "candles": {"path": str(file)},
        "windows": {"context": leaks.CONTEXT, "horizon": leaks.HORIZON, "start": "2019-01-10", "end": "2019-02-25"},
        "forecasters": {"random_walk": {"kind": "random_walk", "n_paths": leaks.N_PATHS}},
        "strategies": {"momentum": {"use": "momentum", "params": {"lookback": 5}}},
        "portfolio": {"max_short": 1.0},
        **changes,
    }
    return RunConfig.model_validate_json(json.dumps(tree))


def assert_exact(report):
    """Every finding says where, what and by how much."""
    assert [found.stage for found in report.findings] == sorted(
        (f.stage for f in report.findings), key=STAGE_NAMES.index
    )
    for found in report.findings:
        assert found.origin in report.origins or found.change in ("none", "noise", "gaps", "truncate")
        assert found.time <= found.origin or found.stage == "portfolio"
        assert found.difference > 0
        assert found.component
        assert found.field
        assert found.detail


@pytest.mark.parametrize("name", ALONE)
def test_a_planted_leak_is_caught_at_its_stage(name, candle_file):
    leak = LEAKS[name]
    report = audit_experiment(experiment(candle_file), stages=Stages(**leak.parts), sample=4, fresh_process=False)
    assert report.caught_at == leak.stage, report.findings[:3]
    assert "fresh" in {found.objects for found in report.findings if found.stage == leak.stage}
    assert_exact(report)


def test_filled_gaps_and_positions_closed_in_them_do_not_look_ahead(candle_file):
    changes = {
        "candles": {"path": str(candle_file), "fill_gaps": 3},
        "portfolio": {"max_short": 1.0, "on_gap": "flat"},
    }
    report = audit_experiment(experiment(candle_file, **changes), sample=4, fresh_process=False)
    assert not report.findings
    assert report.comparisons["portfolio"] > 50


@pytest.fixture(scope="module")
def refitted(candle_file, tmp_path_factory):
    """An experiment with a forecaster that is refitted every ten days, cumulatively or not."""
    checkpoint = save_tiny(tmp_path_factory.mktemp("tiny"))
    schedule = {"every": "240h", "train_window": "168h", "select_window": "96h", "steps": 1, "batch_size": 2}
    root = tmp_path_factory.mktemp("runs")

    def build(**options):
        kronos = {"kind": "kronos", "checkpoint": str(checkpoint), "n_paths": 2, "device": "cpu"}
        return experiment(
            candle_file,
            windows={"context": leaks.CONTEXT, "horizon": leaks.HORIZON, "start": "2019-01-20", "end": "2019-02-15"},
            forecasters={"refitted": kronos | {"refit": schedule | options}, "learns": CALIBRATED},
            store={"root": str(root)},
        )

    return build


CALIBRATED = {"kind": "calibrated", "base": "refitted"}


@pytest.mark.parametrize("name", REFITS)
def test_a_refit_that_sees_what_it_forecasts_is_caught(name, refitted):
    leak = LEAKS[name]
    report = audit_experiment(refitted(), stages=Stages(**leak.parts), sample=2, fresh_process=False)
    assert report.caught_at == leak.stage, report.findings[:3]
    assert {found.component for found in report.findings} == {"refitted"}  # and not the one that builds on it
    assert "fresh" in {found.objects for found in report.findings if found.stage == leak.stage}
    assert_exact(report)


@pytest.mark.parametrize("options", [{}, {"cumulative": True}], ids=["from the checkpoint", "from the one before"])
def test_honest_refits_pass_and_are_made_once(options, refitted, monkeypatch):
    made = []
    finetune = refits.finetune
    monkeypatch.setattr(refits, "finetune", lambda *a: made.append(a[1].output) or finetune(*a))
    report = audit_experiment(refitted(**options), sample=3, fresh_process=not options)
    assert report.clean, report.findings[:3]
    assert report.comparisons["refit"] > 0
    assert len(made) <= 3  # one for each of the periods, whatever becomes of the future
    assert report.comparisons["calibration"] > 0


@pytest.fixture(scope="module")
def together(candle_file):
    """One audit of all planted forecasters and strategies, with honest ones among them."""
    stages = Stages(
        forecasters=partial(leaks.build, ["Honest", "Corrects", *FORECASTERS]),
        strategies=partial(leaks.rules, ["HonestRule", *STRATEGIES]),
    )
    return audit_experiment(experiment(candle_file), stages=stages, sample=6)


@pytest.mark.parametrize("name", [*FORECASTERS, *STRATEGIES])
def test_a_planted_forecaster_or_strategy_is_caught_by_name(name, together):
    leak = LEAKS[name]
    found = [one for one in together.findings if one.component == name]
    assert found
    assert found[0].stage == leak.stage
    assert {one.stage for one in found} == {leak.stage}
    objects = {one.objects for one in found}
    assert leak.objects in objects
    if leak.objects == "process":
        assert objects == {"process"}


def test_honest_parts_beside_leaking_ones_are_not_accused(together):
    accused = {one.component for one in together.findings}
    assert accused == {*FORECASTERS, *STRATEGIES}
    assert_exact(together)


@pytest.mark.parametrize("stages", HONEST.values(), ids=HONEST.keys())
def test_honest_parts_pass(stages, candle_file):
    report = audit_experiment(experiment(candle_file), stages=stages, sample=4, fresh_process=False)
    assert report.clean, (report.findings[:3], report.notes)
    assert {stage for stage, count in report.comparisons.items() if count} >= {
        "candles",
        "windows",
        "forecast",
        "strategy",
        "portfolio",
        "split",
    }


def reader(kind, file):
    return {"reader": {"use": f"tests.contract.leaks:{kind}", "params": {"path": str(file)}}}


@pytest.fixture(scope="module")
def elsewhere(candle_file):
    """One audit of both parts that a fresh process alone gives away."""
    config = experiment(candle_file, strategies=reader("ReadsThroughPython", candle_file))
    return audit_experiment(config, stages=Stages(**PROCESS["scale_by_first_call"].parts), sample=3).findings


def test_state_of_a_module_shows_in_a_fresh_process(elsewhere):
    leak = PROCESS["scale_by_first_call"]
    found = [one for one in elsewhere if one.field != "file"]
    assert {(one.stage, one.objects) for one in found} == {(leak.stage, leak.objects)}


def test_a_strategy_that_opens_the_candle_file_is_named(elsewhere, candle_file):
    leak = PROCESS["ReadsThroughPython"]
    (found,) = [one for one in elsewhere if one.field == "file"]
    assert (found.stage, found.objects) == (leak.stage, leak.objects)
    assert found.component.startswith("leaks.py:")
    assert str(candle_file) in found.detail


def test_a_strategy_that_looks_candles_up_by_date_does_not_find_them_in_another_year(candle_file):
    config = experiment(candle_file, strategies=reader("ReadsTheFile", candle_file))
    report = audit_experiment(config, sample=3, fresh_process=False)
    assert report.caught_at == READER.stage
    assert {found.change for found in report.findings} == {"displaced"}


OBJECTS = {"fresh": "new objects", "repeated": "a repeated call", "process": "a fresh process alone"}


def leak_table():
    """The table of `docs/audit.md`."""
    lines = ["| planted | caught at the stage | shows in |", "| --- | --- | --- |"]
    for leak in sorted(LEAKS.values(), key=lambda leak: STAGE_NAMES.index(leak.stage)):
        lines.append(f"| {leak.what} | {leak.stage} | {OBJECTS[leak.objects]} |")
    return "\n".join(lines)


def test_the_documented_table_is_the_tested_one():
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    assert leak_table() in text, "docs/audit.md: replace its table of planted leaks by leak_table()"
    assert f"{len(LEAKS)} leaks" in text


def test_every_stage_has_a_planted_leak():
    assert {leak.stage for leak in LEAKS.values()} == set(STAGE_NAMES)
    assert len(LEAKS) >= 15
