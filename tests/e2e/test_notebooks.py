"""The notebooks run from top to bottom, and are kept without what a run of them leaves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 600
"""A limit for a cell that hangs; all of them together take less."""

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def test_the_notebooks_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, so that the run that the first one makes is there for the second; each begins without any name.

    One kernel for all of them: importing what they need takes longer than running them.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    for file in (ROOT / "notebooks").iterdir():
        if file.suffix in (".ipynb", ".yaml"):
            shutil.copy(file, tmp_path)
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(cwd=str(tmp_path))
    try:
        for file in NOTEBOOKS:
            execute(tmp_path / file.name, kernel)
    finally:
        kernel.shutdown_kernel(now=True)
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} >= {
        "week",
        "agreement",
        "replay",
        "refits",
        "tiny",
        "coins",
        "coins-ETH",
    }


def execute(file: Path, kernel: KernelManager) -> None:
    """Run a notebook; it shows pictures and tables, and warns of nothing."""
    notebook = nbformat.read(file, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    try:
        NotebookClient(notebook, km=kernel, timeout=SECONDS).execute()
    except CellExecutionError as error:
        error.add_note(file.name)
        raise
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "".join(output.text for output in shown if output.get("name") == "stderr") == "", file.name
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds, file.name


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
