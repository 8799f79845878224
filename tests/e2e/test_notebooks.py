"""The notebooks are kept short and without what a run of them leaves; `test_site.py` runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


@every_notebook
def test_a_notebook_is_kept_without_outputs(file: Path) -> None:
    tree: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    code = [cell for cell in tree["cells"] if cell["cell_type"] == "code"]
    assert code
    assert not [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None]
    assert not [cell["id"] for cell in tree["cells"] if cell["metadata"]]
    assert set(tree["metadata"]) == {"kernelspec", "language_info"}
    assert tree["metadata"]["language_info"] == {"name": "python"}


@every_notebook
def test_a_notebook_is_short_and_fits_the_page(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")
    assert len(notebook.cells) <= 24
    lines = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert max(map(len, lines)) <= 100
    assert not re.search(r"(?:^|[\s\"'(])/(?:home|tmp|Users|root)\b", "\n".join(lines))


def test_there_is_a_notebook_for_each_thing_that_people_do() -> None:
    names = ["01_equity_curves", "02_forecast_quality", "03_write_a_strategy", "04_bring_your_own_forecaster"]
    assert [file.stem for file in NOTEBOOKS] == [*names, "05_finetune_and_refit", "06_panel"]
