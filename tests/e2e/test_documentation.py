"""What README, CONTRIBUTING and docs/ say: names exist, links lead somewhere, snippets run."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from ruamel.yaml import YAML
from typer.main import get_command

from btcbt.cli.main import app
from btcbt.records import Forecast, Holding, Window

Write = Callable[..., Path]

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = {"configuration.md", "metrics.md"}
"""Pages that `docs.builder` writes; `test_site.py` follows the links to them."""
EXAMPLES = [page for page in PAGES if "```python title=" in page.read_text(encoding="utf-8")]
every_page = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


def resolve(dotted: str) -> object:
    """The module, or the attribute of one, of that name."""
    module, *rest = dotted.split(".")
    found: object = importlib.import_module(module)
    for name in rest:
        module = f"{module}.{name}"
        found = getattr(found, name) if hasattr(found, name) else importlib.import_module(module)
    return found


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def execute(code: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - the README's own lines
    pyplot.close("all")  # they show a figure
    return names


@every_page
def test_every_name_of_the_package_on_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for dotted in set(re.findall(r"\bbtcbt(?:\.[A-Za-z_]\w*)+", text)):
        resolve(dotted)
    for module, names in re.findall(r"^from (btcbt[\w.]*) import (.+)$", text, flags=re.MULTILINE):
        for name in names.split(","):
            resolve(f"{module}.{name.strip()}")


@every_page
def test_every_file_on_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w/.])(?:btcbt|tests|docs|experiments|benchmarks|strategies)/[\w./-]*\w/?", text)
    missing = {path for path in paths if "NAME" not in path and not (ROOT / path).exists()}
    links = set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)) - GENERATED
    missing |= {link for link in links if not (page.parent / link).exists()}
    assert not missing


@every_page
def test_every_command_on_a_page_exists(page: Path) -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    used = set(re.findall(r"(?:`|-m |\| |^)btcbt ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert used <= commands


def test_the_readme_is_short_and_its_pictures_are_small() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 700
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert {"docs/images/fan.png", "docs/images/equity.png"} == set(pictures)
    assert all((ROOT / picture).stat().st_size < 150_000 for picture in pictures)


def test_the_lines_of_python_in_the_readme_run(write: Write) -> None:
    (code,) = [snippet for snippet in snippets("python") if "load_run" in snippet]
    file = write(
        ("ewma: {kind: ewma_volatility, n_paths: 8}", "kronos: {kind: kronos, n_paths: 2}"),
        ("end: 2019-06-04", "end: 2019-06-02"),
        ("horizon: 6", "horizon: 24"),
    )
    names = execute(code.replace("experiments/walkforward.yaml", str(file)))
    assert names["result"].manifest["origins"]["eligible"] == 24  # type: ignore[attr-defined]


def test_the_strategy_in_the_readme_decides() -> None:
    (code,) = [snippet for snippet in snippets("python") if "(Strategy)" in snippet]
    strategy = execute(code)["Mine"]()  # type: ignore[operator]
    values = np.full((30, 6), 100.0)
    window = Window(3_600_000 * np.arange(30, dtype=np.int64), values, 3_600_000)
    rises = np.full((5, 2, 6), 101.0, dtype=np.float32)
    assert strategy.decide(Forecast(window, rises), Holding()) == 1.0
    assert strategy.decide(Forecast(window, rises - 2), Holding()) == 0.0


def test_the_forecaster_in_the_readme_forecasts(make_windows: Callable[..., list[Window]]) -> None:
    (code,) = [snippet for snippet in snippets("python") if "(Forecaster)" in snippet]
    mine = execute(code)["Mine"]
    windows = make_windows(4, 10)
    complete = type("Complete", (mine,), {"identity": lambda self: {}})  # type: ignore[arg-type]
    batch = complete(context=10, horizon=3, n_paths=2, seed=0).forecast(windows)
    assert batch.paths.shape == (4, 2, 3, 6)
    assert batch.origins.tolist() == [window.origin for window in windows]
    assert np.array_equal(batch.paths[1, 1, 2], windows[1].values[-1].astype(np.float32))


@pytest.mark.parametrize("page", [*EXAMPLES, ROOT / "docs/from-kronos.md"], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks with a title are files; blocks of Python without one are run beside them, one after the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # user code is imported from the working directory
    blocks = re.findall(
        r'^```(python|yaml)(?: title="([^"]+)")?\n(.*?)^```', page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    for _, title, code in blocks:
        if title:
            (tmp_path / title).write_text(code, encoding="utf-8")
    programs = [code for language, title, code in blocks if language == "python" and not title]
    assert programs
    for code in programs:
        execute(code)
    for _, title, code in blocks:
        if title.endswith(".py"):
            execute(code)


def test_the_citation_file_has_what_its_format_requires() -> None:
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
