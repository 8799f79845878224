"""The page of a run: one HTML file that holds everything to look at, and asks nothing of any network."""

from __future__ import annotations

from pathlib import Path

from btcbt.files import write_whole
from btcbt.report.page.content import page_content
from btcbt.report.page.panel import panel_content
from btcbt.report.page.panel_numbers import panel_payload
from btcbt.report.page.payload import page_payload
from btcbt.report.page.render import page_text
from btcbt.storage.panel_runs import PanelRun
from btcbt.storage.runs import Run

NAME = "report.html"


def write_page(run: Run | PanelRun) -> Path:
    """Write `report.html` into the folder of a run.

    Parameters
    ----------
    run : Run or PanelRun
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
    if isinstance(run, PanelRun):
        (blobs, limits), name, content = panel_payload(run), "panel", panel_content(run)
    else:
        (blobs, limits), name, content = page_payload(run), "page", page_content(run)
    file = run.directory / NAME
    write_whole(file, page_text(name, {**content, "limits": limits}, blobs).encode())
    return file
