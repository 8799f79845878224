"""Whether the labels of origins own up to what the fitted parts have looked at."""

from __future__ import annotations

from collections import Counter

import numpy as np

from btcbt.audit.findings import Finding
from btcbt.audit.stages import Label
from btcbt.config import time_text
from btcbt.forecasters import Forecaster
from btcbt.records import IntArray


def check_ranges(
    name: str, forecaster: Forecaster, origins: IntArray, interval_ms: int, label: Label
) -> tuple[list[Finding], list[str]]:
    """Look for origins that are called clean although a fitted part had looked at candles at or after them.

    A range holds every candle that was looked at, targets included, so a part is fitted before an origin if
    its ranges end by then.

    Returns
    -------
    list of Finding
        The first such origin, with the distance in candles as its size.
    list of str
        What is labelled otherwise, and what nobody has declared.
    """
    ranges = forecaster.data_ranges()
    labels = np.asarray(label(origins, ranges))
    findings, notes = [], []
    for part in ranges or ():
        overlap = (origins < part.end) & (labels == "clean") & (part.use != "unknown")
        if overlap.any():
            first = int(origins[overlap][0])
            detail = (
                f"called clean, but data for {part.use} run to {time_text(part.end)}; "
                f"{np.count_nonzero(overlap):,} of {len(origins):,} origins"
            )
            size = (part.end - first) / interval_ms
            findings.append(Finding("split", name, "label", first, first, "none", "fresh", size, detail))
    undeclared = ranges is None or any(part.use == "unknown" for part in ranges)
    if undeclared and (labels == "clean").any():
        first = int(origins[labels == "clean"][0])
        detail = "called clean, but what its fitted parts have looked at is not declared"
        findings.append(Finding("split", name, "label", first, first, "none", "fresh", float("inf"), detail))
    if undeclared:
        notes.append(
            f"forecaster '{name}': what its weights were fitted on is not declared (in full), so they are not proven"
        )
    counts = Counter(str(one) for one in labels if one != "clean")
    if counts:
        which = ", ".join(f"{count:,} {one}" for one, count in sorted(counts.items()))
        notes.append(f"forecaster '{name}': of {len(origins):,} origins not clean, and labelled so: {which}")
    return findings, notes
