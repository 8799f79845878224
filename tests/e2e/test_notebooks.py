"""The notebooks run from top to bottom, and are kept without what a run of them leaves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import btcbt

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 600
"""A limit for a cell that hangs; all of them together take less."""

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder, with the run that two of the notebooks read."""
    folder = tmp_path_factory.mktemp("notebooks")
    for file in (ROOT / "notebooks").iterdir():
        if file.suffix in (".ipynb", ".yaml"):
            shutil.copy(file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        btcbt.run("week.yaml")
    return folder


@every_notebook
def test_a_notebook_runs(file: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(workplace / "runtime"))
    notebook = nbformat.read(workplace / file.name, as_version=4)
    client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(workplace)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    assert "".join(output.text for output in shown if output.get("name") == "stderr") == ""
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert pictures
    assert [output for output in shown if "text/html" in output.get("data", {})]


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
    assert [file.stem for file in NOTEBOOKS] == [*names, "05_finetune_and_refit"]
