"""An audit report as tables for the terminal."""

from __future__ import annotations

import math
from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from btcbt.audit.findings import LIMITS, AuditReport, Finding
from btcbt.config import time_text
from btcbt.report.cells import plain_table
from btcbt.walkforward.stages import STAGE_NAMES

MAX_ROWS = 25


def verdict(report: AuditReport) -> RenderableType:
    """Comparisons, findings and limits of an audit, for a rich console."""
    parts: list[RenderableType] = [_head(report), "", _stages(report), ""]
    if report.findings:
        parts += [_findings(report), ""]
    parts += [_limits(report)]
    return Group(*parts)


def _head(report: AuditReport) -> Text:
    text = Text()
    text.append(report.name, style="bold")
    text.append(f"  {len(report.origins):,} of {report.eligible:,} origins audited in {report.seconds:.0f} s: ")
    text.append(report.verdict, style="bold green" if report.clean else "bold red")
    if report.findings:
        count = f"{len(report.findings):,} finding" + "s" * (len(report.findings) > 1)
        text.append(f"\n{count}, the first at the stage '{report.caught_at}'.")
    else:
        text.append("\nNothing known, forecast, decided or filled by an origin changed with the candles after it.")
    if report.undeclared:
        text.append(f"\nReads files without declaring what went into them: {', '.join(report.undeclared)}.")
    if report.unjudged:
        text.append(f"\nCould not be run on some changed histories: {', '.join(report.unjudged)}.")
    return text


def _stages(report: AuditReport) -> Table:
    table = plain_table("Comparisons, bit for bit")
    for column in ("stage", "equal", "different"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    found = Counter(finding.stage for finding in report.findings)
    for stage in STAGE_NAMES:
        equal = report.comparisons.get(stage, 0)
        if equal or found[stage]:
            style = "red" if found[stage] else ""
            table.add_row(stage, f"{equal:,}", f"{found[stage]:,}", style=style)
    return table


def _findings(report: AuditReport) -> Text:
    """The largest difference of each field, a paragraph each: names of users are too long for columns."""
    worst: dict[tuple[str, str, str], Finding] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for finding in report.findings:
        key = (finding.stage, finding.component, finding.field)
        counts[key] += 1
        if key not in worst or finding.difference > worst[key].difference:
            worst[key] = finding
    text = Text("Findings: the largest difference of each field\n", style="bold")
    for key, one in list(worst.items())[:MAX_ROWS]:
        size = f"{one.difference:.4g}" if math.isfinite(one.difference) else "undefined"
        at = f"at {time_text(one.origin)}" + ("" if one.time == one.origin else f" of {time_text(one.time)}")
        text.append(f"- {one.kind}: {one.stage} ", style="not bold")
        text.append(f"{one.component}, {one.field}", style="bold red")
        text.append(
            f"; {counts[key]:,} found, the largest difference {size} {at}: {one.detail} "
            f"(candles afterwards {one.change}, {one.objects} objects)\n",
            style="not bold",
        )
    if len(worst) > MAX_ROWS:
        text.append(f"and {len(worst) - MAX_ROWS:,} more fields\n", style="not bold")
    text.rstrip()
    return text


def _limits(report: AuditReport) -> Text:
    text = Text("Limits of this audit\n", style="bold")
    for note in (*report.notes, *LIMITS):
        text.append(f"- {note}\n", style="not bold")
    text.rstrip()
    return text
