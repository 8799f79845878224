"""The documentation site is built strictly, from pages, code and notebooks that run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from nbformat import NotebookNode
from pydantic import BaseModel

from btcbt.config import Section
from btcbt.config.experiment import RunConfig
from btcbt.config.forecasters import KINDS
from btcbt.metrics.table import TABLE
from btcbt.workflows.schema import json_schema
from docs.builder import configuration, metrics, notebooks, site

ROOT = Path(__file__).resolve().parents[2]
HEAD = """[project]
site_name = "small"
docs_dir = "pages"
site_dir = "site"
use_directory_urls = false
nav = [{ "First" = "index.md" }, { "More" = [{ "Second" = "second.md" }] }]
[project.theme]
font = false
"""


def test_the_site_is_built_from_pages_code_and_notebooks_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    shown: list[NotebookNode] = []
    render = notebooks.render
    monkeypatch.setattr(notebooks, "render", lambda *folders: shown.extend(render(*folders)))
    index = site.build(ROOT, tmp_path)
    assert "Quick start" in index.read_text(encoding="utf-8")
    assert {folder.name for folder in (tmp_path / "notebooks/runs").iterdir()} >= {
        "week",
        "agreement",
        "replay",
        "refits",
        "tiny",
        "coins",
        "coins-ETH",
    }
    for notebook in shown:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert "".join(output.text for output in outputs if output.get("name") == "stderr") == ""
        assert {"image/png", "text/html"} <= {kind for output in outputs for kind in output.get("data", {})}
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        page = (tmp_path / "site/notebooks" / f"{file.stem}.html").read_text(encoding="utf-8")
        pictures = re.findall(r'<img [^>]*src="([^"]+_files/[^"]+\.png)"', page)
        assert pictures, file.stem
        assert "&lt;div" not in page, file.stem  # tables are tables
        assert str(tmp_path) not in page, file.stem


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A site of two pages, as `build_pages` takes it."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/index.md").write_text("# First\n\n[second](second.md#here)\n")
    (tmp_path / "pages/second.md").write_text("# Second\n\n## Here\n")
    (tmp_path / "source.toml").write_text(HEAD)
    return tmp_path


def test_a_site_without_mistakes_is_built(small: Path) -> None:
    assert site.build_pages(small / "source.toml", small).is_file()


@pytest.mark.parametrize(
    ("text", "named"),
    [("[gone](gone.md)", "gone"), ("[there](second.md#nowhere)", "nowhere"), ("![picture](none.png)", "none.png")],
)
def test_a_broken_link_fails_the_build(small: Path, text: str, named: str) -> None:
    with (small / "pages/index.md").open("a") as page:
        page.write(f"\n{text}\n")
    with pytest.raises(site.SiteError, match=named):
        site.build_pages(small / "source.toml", small)


def test_a_picture_from_elsewhere_fails_the_build(small: Path) -> None:
    (small / "pages/second.md").write_text("# Second\n\n## Here\n\n![far](https://example.org/a.png)\n")
    with pytest.raises(site.SiteError, match="loaded from outside"):
        site.build_pages(small / "source.toml", small)


def test_a_page_that_the_navigation_lacks_or_names_in_vain_fails_the_build(small: Path) -> None:
    shutil.move(small / "pages/second.md", small / "pages/third.md")
    with pytest.raises(
        site.SiteError, match=r"third.md: not in the navigation[^\n]*\nsecond.md: in the navigation, but"
    ):
        site.build_pages(small / "source.toml", small)


def test_every_key_and_every_kind_is_in_the_reference() -> None:
    page = configuration.page()
    for kind in ("experiment", "panel", "sweep", "recipe"):
        schema = json_schema(kind)
        for part in (schema, *schema["$defs"].values()):
            keys = {key for key, value in part.get("properties", {}).items() if "const" not in value}
            assert not {key for key in keys if f"| `{key}` |" not in page}
    assert not {kind for kind in KINDS if f"### `kind: {kind}`" not in page}
    assert page.count("**required**") > len(KINDS) / 2


def test_a_key_without_a_description_is_refused() -> None:
    class Bare(Section):
        key: int = 1

    with pytest.raises(ValueError, match=r"Bare.key has no description"):
        configuration.section(Bare)


def test_a_row_says_type_bounds_default_and_meaning() -> None:
    row = next(line for line in configuration.section(RunConfig).splitlines() if line.startswith("| `placebos`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["`placebos`", "integer, &#62;= 0, &#60;= 100,000", "`0`"]
    assert "at least 200" in cells[3]


def test_every_score_is_in_the_reference_with_its_formula() -> None:
    page = metrics.page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(TABLE)
    assert not {score.name for score in TABLE if not any(row.startswith(f"| `{score.name}`") for row in rows)}
    assert all(row.count("|") == 6 for row in rows)  # no formula breaks the table


def test_every_parameter_of_a_strategy_that_ships_is_in_the_reference() -> None:
    page = configuration.page()
    found = configuration.built_in_strategies()
    assert len(found) >= 8
    for strategy in found:
        assert issubclass(strategy.Params, BaseModel)
        assert not {key for key in strategy.Params.model_fields if f"| `{key}` |" not in page}
