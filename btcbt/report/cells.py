"""What the tables of all reports share: their style in terminals, and how a number is written."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

NONE = "–"
"""A number that is not defined."""


def plain_table(title: str) -> Table:
    """A table in the style of all commands."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="dim",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )


def signed(text: str, value: float) -> Text:
    """A number in green where a value is above zero and in red where it is below; its sign says the same."""
    return Text(text, style="green" if value > 0.0 else "red" if value < 0.0 else "")


def number(value: float, form: str, unit: str = "") -> str:
    """A number in a format, with its unit; `NONE` if it is not finite."""
    return f"{value:{form}}{unit}" if math.isfinite(value) else NONE


def p_value(value: float) -> str:
    """A p-value in three decimals, without the leading zero."""
    if not math.isfinite(value):
        return NONE
    return f"{value:.3f}".removeprefix("0") if value < 0.9995 else "1.00"
