"""What is told of a run under way."""

from __future__ import annotations

import io

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
