"""The page of metrics, from the score table."""

from __future__ import annotations

from btcbt.metrics import table as score_table
from btcbt.metrics.score import Score
from docs.builder.markdown import cell, table

FAMILIES = {
    "forecast": "Errors of forecasts",
    "against": "A forecaster beside another",
    "opponent": "A forecaster beside the opponent",
    "pooled": "A forecaster beside the opponent, over all symbols of a panel",
    "cross_section": "Rankings of symbols",
    "confidence_set": "Model confidence set",
    "strategy": "Accounts",
    "selection": "Tests over all configurations tried",
    "placebo": "Placebo runs",
    "hypothesis": "Registered hypotheses",
    "origins": "Origins",
}
INTRODUCTION = """\
# Metrics

Every number that a run writes, from the table that scoring, `btcbt check` and the report read. In formulas, x is the
outcome, m the median and mu the mean of the paths, F their distribution, and n no change. *Per* says what a number is
broken down by: step and channel of a forecast, calendar month, volatility regime, contamination label; of accounts
other costs and delayed fills.

`scores.parquet` of a run holds all of them; `metrics.json` the headline numbers under dotted keys:

```
{keys}
```
"""


def page() -> str:
    """The whole page, in Markdown."""
    documentation = score_table.__doc__ or ""
    keys = documentation.partition("::\n\n")[2].partition("\n\n")[0]
    lines = [line.removeprefix("    ") for line in keys.splitlines()]
    parts = [INTRODUCTION.format(keys="\n".join(lines))]
    missing = {score.family for score in score_table.TABLE} - set(FAMILIES)
    if missing:
        raise ValueError(f"families {sorted(missing)} of scores have no heading; add them to FAMILIES")
    for family, title in FAMILIES.items():
        scores = [score for score in score_table.TABLE if score.family == family]
        if scores:
            parts.append(f"## {title}\n")
            parts.append(table(("metric", "unit", "better", "formula and source", "per"), map(_row, scores)))
    return "\n".join(parts)


def _row(score: Score) -> tuple[str, ...]:
    name = f"`{score.name}`" + (f" ({cell(score.label)})" if score.label else "")
    unit = {"channel": "as the channel", "": "none"}.get(score.unit, score.unit)
    better = score.direction.removesuffix(" is better").replace(" is best", "") or "neither"
    formula = cell(score.formula) + (f"<br><small>{cell(score.source)}</small>" if score.source else "")
    return name, unit, better, formula, ", ".join(score.per)
