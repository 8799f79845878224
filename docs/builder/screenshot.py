"""``python -m docs.builder.screenshot REPORT.html``: docs/images/report.png, the numbered picture of docs/report.md.

Needs Debian's chromium. The report is that of any finished run; the picture that is kept shows the notebooks' week.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
TARGET = Path(__file__).resolve().parents[1] / "images/report.png"
WIDTH, SCALE = 1100, 1.5
MAX_BYTES = 200_000
MARKED = ("#verdict h2", "#slider", "#fan", "#decided", "#skill", "#coverage")
"""What gets the numbers 1, 2, ... of the page."""
MARK = """([selector, number]) => {
  const box = document.querySelector(selector).getBoundingClientRect();
  const mark = document.createElement("div");
  mark.textContent = number;
  mark.style.cssText = `position:absolute;left:${Math.max(box.left - 34, 4)}px;top:${box.top + scrollY}px;width:28px;
    height:28px;border-radius:50%;background:#b3261e;color:#fff;font:bold 16px/28px sans-serif;text-align:center;
    z-index:9`;
  document.body.append(mark);
}"""


def main(report: Path) -> None:
    """Photograph the page down to the charts of quality, with numbers beside its parts."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE)
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("html[data-ready]")
        page.click("#best")
        page.evaluate("document.body.style.paddingLeft = '44px'; window.dispatchEvent(new Event('resize'))")
        page.wait_for_timeout(500)
        for number, selector in enumerate(MARKED, start=1):
            page.evaluate(MARK, [selector, number])
        end = page.evaluate(
            "document.querySelector('#coverage').closest('.pair').getBoundingClientRect().bottom + scrollY"
        )
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": end - 6}
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))
        browser.close()
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(TARGET, optimize=True)
    if TARGET.stat().st_size > MAX_BYTES:
        sys.exit(f"error: {TARGET} has {TARGET.stat().st_size:,} bytes, more than {MAX_BYTES:,}; lower SCALE")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
