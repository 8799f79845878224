"""A page from its template, its script and the parts that all pages share."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

SCRIPTS = {
    "page": ("charts", "browser", "accounts", "page"),
    "panel": ("charts", "browser", "accounts", "panel"),
    "compare": ("charts", "compare"),
}
"""Files that make the script of each page, in order."""


def page_text(name: str, content: Mapping[str, Any], blobs: Mapping[str, str]) -> str:
    """HTML of one page that loads nothing.

    Parameters
    ----------
    name : str
        Of the template and of its `SCRIPTS`: ``page``, ``panel`` or ``compare``.
    content : mapping
        Variables of the template; every text is escaped.
    blobs : mapping of str to str
        What the script unpacks, by name.
    """
    css = asset("page.css")
    script = "\n".join(['"use strict";', "(async () => {", *(asset(f"{one}.js") for one in SCRIPTS[name]), "})();"])
    # Style and script are this package's own, named by digest in the policy.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(asset)
    )
    return environment.get_template(f"{name}.html.j2").render(
        content, css=css, script=script, css_digest=_digest(css), script_digest=_digest(script), blobs=blobs
    )


def asset(name: str) -> str:
    """Text of a file of this package."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
