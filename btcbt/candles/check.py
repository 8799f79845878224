"""Find issues in a candle history, and repair it on request.

**Problems** break the contract of `Candles` and must be removed before a history can be used. **Notes** do not: a gap,
the placeholder of an outage or a shortened candle is what the exchange published, and dropping it is the user's
decision. Nothing here fills or invents a candle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from btcbt.candles.rows import UNKNOWN, US, Rows, same_rows
from btcbt.candles.schema import EARLIEST_MS, LATEST_MS, candle_error, name_interval, name_time, parse_interval
from btcbt.records import AMOUNT, CLOSE, DAY_MS, HIGH, LOW, OPEN, VOLUME, IntArray

BoolArray = NDArray[np.bool_]

PLACEHOLDERS = "placeholders without volume"
_DAYS_OF_MONTH = 28  # a month that is repeated in full has at least this many days


@dataclass(frozen=True, slots=True)
class Issue:
    """One kind of irregularity in a history.

    Attributes
    ----------
    kind : str
        Description of the issue.
    count : int
        Number of affected rows (of months, for repeated months).
    example : str
        The first affected row.
    problem : bool
        Whether it breaks the contract; it is a note otherwise.
    """

    kind: str
    count: int
    example: str
    problem: bool


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """Result of `inspect_rows`.

    Attributes
    ----------
    source : str
        The history's name.
    interval_ms : int
        Length of a candle.
    rows, usable : int
        Rows in the source, and those among them without problems (repeats counted once).
    first_ms, last_ms : int
        Open times of the first and last usable candle, ms UTC; 0 if there is none.
    gaps : int64 (G, 2)
        Open time of the first missing candle (ms UTC) and number of missing candles, over the usable rows.
    issues : tuple of Issue
        Problems first.
    """

    source: str
    interval_ms: int
    rows: int
    usable: int
    first_ms: int
    last_ms: int
    gaps: IntArray
    issues: tuple[Issue, ...]

    @property
    def problems(self) -> tuple[Issue, ...]:
        """Issues that break the contract."""
        return tuple(issue for issue in self.issues if issue.problem)

    @property
    def notes(self) -> tuple[Issue, ...]:
        """Issues that do not."""
        return tuple(issue for issue in self.issues if not issue.problem)

    @property
    def missing(self) -> int:
        """Candles missing between the first and the last."""
        return int(self.gaps[:, 1].sum())

    @property
    def coverage(self) -> float:
        """Share of the candles between the first and the last that are present, in [0, 1]."""
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
        for issue in self.issues:
            label = "problem" if issue.problem else "note"
            text.append(f"  {label}: {issue.kind}: {issue.count:,} (first: {issue.example})")
        if len(self.gaps):
            order = np.argsort(-self.gaps[:, 1], kind="stable")[:longest]
            shown = ", ".join(f"{name_time(self.gaps[i, 0])} x{self.gaps[i, 1]}" for i in order)
            text.append(
                f"  note: gaps: {len(self.gaps):,}, candles missing: {self.missing:,} (longest: {shown}); never filled"
            )
        return text


def inspect_rows(rows: Rows, interval: str) -> Inspection:
    """Find every issue of a source.

    Parameters
    ----------
    rows : Rows
        As read.
    interval : str
        The interval of its candles, such as ``1h``.

    Returns
    -------
    Inspection
        A row may count for several kinds.

    Raises
    ------
    CandleError
        If `interval` is unknown.
    """
    step = parse_interval(interval)
    problems = _row_problems(rows, step) | _order_problems(rows)
    found = [_issue(kind, mask, rows, problem=True) for kind, mask in problems.items() if mask.any()]
    found += _repeated_months(rows, step)
    found += [_issue(kind, mask, rows, problem=False) for kind, mask in _notes(rows, step).items() if mask.any()]
    good = rows.take(_usable(rows, step)).open_ms
    jumps = np.diff(good)
    before = np.flatnonzero(jumps > step)
    gaps = np.stack([good[before] + step, jumps[before] // step - 1], axis=1)
    first, last = (int(good[0]), int(good[-1])) if len(good) else (0, 0)
    return Inspection(rows.source, step, len(rows), len(good), first, last, gaps, tuple(found))


def repair_rows(rows: Rows, interval: str, *, drop_placeholders: bool = False) -> tuple[Rows, Mapping[str, int]]:
    """Drop rows that break the contract, sort the others, and keep the last of each repeated open time.

    Parameters
    ----------
    rows : Rows
        As read.
    interval : str
        The interval of its candles.
    drop_placeholders : bool
        Also drop candles without volume whose four prices are equal; the gap that they hid becomes visible.

    Returns
    -------
    rows : Rows
        The remaining rows; `to_candles` accepts them.
    dropped : mapping of str to int
        Number of dropped rows, by the first reason that applied.

    Raises
    ------
    CandleError
        If no row remains.
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
        raise candle_error(rows.source, f"no row is a valid {interval} candle; give the history's own interval")
    return kept.take(order), {kind: count for kind, count in dropped.items() if count}


def _row_problems(rows: Rows, step: int) -> dict[str, BoolArray]:
    """Rows with problems of their own."""
    values, opened = rows.values, rows.open_us
    known = values.copy()
    known[:, AMOUNT] = np.where(np.isnan(known[:, AMOUNT]), 0.0, known[:, AMOUNT])  # a missing amount is estimated
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
            "volumes whose value in quote units overflows": np.isnan(values[:, AMOUNT])
            & np.isfinite(values[:, VOLUME])
            & ~np.isfinite(worth),
        }


def _order_problems(rows: Rows) -> dict[str, BoolArray]:
    """Rows with problems relative to other rows."""
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


def _repeated_months(rows: Rows, step: int) -> list[Issue]:
    """Calendar months of which every open time appears more than once."""
    plausible = (rows.open_us >= EARLIEST_MS * US) & (rows.open_us < LATEST_MS * US)
    times, counts = np.unique(rows.open_ms[plausible], return_counts=True)
    months, start, sizes = np.unique(
        times.astype("datetime64[ms]").astype("datetime64[M]"), return_index=True, return_counts=True
    )
    enough = _DAYS_OF_MONTH * DAY_MS // step // 2  # outages may have removed up to half of a month
    names = [
        str(month)
        for month, at, size in zip(months, start, sizes, strict=True)
        if size >= enough and counts[at : at + size].min() > 1
    ]
    return [Issue("months that appear twice", len(names), names[0], True)] if names else []


def _notes(rows: Rows, step: int) -> dict[str, BoolArray]:
    known = (rows.close_us != UNKNOWN) & (rows.close_us >= rows.open_us)
    # A candle closes one unit of time before the next opens: a millisecond or a microsecond, as the archive has both.
    full = (rows.close_us - rows.open_us >= step * US - US) & (rows.close_us - rows.open_us < step * US)
    return {
        PLACEHOLDERS: _placeholders(rows),
        "candles shorter or longer than their interval": known & ~full,
        "amounts missing, to be estimated from volume and price": np.isnan(rows.values[:, AMOUNT]),
    }


def _placeholders(rows: Rows) -> BoolArray:
    prices = rows.values[:, OPEN : CLOSE + 1]
    return np.asarray((rows.values[:, VOLUME] == 0) & (prices == prices[:, :1]).all(axis=1))


def _usable(rows: Rows, step: int) -> IntArray:
    """Indices of the rows that a repair keeps, in order of time."""
    good = np.flatnonzero(~np.any(list(_row_problems(rows, step).values()), axis=0))
    return good[_last_of_each(rows.take(good))]


def _last_of_each(rows: Rows) -> IntArray:
    """Indices in order of open time, the last of equal ones."""
    order = np.argsort(rows.open_us, kind="stable")
    ordered = rows.open_us[order]
    last = np.append(ordered[1:] != ordered[:-1], True) if len(order) else np.zeros(0, dtype=bool)
    return np.asarray(order[last])


def _issue(kind: str, mask: BoolArray, rows: Rows, *, problem: bool) -> Issue:
    row = int(np.argmax(mask))
    opened = int(rows.open_us[row])
    plausible = EARLIEST_MS * US <= opened < LATEST_MS * US
    when = name_time(opened // US) if plausible else f"{opened} us"
    return Issue(kind, int(mask.sum()), f"row {row}, {when}", problem)
