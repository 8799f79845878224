"""The page of a run: one HTML file that holds everything to look at, and asks nothing of any network."""

from __future__ import annotations

from pathlib import Path

from btcbt.files import write_whole
from btcbt.report.page.content import page_content
from btcbt.report.page.payload import page_payload
from btcbt.report.page.render import page_text
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
    blobs, limits = page_payload(run)
    file = run.directory / NAME
    write_whole(file, page_text("page", {**page_content(run), "limits": limits}, blobs).encode())
    return file
