"""What is wrong with a candle history, and the repairs that a user may ask for.

**Problems** break the contract of `Candles` and have to go before a history can be used. **Notes** do not: a gap, a
placeholder of an outage or a candle cut short is what the exchange published, and dropping it is a decision.
Nothing here fills or invents a candle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from btcbt.candles.rows import UNKNOWN, US, Rows, same_rows
from btcbt.candles.schema import EARLIEST_MS, LATEST_MS, candle_error, name_interval, name_time, parse_interval
from btcbt.records import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME, IntArray

BoolArray = NDArray[np.bool_]

PLACEHOLDERS = "placeholders without volume"
_DAYS_OF_MONTH = 28  # a month of candles repeated as a whole is at least this many days


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of oddity.

    Attributes
    ----------
    kind : str
        What is odd.
    count : int
        How many rows (months, for repeated months) it concerns.
    example : str
        The first of them.
    problem : bool
        Whether it breaks the contract; otherwise it is a note.
    """

    kind: str
    count: int
    example: str
    problem: bool


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """What `inspect_rows` found.

    Attributes
    ----------
    source : str
        The history's name.
    interval_ms : int
        Length of a candle.
    rows, usable : int
        Rows in the source, and those of them that break nothing (of repeated ones, one).
    first_ms, last_ms : int
        Open times of the first and last usable candle, ms UTC; 0 if there is none.
    gaps : int64 (G, 2)
        Open time of the first missing candle (ms UTC) and number of missing candles, over the usable rows.
    findings : tuple of Finding
        Problems first.
    """

    source: str
    interval_ms: int
    rows: int
    usable: int
    first_ms: int
    last_ms: int
    gaps: IntArray
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Findings that break the contract."""
        return tuple(finding for finding in self.findings if finding.problem)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """Findings that are allowed."""
        return tuple(finding for finding in self.findings if not finding.problem)

    @property
    def missing(self) -> int:
        """Candles missing between the first and the last."""
        return int(self.gaps[:, 1].sum())

    @property
    def coverage(self) -> float:
        """Share of the candles between the first and the last that are there, in [0, 1]."""
        return self.usable / (self.usable + self.missing) if self.usable else 0.0

    def lines(self, longest: int = 5) -> list[str]:
        """The report as text: coverage, problems, notes, and the `longest` gaps."""
        interval = name_interval(self.interval_ms)
        if not self.usable:
            head = f"{self.source}: {self.rows:,} rows, none usable as {interval} candles"
        else:
            head = (
                f"{self.source}: {self.usable:,} candles of {interval}, {name_time(self.first_ms)} .. "
                f"{name_time(self.last_ms)}, coverage {self.coverage:.4%}"
            )
        text = [head]
        for finding in self.findings:
            label = "problem" if finding.problem else "note"
            text.append(f"  {label}: {finding.kind}: {finding.count:,} (first: {finding.example})")
        if len(self.gaps):
            order = np.argsort(-self.gaps[:, 1], kind="stable")[:longest]
            shown = ", ".join(f"{name_time(self.gaps[i, 0])} x{self.gaps[i, 1]}" for i in order)
            text.append(
                f"  note: gaps: {len(self.gaps):,}, candles missing: {self.missing:,} (longest: {shown}); never filled"
            )
        return text


def inspect_rows(rows: Rows, interval: str) -> Inspection:
    """Look for everything that is wrong with a source.

    Parameters
    ----------
    rows : Rows
        As read.
    interval : str
        The interval of its candles, such as ``1h``.

    Returns
    -------
    Inspection
        A row may count under several kinds.

    Raises
    ------
    CandleError
        If `interval` is unknown.
    """
    step = parse_interval(interval)
    problems = _row_problems(rows, step) | _order_problems(rows)
    found = [_finding(kind, mask, rows, problem=True) for kind, mask in problems.items() if mask.any()]
    found += _repeated_months(rows, step)
    found += [_finding(kind, mask, rows, problem=False) for kind, mask in _notes(rows, step).items() if mask.any()]
    good = rows.take(_usable(rows, step)).open_ms
    jumps = np.diff(good)
    before = np.flatnonzero(jumps > step)
    gaps = np.stack([good[before] + step, jumps[before] // step - 1], axis=1)
    first, last = (int(good[0]), int(good[-1])) if len(good) else (0, 0)
    return Inspection(rows.source, step, len(rows), len(good), first, last, gaps, tuple(found))


def repair_rows(rows: Rows, interval: str, *, drop_placeholders: bool = False) -> tuple[Rows, Mapping[str, int]]:
    """Drop what breaks the contract: the rows are sorted, and of repeated open times the last read stays.

    Parameters
    ----------
    rows : Rows
        As read.
    interval : str
        The interval of its candles.
    drop_placeholders : bool
        Also drop candles without volume whose four prices are one; the gap that they hid then shows.

    Returns
    -------
    rows : Rows
        What stays; `to_candles` accepts it.
    dropped : mapping of str to int
        How many rows went, by the first reason that applied.

    Raises
    ------
    CandleError
        If no row stays.
    """
    step = parse_interval(interval)
    reasons = _row_problems(rows, step)
    if drop_placeholders:
        reasons[PLACEHOLDERS] = _placeholders(rows)
    going = np.zeros(len(rows), dtype=bool)
    dropped: dict[str, int] = {}
    for kind, mask in reasons.items():
        dropped[kind] = int((mask & ~going).sum())
        going |= mask
    kept = rows.take(~going)
    order = _last_of_each(kept)
    dropped["repeats of an open time"] = len(kept) - len(order)
    if not len(order):
        raise candle_error(rows.source, f"no row is a {interval} candle, so none is left; give its own interval")
    return kept.take(order), {kind: count for kind, count in dropped.items() if count}


def _row_problems(rows: Rows, step: int) -> dict[str, BoolArray]:
    """Rows that are wrong by themselves."""
    values, opened = rows.values, rows.open_us
    known = values.copy()
    known[:, AMOUNT] = np.where(np.isnan(known[:, AMOUNT]), 0.0, known[:, AMOUNT])  # it can be estimated
    prices = values[:, : CLOSE + 1]
    with np.errstate(invalid="ignore", over="ignore"):
        worth = values[:, VOLUME] * prices.mean(axis=1)
        low, high = prices.min(axis=1), prices.max(axis=1)
        return {
            "times outside 1970 .. 2200": (opened < EARLIEST_MS * US) | (opened >= LATEST_MS * US),
            f"open times off the {name_interval(step)} grid": opened % (step * US) != 0,
            "close times before the open time": (rows.close_us != UNKNOWN) & (rows.close_us < opened),
            "values that are missing or infinite": ~np.isfinite(known).all(axis=1),
            "prices that are not above 0": (prices <= 0).any(axis=1),
            "negative volumes or amounts": (values[:, [VOLUME, AMOUNT]] < 0).any(axis=1),
            "prices outside low .. high": (low < values[:, LOW]) | (high > values[:, HIGH]),
            "volumes whose worth overflows": np.isnan(values[:, AMOUNT])
            & np.isfinite(values[:, VOLUME])
            & ~np.isfinite(worth),
        }


def _order_problems(rows: Rows) -> dict[str, BoolArray]:
    """Rows that are wrong beside others."""
    order = np.argsort(rows.open_us, kind="stable")
    ordered = rows.open_us[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    same = same_rows(rows, order[again], rows, order[again - 1])
    repeats, conflicts = np.zeros((2, len(rows)), dtype=bool)
    repeats[order[again[same]]] = True
    conflicts[order[again[~same]]] = True
    behind = np.zeros(len(rows), dtype=bool)
    behind[1:] = rows.open_us[1:] < np.maximum.accumulate(rows.open_us)[:-1]
    return {
        "rows that repeat an open time with equal values": repeats,
        "rows that repeat an open time with other values": conflicts,
        "rows that come after a later one": behind,
    }


def _repeated_months(rows: Rows, step: int) -> list[Finding]:
    """Calendar months of which every open time, of at least 28 days' worth of them, is there more than once."""
    plausible = (rows.open_us >= EARLIEST_MS * US) & (rows.open_us < LATEST_MS * US)
    times, counts = np.unique(rows.open_ms[plausible], return_counts=True)
    months, start, sizes = np.unique(
        times.astype("datetime64[ms]").astype("datetime64[M]"), return_index=True, return_counts=True
    )
    enough = _DAYS_OF_MONTH * 86_400_000 // step // 2  # outages may have taken up to half of a month
    names = [
        str(month)
        for month, at, size in zip(months, start, sizes, strict=True)
        if size >= enough and counts[at : at + size].min() > 1
    ]
    return [Finding("months that are there twice", len(names), names[0], True)] if names else []


def _notes(rows: Rows, step: int) -> dict[str, BoolArray]:
    known = (rows.close_us != UNKNOWN) & (rows.close_us >= rows.open_us)
    # The last moment of a candle, in the archive's two units: a millisecond or a microsecond before the next.
    full = (rows.close_us - rows.open_us >= step * US - US) & (rows.close_us - rows.open_us < step * US)
    return {
        PLACEHOLDERS: _placeholders(rows),
        "candles that do not last as long as their interval": known & ~full,
        "amounts missing, to be estimated from volume and price": np.isnan(rows.values[:, AMOUNT]),
    }


def _placeholders(rows: Rows) -> BoolArray:
    prices = rows.values[:, OPEN : CLOSE + 1]
    return np.asarray((rows.values[:, VOLUME] == 0) & (prices == prices[:, :1]).all(axis=1))


def _usable(rows: Rows, step: int) -> IntArray:
    """Indices of the rows that a repair keeps, by time."""
    good = np.flatnonzero(~np.any(list(_row_problems(rows, step).values()), axis=0))
    return good[_last_of_each(rows.take(good))]


def _last_of_each(rows: Rows) -> IntArray:
    """Indices by open time; of equal ones the last."""
    order = np.argsort(rows.open_us, kind="stable")
    ordered = rows.open_us[order]
    last = np.append(ordered[1:] != ordered[:-1], True) if len(order) else np.zeros(0, dtype=bool)
    return np.asarray(order[last])


def _finding(kind: str, mask: BoolArray, rows: Rows, *, problem: bool) -> Finding:
    row = int(np.argmax(mask))
    opened = int(rows.open_us[row])
    plausible = EARLIEST_MS * US <= opened < LATEST_MS * US
    when = name_time(opened // US) if plausible else f"{opened} us"
    return Finding(kind, int(mask.sum()), f"row {row}, {when}", problem)
