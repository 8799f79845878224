"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def cell(text: str) -> str:
    """A text as it can stand in a cell of a table: nothing in it is taken for Markdown or HTML."""
    return " ".join(text.split()).translate({ord(one): f"&#{ord(one)};" for one in "\\`*_|<>&[]"})


def prose(docstring: str) -> str:
    """A docstring's first paragraphs as Markdown: double backticks become single ones."""
    return docstring.replace("``", "`").strip()


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
