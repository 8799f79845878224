"""A small experiment on the bundled candles, and a way to run it as a user does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from btcbt.cli.main import app

EXPERIMENT = """\
name: small
candles:
  path: bundled:BTCUSD_1h
windows:
  start: 2019-06-01
  end: 2019-06-04
  context: 60
  horizon: 6
forecasters:
  random_walk: {kind: random_walk, n_paths: 8}
  ewma: {kind: ewma_volatility, n_paths: 8}
strategies:
  threshold:
    use: threshold
    params: {entry_bps: 10.0}
  momentum:
    use: momentum
    params: {lookback: 24}
store:
  root: ROOT
  shard_size: 20
seed: 3
"""

Write = Callable[..., Path]
Invoke = Callable[[Path], Result]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the experiment, with replacements, beside an empty folder for its runs."""

    def experiment(*changes: tuple[str, str], root: str = "runs") -> Path:
        text = EXPERIMENT.replace("ROOT", str(tmp_path / root))
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        file = tmp_path / "experiment.yaml"
        file.write_text(text)
        return file

    return experiment


@pytest.fixture
def invoke() -> Invoke:
    """Call ``btcbt run FILE`` in this process."""

    def run(file: Path) -> Result:
        return CliRunner().invoke(app, ["run", str(file)])

    return run
