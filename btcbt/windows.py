"""The only splitter: where forecasts are made, what each may see, and how contaminated each one is.

An origin is eligible if the candles up to it that are needed are all present: T for forecasts, which are compared at
the same origins, and fewer for a strategy that uses no forecast (`Windows.needing`). Eligibility depends on those
candles alone: nothing after an origin can affect it, since that would select origins by their future.

Candles that fill a gap count as present inside a window. No origin ends on one, since a gap is known to be short only
once it is over, and no outcome that has one is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import overload

import numpy as np
from numpy.typing import NDArray

from btcbt.config import RefitConfig, WindowsConfig, interval_ms, time_ms, time_text
from btcbt.errors import CandleError
from btcbt.records import Candles, DataRange, FloatArray, IntArray, Window

NO_CANDLE = "candle missing at the origin"
GAP = "gap in the window"
SHORT = "history too short"
_CHOSEN_ON = ("selection", "looked_at")
"""Uses of data that weights were not fitted on, but by which something was chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows(Sequence[Window]):
    """The eligible origins of a walk-forward, in order of time: a sequence of `Window`.

    Attributes
    ----------
    candles : Candles
        The whole history; windows are read-only views into it.
    context, horizon : int
        T and H, in candles.
    origins : int64 (M,)
        Eligible origins, ms UTC, increasing.
    last : int64 (M,)
        Row in `candles` of the newest candle that each origin may see.
    scored : bool (M,)
        Whether the H candles after the origin are all present, none of them filled. An origin without its outcome is
        forecast and traded, but left out of the forecast errors.
    skipped : mapping of str to int
        Origins of the range that are not eligible, counted by reason.
    """

    candles: Candles
    context: int
    horizon: int
    origins: IntArray
    last: IntArray
    scored: NDArray[np.bool_]
    skipped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.origins)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        stop = int(self.last[index]) + 1
        rows = slice(stop - self.context, stop)
        return Window(self.candles.open_time[rows], self.candles.values[rows], self.candles.interval_ms)

    def with_context(self, context: int) -> Windows:
        """The same origins with windows of another length."""
        if len(self) and context > int(self.last[0]) + 1:
            raise ValueError(f"the first origin has {int(self.last[0]) + 1} candles before it, not {context}")
        return replace(self, context=context)

    def needing(self, context: int) -> Windows:
        """The origins with at least `context` contiguous candles before them, with windows of these."""
        enough = self.last - _run_starts(self.candles)[self.last] + 1 >= context
        origins, last, scored = self.origins[enough], self.last[enough], self.scored[enough]
        return replace(self, context=context, origins=origins, last=last, scored=scored)

    def span(self) -> tuple[int, int]:
        """From the open of the first context's first candle to the end of the last outcome, ms UTC."""
        first = int(self.candles.open_time[int(self.last[0]) + 1 - self.context])
        return first, int(self.origins[-1]) + self.horizon * self.candles.interval_ms

    def contexts(self, index: slice | IntArray) -> FloatArray:
        """The windows of some origins as one array, (B, T, 6). A copy: ask for one batch at a time."""
        rows: IntArray = self.last[index][:, None] + np.arange(1 - self.context, 1)
        return self.candles.values[rows]

    def outcomes(self, index: slice | IntArray) -> FloatArray:
        """The H candles after some origins, (B, H, 6): for metrics, and for calibration once they have closed.

        Raises
        ------
        ValueError
            If the outcome of an origin is incomplete (see `scored`).
        """
        if not self.scored[index].all():
            raise ValueError("an origin's outcome is incomplete; select by 'scored' first")
        rows: IntArray = self.last[index][:, None] + np.arange(1, self.horizon + 1)
        return self.candles.values[rows]


def make_windows(candles: Candles, config: WindowsConfig, *, context: int | None = None) -> Windows:
    """Find the eligible origins.

    Parameters
    ----------
    candles : Candles
        The history.
    config : WindowsConfig
        The range, the stride, T and H.
    context : int, optional
        Candles that an origin needs where some forecaster uses more than T; windows still hold T.

    The requested origins are the candle closes in [start, end) that are multiples of ``stride`` intervals
    since the epoch, so that a longer range keeps the origins of a shorter one.

    Raises
    ------
    CandleError
        If the range exceeds the candles, or contains no eligible origin.
    """
    interval = candles.interval_ms
    _require_inside(candles, time_ms(config.start), time_ms(config.end))
    step = config.stride * interval
    grid = np.arange(-(-time_ms(config.start) // step) * step, time_ms(config.end), step, dtype=np.int64)
    last, present = _rows_closing_at(candles, grid)
    filled = np.zeros(len(candles), dtype=np.bool_) if candles.filled is None else candles.filled
    present &= ~filled[last]
    run_start = _run_starts(candles)
    known = np.arange(len(candles)) - run_start + 1  # contiguous candles up to and including each row
    needed = max(config.context, context or 0)
    enough = present & (known[last] >= needed)
    skipped = {
        NO_CANDLE: int(np.count_nonzero(~present)),
        GAP: int(np.count_nonzero(present & ~enough & (run_start[last] > 0))),
        SHORT: int(np.count_nonzero(present & ~enough & (run_start[last] == 0))),
    }
    skipped = {reason: count for reason, count in skipped.items() if count}
    if not enough.any():
        why = (
            ", ".join(f"{reason}: {count:,}" for reason, count in skipped.items())
            or "the range contains no candle close"
        )
        raise CandleError(
            f"candles {candles.source}: no origin in windows.start {time_text(config.start)} .. windows.end "
            f"{time_text(config.end)} has {needed} contiguous candles before it ({why}); "
            "shorten windows.context or move the range"
        )
    last = last[enough]
    ends = np.minimum(last + config.horizon, len(candles) - 1)
    scored = (last + config.horizon < len(candles)) & (run_start[ends] == run_start[last])
    scored &= np.cumsum(filled)[ends] == np.cumsum(filled)[last]
    return Windows(
        candles=_read_only(candles),
        context=config.context,
        horizon=config.horizon,
        origins=grid[enough],
        last=last,
        scored=scored,
        skipped=MappingProxyType(skipped),
    )


def decision_windows(candles: Candles, config: WindowsConfig, first: int) -> Windows:
    """Every origin from `first` on (ms UTC) at which a candle closes, whatever is missing before it.

    Its windows have one candle; `Windows.needing` selects the origins with more. Accounts begin together, at the first
    origin with a forecast.
    """
    windows = make_windows(candles, config.model_copy(update={"context": 1}))
    rows = slice(int(np.searchsorted(windows.origins, first)), None)
    return replace(windows, origins=windows.origins[rows], last=windows.last[rows], scored=windows.scored[rows])


def contamination(origins: IntArray, ranges: Sequence[DataRange] | None) -> NDArray[np.str_]:
    """Label each origin by the data that its forecaster was fitted or selected on.

    ===============  ==================================================================================
    label            meaning
    ===============  ==================================================================================
    ``clean``        every candle used for fitting or selection had closed by the origin
    ``selected-on``  weights were fitted on closed candles only, but something (checkpoint, recipe,
                     threshold) was chosen on later ones, or with scores on them in sight
    ``seen``         weights were fitted on a candle at or after the origin
    ``unknown``      neither of the two above, and some range is undeclared
    ===============  ==================================================================================

    An origin *before* a training range is ``seen`` although its own hours are outside it: weights fitted on 2024
    know what followed 2021. A range includes every candle that the fit used, targets included, so an origin at
    its end is clean without a further embargo.

    Parameters
    ----------
    origins : int64 (M,)
        ms UTC.
    ranges : sequence of DataRange, or None
        Empty if nothing was fitted; None if unknown.

    Returns
    -------
    str (M,)
    """
    known = [r for r in ranges or () if r.use != "unknown"]
    labels = np.full(len(origins), "clean", dtype="U11")
    if ranges is None or len(known) < len(ranges):
        labels[:] = "unknown"
    for label in ("selected-on", "seen"):  # the worse label overwrites the other
        ends = [r.end for r in known if (r.use in _CHOSEN_ON) == (label == "selected-on")]
        if ends:
            labels[np.asarray(origins) < max(ends)] = label
    return labels


@dataclass(frozen=True, slots=True, eq=False)
class RefitPeriod:
    """The origins that one refit forecasts, and the candles that it may be fitted on.

    Attributes
    ----------
    start, end : int
        It forecasts the origins in [start, end), ms UTC.
    train, select : tuple of int
        Open times of the candles to fit and to select on, [start, end) each; both end by `start`.
    candles : Candles
        These candles and those in between, and no others: a read-only view.
    """

    start: int
    end: int
    train: tuple[int, int]
    select: tuple[int, int]
    candles: Candles


def plan_refits(candles: Candles, config: WindowsConfig, refit: RefitConfig) -> tuple[RefitPeriod, ...]:
    """The periods of a refit schedule, from the first origin of the range: a later end keeps the earlier periods.

    Periods follow from the clock alone; `fit_windows` checks whether there is enough to fit on.

    Parameters
    ----------
    candles : Candles
        The history.
    config : WindowsConfig
        The range, T and H.
    refit : RefitConfig
        The schedule.
    """
    candles = candles.observed  # a filled gap is no outcome to fit on
    step = config.stride * candles.interval_ms
    first, stop = -(-time_ms(config.start) // step) * step, time_ms(config.end)
    every = stop - first if refit.every is None else interval_ms(refit.every)
    embargo = embargo_ms(config, refit, candles.interval_ms)
    periods = []
    for start in range(first, stop, every):
        select_end = start - embargo
        select_start = select_end - interval_ms(refit.select_window)
        train_end = select_start - embargo
        train_start = train_end - interval_ms(refit.train_window)
        rows = slice(*np.searchsorted(candles.open_time, (train_start, select_end)).tolist())
        part = Candles(
            candles.open_time[rows], candles.values[rows], candles.interval_ms, candles.source, candles.sha256
        )
        span, selection = (train_start, train_end), (select_start, select_end)
        periods.append(RefitPeriod(start, start + every, span, selection, _read_only(part)))
    return tuple(periods)


def embargo_ms(config: WindowsConfig, refit: RefitConfig, candle_ms: int) -> int:
    """Time between a refit's training and selection ranges, and from the latter to its first origin, ms."""
    return (config.context + config.horizon) * candle_ms if refit.embargo is None else interval_ms(refit.embargo)


def fit_windows(period: RefitPeriod, length: int) -> tuple[int, int]:
    """Number of windows of `length` contiguous candles in the training and in the selection range of a period.

    Raises
    ------
    CandleError
        If either range has none, or the history begins after the training range does.
    """
    candles = period.candles
    when = f"candles {candles.source}: the refit for {time_text(period.start)}"
    if not len(candles) or candles.open_time[0] > period.train[0]:
        begins = time_text(int(candles.open_time[0])) if len(candles) else "later"
        raise CandleError(
            f"{when} needs candles from {time_text(period.train[0])} on, but the history begins {begins}; "
            "shorten refit.train_window, or move windows.start"
        )
    last = np.arange(length - 1, len(candles))
    opens, closes = candles.open_time[last - (length - 1)], candles.open_time[last]
    whole = closes - opens == (length - 1) * candles.interval_ms
    counts = [
        int(np.count_nonzero(whole & (opens >= start) & (closes < end))) for start, end in (period.train, period.select)
    ]
    for count, name, (start, end) in zip(
        counts, ("train_window", "select_window"), (period.train, period.select), strict=True
    ):
        if not count:
            raise CandleError(
                f"{when} has no {length} contiguous candles in {time_text(start)} .. {time_text(end)}; "
                f"lengthen refit.{name}"
            )
    return counts[0], counts[1]


def _require_inside(candles: Candles, start: int, end: int) -> None:
    if not len(candles):
        raise CandleError(f"candles {candles.source}: no candles; give a file with at least one candle")
    first, close = int(candles.open_time[0]), int(candles.open_time[-1]) + candles.interval_ms
    # The last origin may be the last close itself: a forecast of candles that are still to come.
    if start < first or end > close + candles.interval_ms:
        raise CandleError(
            f"candles {candles.source}: history spans {time_text(first)} .. {time_text(close)}, but "
            f"windows.start .. windows.end is {time_text(start)} .. {time_text(end)}; choose a range inside it"
        )


def _rows_closing_at(candles: Candles, origins: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """Row of the candle that closes at each origin, and whether it exists."""
    opens = origins - candles.interval_ms
    rows = np.minimum(np.searchsorted(candles.open_time, opens), len(candles) - 1)
    return rows, candles.open_time[rows] == opens


def _run_starts(candles: Candles) -> IntArray:
    """First row of the contiguous run that each row belongs to, (N,)."""
    rows = np.arange(len(candles), dtype=np.int64)
    breaks = np.concatenate([[True], np.diff(candles.open_time) != candles.interval_ms])
    return np.maximum.accumulate(np.where(breaks, rows, 0))


def _read_only(candles: Candles) -> Candles:
    """The same history behind views that cannot be written through."""
    open_time, values = candles.open_time.view(), np.ascontiguousarray(candles.values).view()
    open_time.flags.writeable = values.flags.writeable = False
    return replace(candles, open_time=open_time, values=values)
