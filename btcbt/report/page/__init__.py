"""The page of a run: one HTML file that holds everything to look at, and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from btcbt.files import write_whole
from btcbt.report.page.content import page_content
from btcbt.report.page.payload import page_payload
from btcbt.storage.runs import Run

NAME = "report.html"


def write_page(run: Run) -> Path:
    """Write `report.html` into the folder of a run.

    Parameters
    ----------
    run : Run
        A stored run; nothing else is read.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    StoreError
        If a table or forecast of the run is missing or damaged.
    """
    css, script = _asset("page.css"), _asset("page.js")
    # Every text of a run is escaped; the style and the script are this package's own, named by digest in the policy.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_asset("page.html.j2")).render(
        page_content(run),
        css=css,
        script=script,
        css_digest=_digest(css),
        script_digest=_digest(script),
        blobs=page_payload(run),
    )
    file = run.directory / NAME
    write_whole(file, text.encode())
    return file


def _asset(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
