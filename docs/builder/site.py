"""The site: collect the pages, generate the others, build with zensical, check every link."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.builder import configuration, metrics, notebooks
from docs.builder.links import broken_links

CONFIG = "zensical.toml"
COPIED = (".md", ".png", ".jpg", ".webp", ".svg", ".css")


class SiteError(Exception):
    """A page is missing from the navigation, a link leads nowhere, or zensical refuses something."""


def build(root: Path, out: Path) -> Path:
    """Build the site.

    Parameters
    ----------
    root : path
        The checkout.
    out : path
        Folder of what is built: ``pages`` (all Markdown), ``site`` (the result), ``notebooks`` (executed).

    Returns
    -------
    Path
        The first page.

    Raises
    ------
    SiteError
        Names what is wrong, one problem a line.
    """
    pages = out / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    collect(root / "docs", pages)
    (pages / "configuration.md").write_text(configuration.page(), encoding="utf-8")
    (pages / "metrics.md").write_text(metrics.page(), encoding="utf-8")
    notebooks.render(root / "notebooks", out / "notebooks", pages / "notebooks")
    return build_pages(root / "docs" / CONFIG, out)


def collect(source: Path, pages: Path) -> None:
    """Copy what people wrote."""
    for file in sorted(source.rglob("*")):
        target = pages / file.relative_to(source)
        if file.suffix in COPIED:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        if file.suffix == ".md":  # a notebook is a page of the site
            text = re.sub(r"\]\(\.\./(notebooks/\w+)\.ipynb\)", r"](\1.md)", file.read_text(encoding="utf-8"))
            target.write_text(text, encoding="utf-8")


def build_pages(config: Path, out: Path) -> Path:
    """Build ``out/site`` from ``out/pages``, and check it; see `build`."""
    shutil.copy(config, out / CONFIG)
    check_navigation(out / CONFIG, out / "pages")
    shutil.rmtree(out / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", CONFIG]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        problems = re.sub(r"\x1b\[[\d;]*m", "", done.stderr).partition("Traceback")[0]  # its colours, and its own end
        raise SiteError(f"zensical: {problems.strip() or done.stderr}")
    broken = broken_links(out / "site")
    if broken:
        raise SiteError("\n".join(broken))
    return out / "site" / "index.html"


def check_navigation(config: Path, pages: Path) -> None:
    """Every page is in the navigation once, and every entry of it is a page."""
    listed = list(_entries(tomllib.loads(config.read_text(encoding="utf-8"))["project"]["nav"]))
    there = {file.relative_to(pages).as_posix() for file in pages.rglob("*.md")}
    problems = [f"{page}: not in the navigation; add it to docs/{CONFIG}" for page in sorted(there - set(listed))]
    problems += [f"{page}: in the navigation, but there is no such page" for page in sorted(set(listed) - there)]
    twice = {page for page in listed if listed.count(page) > 1}
    problems += [f"{page}: in the navigation twice" for page in sorted(twice)]
    if problems:
        raise SiteError("\n".join(problems))


def _entries(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _entries(entry)
