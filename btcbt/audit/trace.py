"""What an experiment knew and did at one origin, stage by stage, and how two such records differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btcbt.audit.findings import LOOK_AHEAD, Finding
from btcbt.audit.participants import Participants, answer, fill_times
from btcbt.audit.scenes import PROBES, Scene, windows_at
from btcbt.audit.trail import Trails
from btcbt.config import RunConfig, time_text
from btcbt.forecasters import Forecaster
from btcbt.portfolio import Simulation
from btcbt.records import CHANNELS, Forecast, ForecastBatch, Holding, IntArray, Window
from btcbt.walkforward.decisions import decide_all, decide_from
from btcbt.walkforward.refits import Refitter
from btcbt.walkforward.stages import Stages, running
from btcbt.walkforward.traders import Trader

PAST = ("candles", "windows")
"""Stages before anything is forecast."""
DRAWN = "target from a drawn holding"
_PATH_AXES = ("path", "step")


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One field of one part, for moments up to the audited origin.

    Attributes
    ----------
    stage, component, field : str
        As in `Finding`.
    times : int64 (n,)
        When each row was known, decided or done, ms UTC.
    values : array (n, ...)
        What it was.
    axes : tuple of str
        Names of the axes after the first; one called ``channel`` is named by channel.
    needs : tuple of str
        Components from which this one follows; where they differ it is not judged.
    error : str
        What was raised instead.
    """

    stage: str
    component: str
    field: str
    times: IntArray
    values: NDArray[Any]
    axes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    error: str = ""


def observe_past(scene: Scene) -> list[Observation]:
    """What is known and where forecasts are made, up to the origin of the scene."""
    return [*_candles(scene), *_windows(scene)]


def newest(observations: Iterable[Observation], rows: int) -> list[Observation]:
    """The same with the last candles alone: what goes from process to process stays small."""
    return [
        replace(one, times=one.times[-rows:], values=one.values[-rows:]) if one.stage == "candles" else one
        for one in observations
    ]


def observe(
    scene: Scene,
    config: RunConfig,
    stages: Stages,
    participants: Participants,
    trails: Trails,
    *,
    traders: Participants | None = None,
    strict: bool = False,
) -> list[Observation]:
    """Run every later stage up to the origin of the scene.

    The forecasters are those of `participants`, the strategies those of `traders` (of `participants` if left out).

    What a part of the user's raises becomes an observation, for it did not raise on the true history; with
    `strict`, which is for that one, it goes on to the caller.
    """
    question = scene.question
    windows = windows_at(scene.windows, question.asked)
    if len(windows) < len(question.asked):  # one has gone: `observe_past` says so, and there is nothing to ask
        return []
    run = partial(attempt, scene=scene, strict=strict)
    forecasters = participants.forecasters(scene.candles, question.origin)
    found = []
    for name, refitter in participants.refitters.items():
        found += run("refit", name, partial(_refits, name, refitter, scene))
    for name, forecaster in forecasters.items():
        made = run("forecast", name, partial(_forecast, name, forecaster, scene, strict))
        base = tuple(other for other, one in forecasters.items() if one is forecaster.base)
        found += [replace(one, needs=base) for one in made]
    # Of a forecaster that learns, the later of its two observations counts.
    paths = {one.component: one.values[-len(windows) :] for one in found if one.field == "paths"}
    on_the_way = trails.paths(question.origin, forecasters)
    trail = windows_at(scene.windows, question.trail)
    decided = []
    for trader in (traders or participants).traders(scene.candles, tuple(forecasters)):
        if trader.forecaster is None or trader.forecaster in paths:
            sampled = _joined(trader, on_the_way, paths, config.windows.horizon, len(question.trail))
            decided += run("strategy", trader.name, partial(decide, trader, trail, sampled, question.holdings))
    targets = [one for one in decided if one.field == "target"]
    return [*found, *decided, *run("portfolio", "", partial(_accounts, scene, config, stages, targets))]


def _joined(
    trader: Trader,
    on_the_way: Mapping[str, NDArray[Any]],
    newest_paths: Mapping[str, NDArray[Any]],
    horizon: int,
    count: int,
) -> NDArray[Any]:
    """Paths (count, S, H, 6) of the trail: those on the way, and at its end those of the history at hand."""
    if trader.forecaster is None:
        return np.empty((count, 0, horizon, len(CHANNELS)), dtype=np.float32)
    paths = np.array(on_the_way[trader.forecaster])
    last = newest_paths[trader.forecaster][-count:]
    paths[-len(last) :] = last
    return paths


def attempt(
    stage: str, component: str, work: Callable[[], list[Observation]], *, scene: Scene, strict: bool
) -> list[Observation]:
    """Do a stage's work; what a part of the user's raises becomes an observation, unless `strict`."""
    try:
        with running(stage, component):
            return work()
    except Exception as error:
        if strict:
            raise
        text = " ".join(f"raised {type(error).__name__}: {error}".split())[:300]
        return [Observation(stage, component, "", scene.question.asked, np.empty(0), error=text)]


def compare(
    truth: Sequence[Observation],
    other: Sequence[Observation],
    origin: int,
    world: str,
    objects: str,
    kind: str = LOOK_AHEAD,
    left_out: Iterable[str] = (),
) -> Iterator[Finding | str]:
    """Compare two records bit for bit.

    What differs is a finding of `kind`. The components `left_out`, and what follows from them, are not judged.

    Yields
    ------
    Finding or str
        A finding for each field that differs, the stage's name for each that was compared and is equal. What
        follows from a part that differs already is not judged.
    """
    answers = {(o.stage, o.component, o.field): o for o in other}
    errors = {(o.stage, o.component): o for o in other if o.error}
    tainted = set(left_out)
    for expected in truth:
        if tainted & {*PAST, *expected.needs, _forecaster(expected)} or expected.component in left_out:
            tainted.add(expected.component)
            continue
        got = answers.get((expected.stage, expected.component, expected.field))
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
        yield Finding(stage, expected.component, field, origin, time, world, objects, size, detail, kind)


def difference(expected: Observation, got: Observation | None) -> tuple[int, float, str, str] | None:
    """Time, size, field and place of the largest difference; None if every bit is equal."""
    last = int(expected.times[-1]) if len(expected.times) else 0
    if got is None:
        return last, float("inf"), expected.field, "nothing was made of it"
    if got.error:
        return last, float("inf"), expected.field, got.error
    if not np.array_equal(expected.times, got.times):
        gone = np.setxor1d(expected.times, got.times)
        when = int(gone[0]) if len(gone) else last
        kind = "is gone" if when in expected.times else "has appeared"
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
    field, places = expected.field, []
    for name, index in zip(expected.axes, at[1:], strict=True):
        if name == "channel":
            field = f"{field}.{CHANNELS[index]}" if field != "values" else CHANNELS[index]
        else:
            places.append(f"{name} {index}")
    count = f"{np.count_nonzero(size):,} of {size.size:,} values"
    detail = f"{', '.join([*places, '']) if places else ''}{a[at]:.9g} became {b[at]:.9g}; {count} differ"
    return int(expected.times[at[0]]), float(size[at]), field, detail


def _forecaster(observation: Observation) -> str:
    """What a refit, a forecast and a scaling taint: later stages of the same forecaster."""
    return observation.component if observation.stage in ("scaling", "forecast", "calibration") else ""


def _candles(scene: Scene) -> Iterator[Observation]:
    """Everything that is known at the origin, not only what its window holds."""
    closes = scene.candles.open_time + scene.candles.interval_ms
    past = closes <= scene.question.origin
    count = int(np.count_nonzero(past))
    # In order of time, as candles are, a view is enough.
    known: slice | NDArray[np.bool_] = past if past[count:].any() else slice(count)
    yield Observation("candles", "candles", "values", closes[known], scene.candles.values[known], ("channel",))


def _windows(scene: Scene) -> Iterator[Observation]:
    windows = windows_at(scene.windows, scene.question.asked)
    origins = scene.windows.origins[scene.windows.origins <= scene.question.origin]
    yield Observation("windows", "windows", "origins", origins, np.zeros((len(origins), 0)), ("nothing",))
    if len(windows) == len(scene.question.asked):
        times = np.stack([window.open_time for window in windows])
        values = np.stack([window.values for window in windows])
        yield Observation("windows", "windows", "open_time", scene.question.asked, times, ("candle",))
        yield Observation("windows", "windows", "values", scene.question.asked, values, ("candle", "channel"))


def _refits(name: str, refitter: Refitter, scene: Scene) -> list[Observation]:
    """What the refits that serve the asked origins are made from: their keys, as bytes."""
    numbers = sorted({refitter.number(origin) for origin in scene.question.learned.tolist()})
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


def _forecast(name: str, forecaster: Forecaster, scene: Scene, strict: bool) -> list[Observation]:
    """Scaling, where a forecaster tells it, and paths; of one that learns, those of its base and its own."""
    axes, learns = (*_PATH_AXES, "channel"), forecaster.base is not None
    base = forecaster.base or forecaster
    origins = scene.question.learned if learns else scene.question.asked
    windows = windows_at(scene.windows.with_context(forecaster.context), origins)
    asked = [*windows, *_companions(windows[-1], scene)]
    paths = answer(base, asked)
    found = [
        *_scaling(name, base, windows),
        Observation("forecast", name, "paths", origins, paths[: len(windows)], axes),
    ]
    if learns:
        batch = ForecastBatch(np.array([window.origin for window in asked], dtype=np.int64), paths)
        work = partial(_calibrate, name, forecaster, asked, batch, origins)
        found += attempt("calibration", name, work, scene=scene, strict=strict)
    return found


def _calibrate(
    name: str, forecaster: Forecaster, windows: Sequence[Window], batch: ForecastBatch, origins: IntArray
) -> list[Observation]:
    paths = np.concatenate([one.paths for one in forecaster.follow(windows, [batch])])
    return [Observation("calibration", name, "paths", origins, paths[: len(origins)], (*_PATH_AXES, "channel"))]


def _companions(last: Window, scene: Scene) -> Iterator[Window]:
    """Later windows for the same call; where this history has none of candles, those of a price that stands still.

    So every call has as many windows, at the same origins: the last digit of a product of matrices may hang on it.
    """
    for origin in scene.question.companions.tolist():
        there = windows_at(scene.windows.with_context(len(last.values)), np.array([origin]))
        if there and np.isfinite(there[0].values).all():
            yield there[0]
            continue
        open_time = last.open_time + (origin - last.origin)
        rows = (origin - last.origin) // last.interval_ms + np.arange(len(last.values))
        yield Window(open_time, last.values[np.minimum(rows, len(last.values) - 1)], last.interval_ms)


def decide(
    trader: Trader, windows: Sequence[Window], paths: NDArray[Any], holdings: Sequence[Holding]
) -> list[Observation]:
    """Ask a strategy at every origin of a trail, along the way from flat, and again with drawn holdings."""
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


def _accounts(scene: Scene, config: RunConfig, stages: Stages, decided: Sequence[Observation]) -> list[Observation]:
    """Accounts up to the origin. The fill of the last decision is of the candle after it, and left out."""
    account, candles = scene.question.account, scene.candles
    if len(account) < 2:
        return []
    targets = np.full((len(account), len(PROBES) + len(decided)), np.nan)
    targets[:, : len(PROBES)] = scene.question.probes
    for column, one in enumerate(decided, start=len(PROBES)):
        known = one.values[-len(account) :]
        targets[-len(known) :, column] = known
    names = [*PROBES, *(one.component for one in decided)]
    # With or without its last decision, an account runs for one stride after the one before.
    until = int(account[-2] + np.diff(account).min())
    if candles.open_time[-1] < scene.question.origin:
        account, targets = account[:-1], targets[:-1]
    elif not np.isfinite(candles.values[candles.open_time >= scene.question.origin]).all():
        targets[-1] = np.nan  # an account cannot trade at a price that is no number
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
