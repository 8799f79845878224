"""What is wrong with a strategy shows before the first forecast is computed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from btcbt import run
from btcbt.config import RunConfig
from btcbt.errors import StrategyError

STRATEGIES = """
import numpy as np
from btcbt.strategies import Strategy

class Raises(Strategy):
    def decide(self, forecast, holding):
        return 1 / 0

class Nan(Strategy):
    def decide(self, forecast, holding):
        return float("nan")

class Seven(Strategy):
    def decide(self, forecast, holding):
        return 7

class Nothing(Strategy):
    def decide(self, forecast, holding):
        return None

class Later(Strategy):
    def decide(self, forecast, holding):
        return 2.0 if holding.weight else 1.0

class Windowless(Strategy):
    uses_forecast = False
    def decide(self, forecast, holding):
        return forecast.paths.mean()

class Counts(Strategy):
    n = 0
    def decide(self, forecast, holding):
        self.n += 1
        return float(self.n % 5 == 0)

class Draws(Strategy):
    def decide(self, forecast, holding):
        return np.random.default_rng().uniform()

class Resets(Counts):
    def decide(self, forecast, holding):
        if holding.candles_held == 0 and holding.weight == 0:
            self.n = 0
        return min(1.0, 0.2 + super().decide(forecast, holding))

class Short(Strategy):
    def decide(self, forecast, holding):
        return -0.5 if forecast.returns().mean() < 0 else 1.0
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(STRATEGIES)

    def make(name: str, **portfolio: float) -> RunConfig:
        return RunConfig.model_validate(
            {
                "name": "trial",
                "candles": {"path": "bundled:BTCUSD_1h"},
                "windows": {"start": "2019-06-01", "end": "2019-06-03", "context": 24, "horizon": 3},
                "forecasters": {"walk": {"kind": "random_walk", "n_paths": 5}},
                "strategies": {"mine": {"use": f"mine.py:{name}"}},
                "portfolio": portfolio,
            }
        )

    return make


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Raises", r"'mine@walk' failed at 2019-06-01T00:00Z: ZeroDivisionError: division by zero \(.*mine.py:7\)"),
        ("Nan", r"'mine@walk' at 2019-06-01T00:00Z: decide returned nan \(float\); expected a finite number"),
        ("Seven", r"decide returned 7 \(int\); expected a finite number in \[-1, 1\]"),
        ("Nothing", "decide returned None; expected"),
        ("Later", r"'mine@walk' at 2019-06-01T01:00Z: decide returned 2.0"),
        ("Windowless", r"'mine' at 2019-06-01T00:00Z: decide returned "),
        ("Counts", r"keeps state or draws random numbers: the same 24 origins, decided twice, gave .* and then "),
        ("Draws", r"keeps state or draws random numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_a_strategy_that_fails_is_refused_before_anything_is_forecast(
    config: Any, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(StrategyError, match=message):
        run(config(name))
    assert not (tmp_path / "runs").exists()


def test_state_that_is_reset_is_accepted(config: Any) -> None:
    assert run(config("Resets")).targets()["mine@walk"].max() > 0.2


def test_weights_beyond_the_limits_are_told_once(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="btcbt"):
        run(config("Short", max_long=0.8))
        said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("strategy 'mine@walk' decides on weights as far as -0.50; at ")
    assert "cut to 0, since portfolio.max_short is 0" in said[0]
    assert "as far as +1.00" in said[1]
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="btcbt"):
        run(config("Short", max_short=1.0))
    assert not caplog.records
