"""The page of a run in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from btcbt.report.compare_page import write_comparison
from btcbt.report.page import write_page
from btcbt.report.run.panel import PanelRun
from btcbt.storage.panel_runs import load_panel_run
from btcbt.storage.runs import load_run
from btcbt.workflows.compare import compare

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
    if not CHROMIUM.is_file():
        pytest.skip(f"no {CHROMIUM}; install Debian's package chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=SWITCHES)
        yield opened
        opened.close()


class Opened:
    """A page in the browser, and what it said and asked for."""

    def __init__(self, browser: Any, file: Path) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append("a dialog"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.resolve().as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=15_000)

    def fits_a_phone_in_the_dark(self) -> bool:
        """Whether nothing is wider than a phone; the page is dark afterwards."""
        self.page.set_viewport_size({"width": 390, "height": 800})
        self.page.click("#theme")
        narrow: bool = self.page.evaluate("document.documentElement.scrollWidth <= 390")
        return narrow and len(self.page.screenshot()) > 10_000


def test_a_comparison_works_in_a_browser(browser: Any, write: Any, invoke: Any, tmp_path: Path) -> None:
    names = [("small", "first"), ("small", "second")]
    for k, (old, new) in enumerate(names):
        assert invoke(write((f"name: {old}", f"name: {new}"), ("seed: 3", f"seed: {k}"))).exit_code == 0
    second = load_run(tmp_path / "runs" / "second")
    rename(second.directory, "momentum", HOSTILE)
    file = write_comparison(compare(tmp_path / "runs" / "first", second), tmp_path / "page.html")
    opened = Opened(browser, file)
    page = opened.page
    assert page.inner_text("#runs").split("\n") == ["Runs", "A: first", "B: second"]
    for canvas in ("differences", "equity"):
        assert page.evaluate(COLOURS_OF, canvas) > 8, canvas
    page.click("#runs label:last-of-type input")
    page.select_option("#account", "threshold@ewma")
    page.click("#forecasts th button >> nth=3")
    assert HOSTILE in page.inner_text("#trading")
    assert page.locator("img").count() == 0
    assert opened.fits_a_phone_in_the_dark()
    assert not opened.problems
    assert opened.requests == [file.resolve().as_uri()]


def test_the_page_works_asks_for_nothing_and_keeps_hostile_names_as_text(browser: Any, write: Any, invoke: Any) -> None:
    experiment = write()
    assert invoke(experiment).exit_code == 0
    run = load_run(experiment.parent / "runs" / "small")
    rename(run.directory, "momentum", HOSTILE)
    file = write_page(load_run(run.directory))
    opened = Opened(browser, file)
    page = opened.page

    before = page.inner_text("#shown")
    page.keyboard.press("ArrowRight")
    after = page.inner_text("#shown")
    assert "Origin 37 of 72" in before
    assert "Origin 38 of 72" in after
    for button in ("worst", "best", "move"):
        page.click(f"#{button}")
    page.select_option("#first", "1")
    page.locator("#shown", has_text="ewma median").wait_for()
    page.select_option("#second", "0")
    assert HOSTILE in page.inner_text("#decided")
    assert HOSTILE in page.inner_text("#accounts")
    assert page.locator("img").count() == 0
    for canvas in ("fan", "skill", "coverage", "pit", "hours", "fluctuation", "equity", "drawdown", "weights"):
        assert page.evaluate(COLOURS_OF, canvas) > 8, canvas

    pixels = "id => document.getElementById(id).toDataURL()"
    whole = {name: page.evaluate(pixels, name) for name in ("coverage", "hours")}
    page.select_option("#level", "50")
    assert page.evaluate(pixels, "coverage") != whole["coverage"]
    page.click("#key label:last-of-type input")
    assert page.evaluate(pixels, "hours") != whole["hours"]
    assert opened.fits_a_phone_in_the_dark()
    assert not opened.problems
    assert opened.requests == [file.resolve().as_uri()]


def test_the_page_of_a_panel_switches_symbols_and_keeps_hostile_names_as_text(browser: Any, panel: PanelRun) -> None:
    folder = panel.directory.parent.parent / "hostile" / "run"
    shutil.copytree(panel.directory, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["symbols"] = {HOSTILE if name == "ETH" else name: one for name, one in manifest["symbols"].items()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name, column in (("orders", "symbol"), ("trades", "symbol"), ("scores", "group")):
        table = pd.read_parquet(folder / f"{name}.parquet")
        table[column] = table[column].astype(str).str.replace("symbol=ETH", f"symbol={HOSTILE}").replace("ETH", HOSTILE)
        table.to_parquet(folder / f"{name}.parquet", index=False)
    targets = pd.read_parquet(folder / "targets.parquet")
    targets.columns = targets.columns.str.replace("/ETH", f"/{HOSTILE}")
    targets.to_parquet(folder / "targets.parquet")
    file = write_page(load_panel_run(folder))
    opened = Opened(browser, file)
    page = opened.page

    pixels = "id => document.getElementById(id).toDataURL()"
    before, said = page.evaluate(pixels, "fan"), page.inner_text("#shown")
    assert "Origin 43 of 84" in said
    page.keyboard.press("ArrowRight")
    page.select_option("#symbol", label=HOSTILE)
    page.wait_for_function("old => document.getElementById('fan').toDataURL() !== old", arg=before)
    assert "Origin 44 of 84" in page.inner_text("#shown")
    page.select_option("#second", "1")
    page.select_option("#symbol", "2")
    for name in ("first", "worst", "best", "move"):
        page.select_option("#first", "1") if name == "first" else page.click(f"#{name}")
    page.locator("#shown", has_text="ewma median").wait_for()
    for canvas in ("forest", "rankic", "fan", "equity", "drawdown", "weights"):
        assert page.evaluate(COLOURS_OF, canvas) > 8, canvas
    for select, chosen, canvas in (("ahead", "1", "forest"), ("rankband", "", "rankic"), ("held", "-1", "weights")):
        drawn = page.evaluate(pixels, canvas)
        page.select_option(f"#{select}", chosen)
        assert page.evaluate(pixels, canvas) != drawn or not page.is_visible(f"#{canvas}"), canvas
    assert HOSTILE in page.inner_text("#provenance")
    assert page.locator("img").count() == 0
    assert opened.fits_a_phone_in_the_dark()
    assert not opened.problems
    assert opened.requests == [file.resolve().as_uri()]
