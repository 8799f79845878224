"""Stores that cannot be read, that were copied with their links resolved, and prices near zero."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import btcbt
from btcbt.candles import make_candles, write_candles
from btcbt.records import Candles
from btcbt.walkforward import runner

Write = Callable[..., Path]
Invoke = Callable[[Path], Result]
BOUND = ["--inh-caps=-dac_override,-dac_read_search", "--bounding-set=-dac_override,-dac_read_search"]
"""What the superuser gives up, so that permissions count for him as well."""


def as_who_is_bound_by_permissions(*arguments: str) -> subprocess.CompletedProcess[str]:
    prefix = ["setpriv", *BOUND] if os.geteuid() == 0 else []
    if prefix and shutil.which("setpriv") is None:
        pytest.skip("the superuser reads everything, and setpriv is not there")
    return subprocess.run([*prefix, sys.executable, "-m", "btcbt", *arguments], capture_output=True, text=True)


@pytest.fixture
def unreadable(write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The experiment of a finished run; a folder of its forecasts has no permissions."""
    monkeypatch.setattr(runner, "draw_figures", lambda *_: None)
    file = write()
    btcbt.run(file)
    min((file.parent / "runs/store").glob("*[0-9a-f]")).chmod(0)
    return file


def refused(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Permission denied" in line


@pytest.mark.skipif(os.name != "posix", reason="permissions of folders are those of POSIX")
def test_a_folder_of_forecasts_that_may_not_be_read_is_one_line_of_the_store(unreadable: Path) -> None:
    refused(as_who_is_bound_by_permissions("store", "verify", "--root", str(unreadable.parent / "runs")))


@pytest.mark.proof
@pytest.mark.skipif(os.name != "posix", reason="permissions of folders are those of POSIX")
def test_a_folder_of_forecasts_that_may_not_be_read_is_one_line_of_a_run(unreadable: Path) -> None:
    refused(as_who_is_bound_by_permissions("run", "-q", str(unreadable)))


def test_a_copy_of_all_runs_with_links_resolved_is_used_by_the_next_run(
    write: Write, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "draw_figures", lambda *_: None)
    first = btcbt.run(write())
    folder = first.directory.parents[1]
    shutil.copytree(folder, folder.with_name("copied"))  # follows links, as cp -rL
    file = write(root="copied")
    result = invoke(file)
    assert result.exit_code == 0, result.output
    again = btcbt.load_run(folder.with_name("copied") / "small")
    assert "nothing is scored again" in result.output
    for name in ("metrics.json", "scores.parquet", "equity.parquet"):
        assert (again.directory / name).read_bytes() == (first.directory / name).read_bytes(), name


def test_prices_near_zero_are_traded_or_refused_in_one_line(
    write: Write, invoke: Invoke, sample_candles: Candles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "draw_figures", lambda *_: None)
    first, last = np.searchsorted(sample_candles.open_time, [1_559_000_000_000, 1_559_700_000_000])
    values = sample_candles.values[first:last].copy()
    values[:, :4] *= 1e-12 / values[0, 0]
    file = write(("bundled:BTCUSD_1h", "tiny.parquet"))
    file.write_text(file.read_text().replace("tiny.parquet", str(file.parent / "tiny.parquet")))
    write_candles(
        make_candles(sample_candles.open_time[first:last], values, interval="1h"), file.parent / "tiny.parquet"
    )
    result = invoke(file)
    assert result.exit_code in (0, 2), result.output
    assert "Traceback" not in result.output
    if result.exit_code == 2:
        assert result.stderr.splitlines()[-1].startswith("error: ")
