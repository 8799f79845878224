"""Links of a built site: inside of it they lead somewhere, and no page loads anything from outside."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
NOT_LOADED = {"canonical", "prev", "next", "edit"}
"""Relations of a ``link`` that load nothing."""


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.ids.update(found[name] for name in ("id", "name") if name in found)
        if tag == "link" and found.get("rel") in NOT_LOADED:
            return
        for name in ("href", "src"):
            if name in found:
                self.links.append((found[name], (tag, name) in LOADED))


def broken_links(site: Path) -> list[str]:
    """Describe every link that leads nowhere, and everything that a page loads from outside of the site.

    Parameters
    ----------
    site : path
        Folder of HTML pages.

    Returns
    -------
    list of str
        ``page: link`` and what is wrong with it; empty if nothing is.
    """
    pages = {file: _read(file) for file in sorted(site.rglob("*.html")) if file.name != "404.html"}
    problems = []
    for file, page in pages.items():
        for link, loaded in dict.fromkeys(page.links):
            problem = _problem(link, loaded, file, pages)
            if problem:
                problems.append(f"{file.relative_to(site)}: {link[:100]} {problem}")
    return problems


def _problem(link: str, loaded: bool, file: Path, pages: dict[Path, _Page]) -> str:
    parts = urlsplit(link)
    if parts.scheme == "data" or parts.scheme == "mailto":
        return ""
    if parts.scheme or parts.netloc:
        return "is loaded from outside" if loaded else ""
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "leads nowhere"
    if parts.fragment and not loaded and target in pages and unquote(parts.fragment) not in pages[target].ids:
        return "leads to a page without that heading"
    return ""


def _read(file: Path) -> _Page:
    page = _Page()
    page.feed(file.read_text(encoding="utf-8"))
    return page
