"""The result of a regression check as a table, Markdown, and JUnit XML."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from btcbt.metrics.regression import UNKNOWN, Comparison, moved
from btcbt.metrics.score import Row
from btcbt.metrics.table import every_key, find_score
from btcbt.records import CHANNELS
from btcbt.report.figures import milliseconds
from btcbt.storage.panel_runs import PanelRun
from btcbt.storage.runs import Run
from btcbt.trees import tree_digest

SHOWN = 20
"""Rows of the table; the JUnit file has all."""
WHO = {"vanished": "this run", "new": "the baseline"}
OF_ACCOUNTS = ("strategy.", "placebo.", "selection.")
"""Metrics that depend on costs."""
COLUMNS = ("metric", "baseline", "now", "change", "allowed", "better", "verdict")
TEXTS = ("metric", "better", "verdict")
"""Text columns."""
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLES = {"worse": "red", "vanished": "red", "better": "green"}


def numbers_of(run: Run | PanelRun, baseline: Mapping[str, float]) -> Mapping[str, float]:
    """The headline numbers of a run, and other scores that a baseline names by their dotted keys.

    Raises
    ------
    StoreError
        If the run's scores are needed and cannot be read.
    """
    others = {key for key in baseline if key not in run.metrics and find_score(key) is not None}
    if not others or not (run.directory / "scores.parquet").is_file():
        return run.metrics
    frame = run.scores().drop(columns="symbol")
    rows = ((name, Row(*rest)) for name, *rest in frame.itertuples(index=False))
    keys = every_key(rows, next(iter(run.manifest["forecasters"])))
    return {**run.metrics, **{key: value for key, value in keys if key in others}}


def check_table(comparisons: Sequence[Comparison]) -> RenderableType:
    """Table of metrics outside their tolerance, failures and headline scores first."""
    changed, gone = _short(comparisons)
    parts: list[RenderableType] = []
    if changed:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for column in COLUMNS:
            table.add_column(column, justify="left" if column in TEXTS else "right", overflow="fold")
        for one in changed[:SHOWN]:
            table.add_row(*(Text(cell) for cell in _cells(one)), style=_STYLES.get(one.verdict, ""))
        parts.append(table)
    parts += [Text(line) for line in _rest(changed[SHOWN:])]
    return Group(*parts, *map(Text, gone), Text(verdict(comparisons)))


def verdict(comparisons: Sequence[Comparison]) -> str:
    """The result in one line."""
    count = Counter(one.verdict for one in comparisons)
    text = f"{len(comparisons):,} metrics: {count['equal']:,} equal, {count['within']:,} within tolerance"
    for name in ("better", "moved", "new", "worse", "vanished"):
        if count[name]:
            text += f", {count[name]:,} {name}"
    return text + ("; the check fails" if any(one.failed for one in comparisons) else "; the check passes")


def check_markdown(comparisons: Sequence[Comparison], title: str) -> str:
    """The result as Markdown, for the summary of a GitHub job."""
    lines = [f"### {_escape(title)}", "", verdict(comparisons), ""]
    changed, gone = _short(comparisons)
    if changed:
        lines += ["| " + " | ".join(COLUMNS) + " |", "| --- | ---: | ---: | ---: | ---: | --- | --- |"]
        lines += ["| " + " | ".join(_escape(cell) for cell in _cells(one)) + " |" for one in changed[:SHOWN]]
    lines += [text for line in (*_rest(changed[SHOWN:]), *gone) for text in ("", _escape(line))]
    return "\n".join(lines) + "\n"


def _short(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], list[str]]:
    """Metrics outside their tolerance, and a line for each forecaster or account that only one side has."""
    if all(one.verdict == "new" for one in comparisons):
        return [], []
    subjects: dict[str, set[str]] = {}
    for one in comparisons:
        subjects.setdefault(_subject(one.metric), set()).add(one.verdict)
    whole = {name: verdicts.pop() for name, verdicts in subjects.items() if name and len(verdicts) == 1}
    absent = {name: side for name, side in whole.items() if side in ("vanished", "new")}
    count = Counter(_subject(one.metric) for one in comparisons)
    lines = [
        f"not compared: {name} ({count[name]:,} metrics), which {WHO[side]} lacks"
        for name, side in sorted(absent.items())
    ]
    return [one for one in moved(comparisons) if _subject(one.metric) not in absent], lines


def _subject(metric: str) -> str:
    """Forecaster or account of a metric, as ``forecast.NAME``; empty for what is of none."""
    family, _, rest = metric.partition(".")
    name, _, of = rest.partition(".")
    return f"{family}.{name}" if of and family in ("forecast", "strategy", "placebo") else ""


def _rest(changed: Sequence[Comparison]) -> list[str]:
    """What is not listed, in a line."""
    if not changed:
        return []
    count = Counter(one.verdict for one in changed)
    parts = ", ".join(f"{number:,} {name}" for name, number in count.items())
    return [f"and {len(changed):,} more ({parts}); --junit FILE lists all"]


def about(run: Run | PanelRun) -> dict[str, str]:
    """What the numbers of a run were measured on, for `btcbt.metrics.regression.incomparable`."""
    if isinstance(run, PanelRun):
        return _about_panel(run)
    origins, candles = run.manifest.get("origins"), run.manifest.get("candles")
    if not origins or not candles or not (run.directory / "candles.parquet").is_file():
        return {}
    table = run.candles()
    traded = table.loc[table.index >= pd.Timestamp(origins["first"])]
    content = milliseconds(traded.index).tobytes() + traded[list(CHANNELS)].to_numpy(dtype="<f8").tobytes()
    return _measured(run, hashlib.sha256(content).hexdigest()[:16])


def _about_panel(run: PanelRun) -> dict[str, str]:
    """The same of a run on several symbols: the candles are those of all of them."""
    each = {symbol: about(run.symbol(symbol)).get("candles", "") for symbol in run.symbols}
    return {"symbols": ", ".join(run.symbols)} | _measured(run, tree_digest(each)[:16])


def _measured(run: Run | PanelRun, candles: str) -> dict[str, str]:
    origins, windows, portfolio = run.manifest["origins"], run.config.windows, run.config.portfolio
    return {
        "origins": f"{origins['first']} .. {origins['last']}, {origins['scored']:,} scored",
        "horizon": f"{windows.horizon} candles of {run.config.candles.interval}",
        "candles": candles,
        "costs": f"{portfolio.fee_bps:g} + {portfolio.slippage_bps:g} bps",
    }


def check_junit(comparisons: Sequence[Comparison], title: str) -> bytes:
    """The result as JUnit XML, one test case for each metric."""
    failures = sum(one.failed for one in comparisons)
    counts = {"tests": str(len(comparisons)), "failures": str(failures), "errors": "0"}
    root = ElementTree.Element("testsuites", {"name": "btcbt check", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(title), "skipped": "0", **counts})
    for one in comparisons:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": "btcbt.metrics.regression", "name": _xml(one.metric)}
        )
        if one.failed:
            text = ", ".join(f"{name} {cell}" for name, cell in zip(COLUMNS[1:], _cells(one)[1:], strict=True))
            failure = ElementTree.SubElement(case, "failure", {"type": one.verdict, "message": _xml(text)})
            failure.text = _xml(f"{one.metric}: {text}")
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _cells(one: Comparison) -> tuple[str, ...]:
    return (
        one.metric,
        _number(one.baseline),
        _number(one.now),
        f"{one.change:+.4g}" if math.isfinite(one.change) else "",
        f"{one.allowed:.2g}" if math.isfinite(one.allowed) else "",
        (find_score(one.metric) or UNKNOWN).direction.removesuffix(" is better").removesuffix(" is best"),
        one.verdict,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "absent"
    return f"{value:.8g}" if math.isfinite(value) else "undefined"


def _escape(text: str) -> str:
    """Escape the special characters of Markdown."""
    return re.sub(r"([\\`*_{}\[\]()<>#|~!])", r"\\\1", " ".join(text.split()))


def _xml(text: str) -> str:
    """Replace characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
