"""Experiments as users hand them over: files, mappings, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from btcbt.errors import BtcbtError, ConfigError, ForecasterError, StrategyError
from btcbt.walkforward.experiments import read_experiment

FILE = """\
name: mine
candles: {path: "bundled:BTCUSD_1h"}
windows: {start: 2019-06-01, end: 2019-06-03, context: 24, horizon: 6}
forecasters:
  walk: {kind: random_walk}
  own:
    use: "own.py:Own"
    params:
      depth: 3
strategies:
  threshold:
    use: threshold
    params:
      size: 0.5
      entry_bps: 3.0
"""
OWN = """
from btcbt.forecasters import Forecaster, Params

class OwnParams(Params):
    depth: int = 1

class Own(Forecaster):
    Params = OwnParams

    def forecast(self, windows):
        raise NotImplementedError
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            "entry_bps",
            "entry_bp",
            StrategyError,
            "mine.yaml:15: strategy 'threshold': unknown parameter 'entry_bp' (did",
        ),
        ("size: 0.5", "size: 5.0", StrategyError, "mine.yaml:14: strategy 'threshold': parameter 'size': input should"),
        ("use: threshold", "use: treshold", StrategyError, "mine.yaml:12: strategy 'treshold': no such built-in"),
        (
            "use: threshold",
            "use: a b",
            ConfigError,
            "mine.yaml:12: 'strategies.threshold.use': a built-in name such as",
        ),
        ("depth: 3", "depth: x", ForecasterError, "mine.yaml:9: forecaster 'own.py:Own': parameter 'depth'"),
        ("own.py:Own", "own.py:Mine", ForecasterError, "mine.yaml:7: forecaster 'own.py:Mine': "),
    ],
)
def test_a_wrong_class_or_parameter_is_named_with_file_and_line(
    here: Path, old: str, new: str, error: type[BtcbtError], message: str
) -> None:
    (here / "mine.yaml").write_text(FILE.replace(old, new))
    with pytest.raises(error) as caught:
        read_experiment("mine.yaml")
    assert str(caught.value).startswith(message)


def test_a_wrong_parameter_that_was_set_on_the_command_line_is_named_there(here: Path) -> None:
    (here / "mine.yaml").write_text(FILE)
    with pytest.raises(StrategyError, match=r"^--set strategies.threshold.params.siz: strategy 'threshold': unknown"):
        read_experiment("mine.yaml", ["strategies.threshold.params.siz=1"])


def test_an_experiment_may_be_a_mapping(here: Path) -> None:
    tree: dict[str, Any] = {
        "name": "mine",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"start": "2019-06-01", "end": "2019-06-03", "context": 24, "horizon": 6},
    }
    assert read_experiment(tree).windows.context == 24
    with pytest.raises(ConfigError, match=r"experiment: unknown key 'sead' \(did you mean 'seed'\?\)"):
        read_experiment({**tree, "sead": 3})
    with pytest.raises(ConfigError, match=r"the path of a file or a mapping is expected, got 7 \(int\)"):
        read_experiment(7)  # type: ignore[arg-type]
