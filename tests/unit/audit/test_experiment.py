"""The audit as a whole: what it refuses, what it reports, and what it says of a part that raises."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from btcbt.audit import LIMITS, Stages, audit_experiment
from btcbt.audit.tables import verdict
from btcbt.config import RunConfig
from btcbt.errors import CandleError
from btcbt.records import Forecast
from btcbt.strategies import Strategy
from btcbt.walkforward.stages import STAGE_NAMES


def experiment(**windows):
    tree = {
        "name": "audited",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 24, "horizon": 4, "start": "2019-06-03", "end": "2019-06-06", **windows},
        "strategies": {"hold": {"use": "buy_and_hold"}},
    }
    return RunConfig.model_validate_json(json.dumps(tree))


def printed(report):
    stream = io.StringIO()
    Console(file=stream, width=160).print(verdict(report))
    return " ".join(stream.getvalue().split())


class RaisesOnJumps(Strategy):
    """Looks at the whole history, and cannot stand what it finds in changed ones."""

    uses_forecast = False

    def __init__(self, candles):
        super().__init__()
        self.candles = candles

    def decide(self, forecast: Forecast, holding):
        whole = self.candles.values
        if not np.isfinite(whole).all() or whole[-1, 3] > 20_000:
            raise RuntimeError("what a price")
        return 0.0


@pytest.fixture(scope="module")
def clean_report():
    return audit_experiment(experiment(), sample=3, fresh_process=False)


@pytest.fixture(scope="module")
def leaking_report():
    stages = Stages(strategies=lambda candles: {"jumpy": RaisesOnJumps(candles)})
    return audit_experiment(experiment(), stages=stages, sample=3, fresh_process=False)


def test_a_clean_experiment_is_reported_with_its_limits(clean_report):
    assert clean_report.clean
    assert clean_report.caught_at is None
    said = clean_report.as_json()
    assert said["verdict"] == "clean"
    assert said["limits"] == list(LIMITS)
    assert len(said["subject"]["run"]) == 16
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    text = printed(clean_report)
    assert "clean" in text
    assert all(limit in text for limit in LIMITS)
    assert "check in a fresh process was disabled" in text


def test_a_part_that_raises_on_a_changed_future_has_looked_at_it(leaking_report):
    assert leaking_report.caught_at == "strategy"
    assert {found.change for found in leaking_report.findings} == {"scale", "nan"}
    assert all("what a price" in found.detail for found in leaking_report.findings)
    said = leaking_report.as_json()
    assert said["verdict"] == "looks ahead"
    assert said["stages"] == ["strategy"]
    assert said["listed"][0]["difference"] is None
    assert set(said["stages"]) <= set(STAGE_NAMES)
    text = printed(leaking_report)
    assert "looks ahead" in text
    assert "jumpy" in text


def test_the_verdict_repeats_itself(clean_report):
    again = audit_experiment(experiment(), sample=3, fresh_process=False)
    assert again.origins == clean_report.origins
    assert again.comparisons == clean_report.comparisons
    assert again.subject == clean_report.subject


def test_an_experiment_without_a_future_cannot_be_audited():
    config = experiment(start="2019-10-01", end="2019-10-01T01:00:00Z")
    with pytest.raises(CandleError, match="no future to change"):
        audit_experiment(config, sample=2, fresh_process=False)


def test_a_sample_of_one_is_refused():
    with pytest.raises(ValueError, match="below 2"):
        audit_experiment(experiment(), sample=1)


def test_a_preparation_that_refuses_a_changed_history_is_not_judged():
    def prepare(candles):
        if len(candles) < 15_000:
            raise ValueError("not enough hours")
        return candles

    report = audit_experiment(experiment(), stages=Stages(prepare=prepare), sample=2, fresh_process=False)
    assert not report.findings
    assert report.verdict == "not judged"
    assert any("not enough hours" in note for note in report.notes)
