"""The notebooks, executed, as pages with their pictures."""

from __future__ import annotations

import html
import os
import re
import shutil
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbformat import NotebookNode

SECONDS = 600
"""A limit for a cell that hangs; all of them together take less."""
SHOWN = ["text/html", "image/png", "text/plain"]
"""Kinds of output, the best first."""


def render(source: Path, work: Path, pages: Path) -> list[NotebookNode]:
    """Execute every notebook of a folder, and write each as a page.

    Parameters
    ----------
    source : path
        Folder of notebooks, with the experiments that they read.
    work : path
        Folder to execute them in, emptied before.
    pages : path
        Folder to write ``NAME.md`` and ``NAME_files/`` to.

    Returns
    -------
    list of NotebookNode
        The notebooks with their outputs, in order.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in (".ipynb", ".yaml"):
            shutil.copy(file, work)
    files = sorted(work.glob("*.ipynb"))
    notebooks = execute(files, source.parent)
    pages.mkdir(parents=True, exist_ok=True)
    for file, notebook in zip(files, notebooks, strict=True):
        _write(notebook, file.stem, work, pages)
    return notebooks


def execute(files: list[Path], root: Path) -> list[NotebookNode]:
    """Run notebooks from top to bottom, in order, each beginning without any name.

    One kernel for all of them: importing what they need takes longer than running them.
    """
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(cwd=str(files[0].parent), env={**os.environ, "PYTHONPATH": str(root)})
    try:
        return [_executed(file, kernel) for file in files]
    finally:
        kernel.shutdown_kernel(now=True)


def _executed(file: Path, kernel: KernelManager) -> NotebookNode:
    notebook = nbformat.read(file, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    try:
        NotebookClient(notebook, km=kernel, timeout=SECONDS).execute()
    except Exception as error:
        error.add_note(file.name)
        raise
    del notebook.cells[0]
    return notebook


def _write(notebook: NotebookNode, name: str, work: Path, pages: Path) -> None:
    """One page without the folder that it was executed in; whole pages in its outputs are files of their own."""
    for cell in notebook.cells:
        for number, output in enumerate(cell.get("outputs", ())):
            found = output.get("data", {}).get("text/html")
            if found is not None:
                output["data"]["text/html"] = _shown(found, f"{name}_{cell['id']}_{number}.html", pages)
    exporter = MarkdownExporter(config={"NbConvertBase": {"display_data_priority": SHOWN}})
    resources = {"unique_key": name, "output_files_dir": f"{name}_files"}
    text, resources = exporter.from_notebook_node(notebook, resources)
    for path, content in resources["outputs"].items():
        target = pages / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    text = text.replace("](../docs/", "](../").replace(f"{work.resolve()}{os.sep}", "")
    (pages / f"{name}.md").write_text(text, encoding="utf-8")


def _shown(found: str, file: str, pages: Path) -> str:
    """HTML of an output, on one line, so that Markdown leaves it alone."""
    frame = re.search(r"srcdoc=(['\"])(.*?)\1", found, flags=re.DOTALL)
    if frame is not None:
        (pages / file).write_text(html.unescape(frame[2]), encoding="utf-8")
        found = found[: frame.start()] + f'src="{file}"' + found[frame.end() :]
    lines = " ".join(line.strip() for line in found.splitlines())
    return f'<div class="notebook-output">{lines}</div>'
