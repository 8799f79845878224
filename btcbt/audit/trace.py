"""Observations of every stage at one audited origin, and the comparison of two sets of observations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btcbt.audit.components import Components, forecast_paths
from btcbt.audit.findings import LOOK_AHEAD, Finding
from btcbt.audit.histories import PROBES, History, windows_at
from btcbt.audit.stored_paths import StoredPaths
from btcbt.config import RunConfig, time_text
from btcbt.forecasters import Forecaster
from btcbt.portfolio import Simulation, fill_times
from btcbt.records import CHANNELS, Forecast, ForecastBatch, Holding, IntArray, Window
from btcbt.walkforward.decisions import decide_all, decide_from
from btcbt.walkforward.refits import Refitter
from btcbt.walkforward.stages import Stages, running
from btcbt.walkforward.traders import Trader

PAST = ("candles", "windows")
"""Stages before the first forecast."""
DRAWN = "target from a drawn holding"
_PATH_AXES = ("path", "step")


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The values of one field of one component, at times up to the audited origin.

    Attributes
    ----------
    stage, component, field : str
        As in `Finding`.
    times : int64 (n,)
        When each row was known, decided or executed, ms UTC.
    values : array (n, ...)
        The values.
    axes : tuple of str
        Names of the axes after the first; indices of an axis ``channel`` are shown by channel name.
    needs : tuple of str
        Components that this one depends on; where they differ, it is not compared.
    error : str
        The error that was raised instead, if any.
    """

    stage: str
    component: str
    field: str
    times: IntArray
    values: NDArray[Any]
    axes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    error: str = ""


def observe_past(history: History) -> list[Observation]:
    """Candles and windows up to the audited origin."""
    return [*_candles(history), *_windows(history)]


def newest(observations: Iterable[Observation], rows: int) -> list[Observation]:
    """Keep only the newest rows of candles, so that little is sent between processes."""
    return [
        replace(one, times=one.times[-rows:], values=one.values[-rows:]) if one.stage == "candles" else one
        for one in observations
    ]


def observe(
    history: History,
    config: RunConfig,
    stages: Stages,
    components: Components,
    stored_paths: StoredPaths,
    *,
    traders: Components | None = None,
    strict: bool = False,
) -> list[Observation]:
    """Run all later stages up to the audited origin.

    Forecasters are taken from `components`, strategies from `traders` (`components` if left out). An error of the
    user's code becomes an observation, since the same code did not fail on the true history; with `strict`, which is
    meant for the true history, it is raised.
    """
    point = history.point
    windows = windows_at(history.windows, point.forecast_origins)
    if len(windows) < len(point.forecast_origins):  # a missing window is reported by `observe_past`
        return []
    run = partial(attempt, history=history, strict=strict)
    forecasters = components.forecasters(history.candles, point.origin)
    found = []
    for name, refitter in components.refitters.items():
        found += run("refit", name, partial(_refits, name, refitter, history))
    for name, forecaster in forecasters.items():
        made = run("forecast", name, partial(_forecast, name, forecaster, history, strict))
        base = tuple(other for other, one in forecasters.items() if one is forecaster.base)
        found += [replace(one, needs=base) for one in made]
    paths = newest_paths(found, len(windows))
    stored = stored_paths.paths(point.origin, forecasters)
    decision_windows = windows_at(history.windows, point.decision_origins)
    decided = []
    for trader in (traders or components).traders(history.candles, tuple(forecasters)):
        if trader.forecaster is None or trader.forecaster in paths:
            sampled = decision_paths(trader, stored, paths, config.windows.horizon, len(point.decision_origins))
            decided += run("strategy", trader.name, partial(decide, trader, decision_windows, sampled, point.holdings))
    targets = [one for one in decided if one.field == "target"]
    return [*found, *decided, *run("portfolio", "", partial(_accounts, history, config, stages, targets))]


def newest_paths(observations: Iterable[Observation], count: int) -> dict[str, NDArray[Any]]:
    """The last `count` paths of each forecaster; of one that learns online, its own, which are observed last."""
    return {one.component: one.values[-count:] for one in observations if one.field == "paths"}


def decision_paths(
    trader: Trader,
    stored: Mapping[str, NDArray[Any]],
    newest: Mapping[str, NDArray[Any]],
    horizon: int,
    count: int,
) -> NDArray[Any]:
    """Paths (count, S, H, 6) at the decision origins: stored ones, and at the end those made on this history."""
    if trader.forecaster is None:
        return np.empty((count, 0, horizon, len(CHANNELS)), dtype=np.float32)
    paths = np.array(stored[trader.forecaster])
    last = newest[trader.forecaster][-count:]
    paths[-len(last) :] = last
    return paths


def attempt(
    stage: str, component: str, work: Callable[[], list[Observation]], *, history: History, strict: bool
) -> list[Observation]:
    """Run one component of a stage; an error becomes an observation, unless `strict`."""
    try:
        with running(stage, component):
            return work()
    except Exception as error:
        if strict:
            raise
        text = " ".join(f"raised {type(error).__name__}: {error}".split())[:300]
        return [Observation(stage, component, "", history.point.forecast_origins, np.empty(0), error=text)]


def compare(
    truth: Sequence[Observation],
    other: Sequence[Observation],
    origin: int,
    change: str,
    objects: str,
    kind: str = LOOK_AHEAD,
    left_out: Iterable[str] = (),
) -> Iterator[Finding | str]:
    """Compare two sets of observations bit for bit.

    Differences are findings of `kind`. The components `left_out`, and those that depend on them, are not compared.

    Yields
    ------
    Finding or str
        A finding for each field that differs; the stage's name for each that is equal. Components that depend on a
        component that differs are not compared.
    """
    observed = {(o.stage, o.component, o.field): o for o in other}
    errors = {(o.stage, o.component): o for o in other if o.error}
    tainted = set(left_out)
    for expected in truth:
        if tainted & {*PAST, *expected.needs, _forecaster(expected)} or expected.component in left_out:
            tainted.add(expected.component)
            continue
        got = observed.get((expected.stage, expected.component, expected.field))
        for stage, component in (
            (expected.stage, expected.component),
            (expected.stage, ""),
            ("forecast", expected.component),
        ):
            got = got or errors.get((stage, component))
        found = difference(expected, got)
        if found is None:
            yield expected.stage
            continue
        tainted.add(expected.component)
        time, size, field, detail = found
        stage = expected.stage if got is None or not got.error else got.stage
        yield Finding(stage, expected.component, field, origin, time, change, objects, size, detail, kind)


def difference(expected: Observation, got: Observation | None) -> tuple[int, float, str, str] | None:
    """Time, size, field and position of the largest difference; None if every bit is equal."""
    last = int(expected.times[-1]) if len(expected.times) else 0
    if got is None:
        return last, float("inf"), expected.field, "is missing"
    if got.error:
        return last, float("inf"), expected.field, got.error
    if not np.array_equal(expected.times, got.times):
        gone = np.setxor1d(expected.times, got.times)
        when = int(gone[0]) if len(gone) else last
        kind = "is missing" if when in expected.times else "is new"
        return when, float(len(gone)), f"{expected.field}.times", f"{time_text(when)} {kind}, {len(gone)} in all"
    a, b = expected.values, got.values
    if a.shape != b.shape or a.dtype != b.dtype:
        return last, float("inf"), expected.field, f"{a.dtype} {a.shape} became {b.dtype} {b.shape}"
    if a.tobytes() == b.tobytes():
        return None
    return _largest(expected, b)


def _largest(expected: Observation, b: NDArray[Any]) -> tuple[int, float, str, str]:
    a = expected.values
    if a.dtype.kind not in "fiu":
        at: tuple[Any, ...] = tuple(axis[0] for axis in np.nonzero(a != b)) or (0,) * a.ndim
        return int(expected.times[at[0]]), float("inf"), expected.field, f"{a[at]} became {b[at]}"
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(a.astype(np.float64) - b.astype(np.float64))
    size = np.where(np.isnan(size), np.where(np.isnan(a) & np.isnan(b), 0.0, np.inf), size)
    at = np.unravel_index(int(np.argmax(size)), size.shape)
    field, position = expected.field, []
    for name, index in zip(expected.axes, at[1:], strict=True):
        if name == "channel":
            field = f"{field}.{CHANNELS[index]}" if field != "values" else CHANNELS[index]
        else:
            position.append(f"{name} {index}")
    count = f"{np.count_nonzero(size):,} of {size.size:,} values"
    detail = f"{', '.join([*position, '']) if position else ''}{a[at]:.9g} became {b[at]:.9g}; {count} differ"
    return int(expected.times[at[0]]), float(size[at]), field, detail


def _forecaster(observation: Observation) -> str:
    """The forecaster whose later stages depend on an observation; empty if there is none."""
    return observation.component if observation.stage in ("scaling", "forecast", "calibration") else ""


def _candles(history: History) -> Iterator[Observation]:
    """All candles known at the origin, not only those of its window."""
    closes = history.candles.open_time + history.candles.interval_ms
    past = closes <= history.point.origin
    count = int(np.count_nonzero(past))
    # Candles are in order of time, so a view is enough.
    known: slice | NDArray[np.bool_] = past if past[count:].any() else slice(count)
    yield Observation("candles", "candles", "values", closes[known], history.candles.values[known], ("channel",))


def _windows(history: History) -> Iterator[Observation]:
    windows = windows_at(history.windows, history.point.forecast_origins)
    origins = history.windows.origins[history.windows.origins <= history.point.origin]
    yield Observation("windows", "windows", "origins", origins, np.zeros((len(origins), 0)), ("nothing",))
    if len(windows) == len(history.point.forecast_origins):
        times = np.stack([window.open_time for window in windows])
        values = np.stack([window.values for window in windows])
        yield Observation("windows", "windows", "open_time", history.point.forecast_origins, times, ("candle",))
        yield Observation("windows", "windows", "values", history.point.forecast_origins, values, ("candle", "channel"))


def _refits(name: str, refitter: Refitter, history: History) -> list[Observation]:
    """The keys of the refits that serve the calibration origins: digests of their inputs, as bytes."""
    numbers = sorted({refitter.number(origin) for origin in history.point.calibration_origins.tolist()})
    keys = [np.frombuffer(bytes.fromhex(refitter.key(number)), dtype=np.uint8) for number in numbers]
    starts = np.array([refitter.periods[number].start for number in numbers], dtype=np.int64)
    return [Observation("refit", name, "candles", starts, np.stack(keys), ("byte of the digest",))]


def _scaling(name: str, forecaster: Forecaster, windows: Sequence[Window]) -> Iterable[Observation]:
    """What windows are scaled with, if the forecaster reports it."""
    scaling = forecaster.scaling(windows)
    if scaling is None:
        return ()
    values = np.asarray(scaling)
    axes = tuple(f"axis {i}" for i in range(1, values.ndim))
    origins = np.array([window.origin for window in windows], dtype=np.int64)
    return (Observation("scaling", name, "scaling", origins, values, axes),)


def _forecast(name: str, forecaster: Forecaster, history: History, strict: bool) -> list[Observation]:
    """Scaling if reported, and paths; for a forecaster with a base, the paths of the base and its own."""
    axes, learns = (*_PATH_AXES, "channel"), forecaster.base is not None
    base = forecaster.base or forecaster
    origins = history.point.calibration_origins if learns else history.point.forecast_origins
    windows = windows_at(history.windows.with_context(forecaster.context), origins)
    asked = [*windows, *_later_windows(windows[-1], history)]
    paths = forecast_paths(base, asked)
    found = [
        *_scaling(name, base, windows),
        Observation("forecast", name, "paths", origins, paths[: len(windows)], axes),
    ]
    if learns:
        batch = ForecastBatch(np.array([window.origin for window in asked], dtype=np.int64), paths)
        work = partial(_calibrate, name, forecaster, asked, batch, origins)
        found += attempt("calibration", name, work, history=history, strict=strict)
    return found


def _calibrate(
    name: str, forecaster: Forecaster, windows: Sequence[Window], batch: ForecastBatch, origins: IntArray
) -> list[Observation]:
    paths = np.concatenate([one.paths for one in forecaster.follow(windows, [batch])])
    return [Observation("calibration", name, "paths", origins, paths[: len(origins)], (*_PATH_AXES, "channel"))]


def _later_windows(last: Window, history: History) -> Iterator[Window]:
    """Later windows for the same call; where this history has no candles for them, the last candle is repeated.

    So every call has the same number of windows at the same origins: the last digits of a matrix product may depend on
    the batch size.
    """
    for origin in history.point.later_origins.tolist():
        there = windows_at(history.windows.with_context(len(last.values)), np.array([origin]))
        if there and np.isfinite(there[0].values).all():
            yield there[0]
            continue
        open_time = last.open_time + (origin - last.origin)
        rows = (origin - last.origin) // last.interval_ms + np.arange(len(last.values))
        yield Window(open_time, last.values[np.minimum(rows, len(last.values) - 1)], last.interval_ms)


def decide(
    trader: Trader, windows: Sequence[Window], paths: NDArray[Any], holdings: Sequence[Holding]
) -> list[Observation]:
    """Decide at every given window in order, starting flat, and again at each with a drawn holding."""
    asked = [Forecast(window, one) for window, one in zip(windows, paths, strict=True)]
    origins = np.array([forecast.origin for forecast in asked], dtype=np.int64)
    needs = () if trader.forecaster is None else (trader.forecaster,)
    targets = decide_all(trader.strategy, asked, name=trader.name)
    more = len(holdings) - len(asked)
    again = [*asked, *asked[-1:] * more]
    drawn = decide_from(trader.strategy, again, holdings, trader.name)
    return [
        Observation("strategy", trader.name, "target", origins, targets, (), needs),
        Observation("strategy", trader.name, DRAWN, np.append(origins, [origins[-1]] * more), drawn, (), needs),
    ]


def _accounts(history: History, config: RunConfig, stages: Stages, decided: Sequence[Observation]) -> list[Observation]:
    """Accounts up to the origin, without the fill of the last decision, which happens in the candle after it."""
    account, candles = history.point.account_origins, history.candles
    if len(account) < 2:
        return []
    targets = np.full((len(account), len(PROBES) + len(decided)), np.nan)
    targets[:, : len(PROBES)] = history.point.probes
    for column, one in enumerate(decided, start=len(PROBES)):
        known = one.values[-len(account) :]
        targets[-len(known) :, column] = known
    names = [*PROBES, *(one.component for one in decided)]
    # With or without the last decision, an account runs for one stride after the decision before it.
    until = int(account[-2] + np.diff(account).min())
    if candles.open_time[-1] < history.point.origin:
        account, targets = account[:-1], targets[:-1]
    elif not np.isfinite(candles.values[candles.open_time >= history.point.origin]).all():
        targets[-1] = np.nan  # an account cannot trade at a NaN price
    done = stages.accounts(candles, account, targets, names, config.portfolio)
    return [one for column, name in enumerate(names) for one in _account(done, column, name, until)]


def _account(done: Simulation, column: int, name: str, until: int) -> Iterator[Observation]:
    closes = done.open_time + done.interval_ms
    known = closes <= until
    yield Observation("portfolio", name, "equity", closes[known], done.equity[known, column], (), (name,))
    orders = done.orders[done.orders["strategy"] == name]
    times = fill_times(orders)
    before = times < until
    for field in ("price", "size", "fee"):
        values = orders[field].to_numpy(dtype=np.float64)[before]
        yield Observation("portfolio", name, f"orders.{field}", times[before], values, (), (name,))
