"""Whether contamination labels agree with the declared data ranges of fitted components."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from btcbt.audit.findings import Finding
from btcbt.config import time_text
from btcbt.forecasters.base import Part
from btcbt.records import DataRange, IntArray
from btcbt.walkforward.refits import Refitter
from btcbt.walkforward.stages import Label
from btcbt.windows import embargo_ms


def check_ranges(
    name: str, parts: Iterable[Part], origins: IntArray, interval_ms: int, label: Label
) -> tuple[list[Finding], list[str]]:
    """Find origins labelled clean although a fitted component had used candles at or after them.

    A range covers every candle that was used, targets included, so a component is clean at an origin if all its
    ranges end by then.

    Returns
    -------
    list of Finding
        The first such origin; its size is the distance in candles.
    list of str
        Counts of origins labelled otherwise, and components without a declaration.
    """
    findings: list[Finding] = []
    notes: list[str] = []
    counts: Counter[str] = Counter()
    for fitted in parts:
        served = origins[fitted.rows]
        labels = np.asarray(label(served, fitted.ranges))
        counts.update(str(one) for one in labels if one != "clean")
        findings += _called_clean(name, served, labels, fitted.ranges, interval_ms)
        if _undeclared(fitted.ranges):
            notes.append(
                f"'{name}': the data that its fitted parts used are not declared (in full), so labels cannot be checked"
            )
    if counts:
        which = ", ".join(f"{count:,} {one}" for one, count in sorted(counts.items()))
        notes.append(f"'{name}': of {len(origins):,} origins, not clean and labelled so: {which}")
    return findings, notes


def check_refits(name: str, refitter: Refitter, origins: IntArray) -> list[Finding]:
    """Find refits that used candles inside the embargo before the first origin that they serve.

    Checks the ranges planned, the candles given, and the ranges that the resulting checkpoint declares.
    """
    interval = refitter.periods[0].candles.interval_ms
    embargo = embargo_ms(refitter.windows, refitter.refit, interval)
    findings = []
    for number in sorted({refitter.number(origin) for origin in origins.tolist()}):
        period, refit = refitter.periods[number], refitter.fit(number)
        limit, candles = period.start - embargo, period.candles
        ends = {
            "its training range": period.train[1],
            "its selection range": period.select[1],
            "the candles it was given": int(candles.open_time[-1]) + candles.interval_ms,
        }
        ends |= {
            f"its declared range for {one.use}": one.end
            for one in refit.ranges or ()
            if one.use != "unknown" and one not in (refitter.frozen.data_ranges() or ())
        }
        latest = max(ends, key=lambda what: ends[what])
        if ends[latest] > limit:
            detail = f"{latest} ends {time_text(ends[latest])}, inside the embargo that starts at {time_text(limit)}"
            size = (ends[latest] - limit) / interval
            findings.append(Finding("split", name, "refit", period.start, period.start, "none", "fresh", size, detail))
    return findings


def _called_clean(
    name: str, origins: IntArray, labels: NDArray[np.str_], ranges: Sequence[DataRange] | None, interval_ms: int
) -> list[Finding]:
    findings = []
    for part in ranges or ():
        overlap = (origins < part.end) & (labels == "clean") & (part.use != "unknown")
        if overlap.any():
            first = int(origins[overlap][0])
            detail = (
                f"labelled clean, but data for {part.use} run to {time_text(part.end)}; "
                f"{np.count_nonzero(overlap):,} of {len(origins):,} origins"
            )
            size = (part.end - first) / interval_ms
            findings.append(Finding("split", name, "label", first, first, "none", "fresh", size, detail))
    if _undeclared(ranges) and (labels == "clean").any():
        first = int(origins[labels == "clean"][0])
        detail = "labelled clean, but the data that its fitted parts used are not declared"
        findings.append(Finding("split", name, "label", first, first, "none", "fresh", float("inf"), detail))
    return findings


def _undeclared(ranges: Sequence[DataRange] | None) -> bool:
    return ranges is None or any(part.use == "unknown" for part in ranges)
