"""A finished sweep as a table for terminals and as heat maps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from btcbt.report.cells import NONE, number, plain_table
from btcbt.report.figures import DPI, new_figure, style_axes

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10
"""Configurations in the table."""
MOST_CELLS = 40
"""Values of a key that a heat map shows; more are cut into as many ranges."""


def sweep_summary(table: pd.DataFrame, numbers: Mapping[str, float], keys: Sequence[str]) -> RenderableType:
    """The verdict, the best configurations, and what choosing among them is worth.

    Parameters
    ----------
    table : DataFrame
        One row a configuration; see `btcbt.workflows.sweep.Sweep`.
    numbers : mapping
        See `btcbt.workflows.sweep.Sweep`.
    keys : sequence of str
        The swept keys.
    """
    return Group(_verdict(table, numbers), Text(), _best(table, keys), _luck(numbers))


def _verdict(table: pd.DataFrame, numbers: Mapping[str, float]) -> Text:
    p, count = numbers.get("selection.flat.p_value", float("nan")), numbers["selection.configurations"]
    head = f"{len(table):,} configurations, {count:,.0f} tried on these hours in all. "
    if not np.isfinite(p):
        return Text(head + "None traded, or the hours are too few to test them.", style="bold")
    found = "At least one beats" if p < 0.05 else "None is shown to beat"
    return Text(head + f"{found} a flat account after costs (SPA p {p:.3f}).", style="bold")


def _best(table: pd.DataFrame, keys: Sequence[str]) -> Table:
    shown = table.sort_values("sharpe", ascending=False, na_position="last").head(SHOWN)
    out = plain_table(f"Best {len(shown)} in hindsight")
    short = [key.rpartition(".")[2] for key in keys]
    labels = [last if short.count(last) == 1 else key for key, last in zip(keys, short, strict=True)]
    for heading in ("strategy", "on", *labels):
        out.add_column(heading, justify="left" if heading in ("strategy", "on") else "right")
    for heading in ("return", "Sharpe", "max DD", "orders", "deflated"):
        out.add_column(heading, justify="right", no_wrap=True)
    for row in shown.to_dict("records"):
        out.add_row(
            row["strategy"],
            row["forecaster"] or NONE,
            *(f"{row[key]:g}" if isinstance(row[key], int | float) else str(row[key]) for key in keys),
            f"{100 * row['total_return']:+.1f}%",
            number(row["sharpe"], "+.2f"),
            f"{100 * row['max_drawdown']:.1f}%",
            f"{row['orders']:,}",
            number(row["deflated_sharpe"], ".2f"),
        )
    return out


def _luck(numbers: Mapping[str, float]) -> Text:
    if "nested.sharpe" not in numbers:
        return Text("Too few hours to choose on the past and trade the next: see 'select' in the sweep.")

    def account(name: str) -> str:
        low, high = numbers[f"{name}.sharpe_low"], numbers[f"{name}.sharpe_high"]
        interval = f" (95 % interval {low:+.1f} .. {high:+.1f})" if np.isfinite([low, high]).all() else ""
        return (
            f"Sharpe {numbers[f'{name}.sharpe']:+.2f}{interval}, return {100 * numbers[f'{name}.total_return']:+.1f} %"
        )

    text = Text(f"Chosen on the past, traded afterwards: {account('nested')}.\n")
    text.append(f"Best in hindsight over the same hours, which nobody could choose: {account('hindsight')}.")
    if np.isfinite(numbers.get("selection.overfitting.probability", float("nan"))):
        text.append(f"\nProbability of backtest overfitting: {numbers['selection.overfitting.probability']:.2f}.")
    return text


def draw_sweep(table: pd.DataFrame, keys: Sequence[str], title: str, folder: Path) -> list[Path]:
    """Draw the net Sharpe ratio by every pair of swept keys that are numbers, or by the only one.

    The mean over all other keys, so that a lone lucky configuration does not show as a ridge.

    Returns
    -------
    list of Path
        The PNG files written into `folder`.
    """
    from pandas.api.types import is_numeric_dtype

    numeric = [key for key in keys if is_numeric_dtype(table[key]) and table[key].nunique() > 1]
    files: list[Path] = []
    figures: dict[tuple[str, ...], Figure] = {
        pair: _heat_map(table, *pair, title) for pair in itertools.combinations(numeric, 2)
    }
    if len(numeric) == 1:
        figures = {(numeric[0],): _line(table, numeric[0], title)}
    for names, figure in figures.items():
        files.append(folder / f"sharpe_{'_'.join(names).replace('.', '-')}.png")
        figure.savefig(files[-1], dpi=DPI)
    return files


def _grouped(values: pd.Series[float]) -> pd.Series[float]:
    """Values of a key, cut into ranges (their middles) where there are many."""
    import pandas as pd

    if values.nunique() <= MOST_CELLS:
        return values
    return pd.cut(values, MOST_CELLS).map(lambda part: part.mid).astype(float)


def _heat_map(table: pd.DataFrame, first: str, second: str, title: str) -> Figure:
    keyed = table.assign(**{first: _grouped(table[first]), second: _grouped(table[second])})
    grid = keyed.pivot_table(index=second, columns=first, values="sharpe", aggfunc="mean").sort_index()
    figure = new_figure(7.6, 5.4)
    axes = figure.add_subplot()
    most = max(float(np.nanmax(np.abs(grid.to_numpy()), initial=0.0)), 1e-9)
    image = axes.imshow(
        grid.to_numpy(), origin="lower", aspect="auto", cmap="RdBu", vmin=-most, vmax=most, interpolation="nearest"
    )
    for axis, values, key in ((axes.xaxis, grid.columns, first), (axes.yaxis, grid.index, second)):
        at = np.unique(np.linspace(0, len(values) - 1, min(len(values), 9)).round().astype(int))
        axis.set_ticks(at, [f"{values[i]:g}" for i in at])
        axis.set_label_text(key)
    axes.set_title(f"{title}: net Sharpe ratio, mean over all else; blue gains, red loses", loc="left", fontsize=10)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("annualised Sharpe ratio")
    return figure


def _line(table: pd.DataFrame, key: str, title: str) -> Figure:
    grouped = table.assign(**{key: _grouped(table[key])}).groupby(key)["sharpe"]
    figure = new_figure(7.6, 4.2)
    axes = figure.add_subplot()
    style_axes(axes, "annualised Sharpe ratio")
    axes.fill_between(grouped.mean().index, grouped.min(), grouped.max(), alpha=0.2, linewidth=0)
    axes.plot(grouped.mean().index, grouped.mean(), marker="o", markersize=3)
    axes.axhline(0.0, color="0.4", linewidth=0.8)
    axes.set_xlabel(key)
    axes.set_title(f"{title}: net Sharpe ratio (band: least to greatest)", loc="left", fontsize=10)
    return figure
