"""What is told of a run under way."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from btcbt import progress


def test_plain_progress_says_what_was_stored_and_how_fast_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 11.0, 12.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    plain = progress.PlainProgress(Console(file=out, width=200), every=10)
    with plain.stage("forecast x", 100, done=20) as advance:
        advance(10)
        advance(45)
        advance(25)
    assert out.getvalue().splitlines() == [
        "forecast x: 20 of 100 origins already stored",
        "forecast x: 75 of 100 origins, 5.0/s, 5 s left",
        "forecast x: 100 origins in 20.0 s (4/s)",
    ]


def test_plain_progress_of_what_is_all_stored_says_only_that() -> None:
    out = io.StringIO()
    with progress.PlainProgress(Console(file=out, width=200)).stage("forecast x", 5, done=5):
        pass
    assert out.getvalue() == "forecast x: 5 of 5 origins already stored\n"


def test_bars_show_the_stage_the_count_and_the_rate() -> None:
    out = io.StringIO()
    bars = progress.BarProgress(Console(file=out, force_terminal=True, width=140, color_system=None))
    bars.note("[stopping] after the shard in hand")
    with bars.stage("forecast x", 1000, done=200) as advance:
        advance(800)
    text = out.getvalue()
    assert "[stopping] after the shard in hand" in text
    assert "forecast x" in text
    assert "1000/1000" in text
    assert "origins/s" in text


def test_silent_progress_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    silent = progress.Progress()
    silent.note("anything")
    with silent.stage("x", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_json_progress_is_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 2.0, 3.25])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    lines = progress.JsonProgress(Console(file=out, width=40), every=1)
    lines.note("a [note] that is " + "long " * 20)
    with lines.stage("forecast x", 100, done=20) as advance:
        advance(10)
        advance(45)
    read = [json.loads(line) for line in out.getvalue().splitlines()]
    assert read[0]["note"].startswith("a [note]")
    assert [(one["stage"], one["done"], one["total"], one["unit"], one["seconds"]) for one in read[1:]] == [
        ("forecast x", 20, 100, "origins", 0.0),
        ("forecast x", 75, 100, "origins", 2.0),
        ("forecast x", 75, 100, "origins", 3.25),
    ]


@pytest.mark.parametrize("name", ["forecast ewma_volatility_with_a_long_name", "score"])
def test_bars_fit_eighty_columns(name: str) -> None:
    out = io.StringIO()
    bars = progress.BarProgress(Console(file=out, force_terminal=True, width=80, color_system=None))
    with bars.stage(name, 17_520, done=200) as advance:
        advance(4_000)
    shown = [line.rstrip() for line in re.split(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", out.getvalue()) if line.strip()]
    assert max(map(len, shown)) <= 80
    assert name[:16] in shown[-1]
    assert "4200/17520" in shown[-1]
    assert "origins/s" in shown[-1]
