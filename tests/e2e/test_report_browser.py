"""The page of a run in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from btcbt.report.page import write_page
from btcbt.storage.runs import load_run

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=alert(1)>"
COLOURS_OF = """id => {
  const canvas = document.getElementById(id);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(pixels.buffer)).size;
}"""


def rename(folder: Path, old: str, new: str) -> None:
    """Give an account another name in the stored tables."""
    for name in ("equity", "targets", "orders", "scores"):
        table = pd.read_parquet(folder / f"{name}.parquet").rename(columns={old: new})
        for column in {"strategy", "forecaster"} & set(table.columns):
            table[column] = table[column].replace(old, new)
        table.to_parquet(folder / f"{name}.parquet", index=False)


def test_the_page_works_asks_for_nothing_and_keeps_hostile_names_as_text(write: Any, invoke: Any) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
    if not CHROMIUM.is_file():
        pytest.skip(f"no {CHROMIUM}; install Debian's package chromium")
    experiment = write()
    assert invoke(experiment).exit_code == 0
    run = load_run(experiment.parent / "runs" / "small")
    rename(run.directory, "momentum", HOSTILE)
    file = write_page(load_run(run.directory))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=SWITCHES)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        problems: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append("a dialog"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", timeout=15_000)

        before = page.inner_text("#shown")
        page.keyboard.press("ArrowRight")
        after = page.inner_text("#shown")
        assert "Origin 37 of 72" in before
        assert "Origin 38 of 72" in after
        for button in ("worst", "best", "move"):
            page.click(f"#{button}")
        page.select_option("#second", "1")
        assert HOSTILE in page.inner_text("#decided")
        assert page.locator("img").count() == 0
        for canvas in ("fan", "skill", "coverage", "pit", "hours", "fluctuation", "equity", "drawdown", "weights"):
            assert page.evaluate(COLOURS_OF, canvas) > 8, canvas

        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("#theme")
        assert len(page.screenshot()) > 10_000
        browser.close()
    assert not problems
    assert requests == [file.resolve().as_uri()]
