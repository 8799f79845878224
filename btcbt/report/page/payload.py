"""What the script of the page draws: candles, quantiles, decisions, fills and equity, compressed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from btcbt.config import interval_ms
from btcbt.report.figures import milliseconds, primary, run_colours
from btcbt.report.page.blobs import pack, pack_json
from btcbt.report.page.books import page_accounts, page_fills
from btcbt.report.page.fans import LEVELS, PRECISION, Closes, Fans, fewer_steps, pack_fans, read_fans
from btcbt.report.page.series import losses_over_time, placebo_ranges
from btcbt.report.versus import opponent_of
from btcbt.storage.runs import Run

MOST_CHARACTERS = 7_500_000
"""Of all blobs: what keeps a page below 8 MB. Fans that do not fit lose every second step or are left out."""
MANY = 4_000_000
"""Quantiles that are kept to 1 bps; more, those of a long run, are rounded to what a chart can show."""
MOST_FORECASTERS = 6
"""Forecasters that charts show before a reader asks for others."""
SHOWN = ("open", "high", "low", "close", "volume")


def page_payload(run: Run) -> tuple[dict[str, str], list[str]]:
    """Blobs by name, and sentences on what is left out; ``meta`` is JSON, the others are little-endian arrays."""
    names, closes, limits = list(run.manifest["forecasters"]), Closes.of(run), []
    order = by_interest(run)
    count = len(names) * len(closes.origins) * run.config.windows.horizon * len(LEVELS)
    fans = {name: read_fans(run, name, closes, fine=count <= MANY) for name in names}
    scored = bool(run.manifest["origins"]["scored"])
    blobs = {"candles": pack(run.candles()[list(SHOWN)].to_numpy(dtype="<f4").T)}
    meta: dict[str, Any] = {
        "interval": interval_ms(run.config.candles.interval),
        "horizon": run.config.windows.horizon,
        "levels": LEVELS,
        "main": names.index(order[0]),
        "forecasters": page_forecasters(names, order, run_colours(run)),
        "times": closes.times.tolist(),
        "origins": closes.origins.tolist(),
        "accounts": [],
        "skill": _skill(run),
        "coverage": [{"forecaster": name, **one} for name in names for one in fans[name].coverage] if scored else [],
        "pit": {name: fans[name].pit for name in names} if scored else {},
        **losses_over_time(run),
    }
    if run.manifest["strategies"]:
        accounts = page_accounts(run.equity(), run.config.portfolio.initial_cash, order[0], meta["horizon"])
        targets = run.targets()
        decided = [name for name in map(str, targets.columns) if name in accounts.names]
        meta |= {
            **accounts.meta,
            "decided": {"names": decided, "times": milliseconds(targets.index).tolist()},
            "fills": page_fills(run.orders(), accounts.names),
            "placebos": placebo_ranges(run),
        }
        blobs |= {"equity": accounts.equity, "targets": pack(targets[decided].to_numpy(dtype="<f4").T)}
        limits = accounts.limits
    room = MOST_CHARACTERS - sum(map(len, blobs.values())) - len(pack_json(meta))
    steps, packed = _fitted({name: fans[name] for name in order}, run.config.windows.horizon, room)
    blobs |= {f"quantiles{names.index(name)}": text for name, text in packed.items()}
    meta["fans"] = [{"steps": steps[name], "units": fans[name].units.tolist()} for name in names]
    blobs["meta"] = pack_json(meta)
    return blobs, [*_fan_limits(steps, run.config.windows.horizon, fine=count <= MANY), *limits]


def page_forecasters(names: Sequence[str], order: Sequence[str], colours: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Forecasters as the script knows them; `order` is by interest."""
    return [
        {"name": name, "colour": colours[name], "order": order.index(name), "shown": name in order[:MOST_FORECASTERS]}
        for name in names
    ]


def by_interest(run: Run) -> list[str]:
    """Forecasters: the main one, its opponent, then by the CRPS of the last step."""
    at, first = f"crps_bps.close.h{run.config.windows.horizon}", [primary(run), opponent_of(run)]
    crps = {name: run.metrics.get(f"forecast.{name}.{at}", math.nan) for name in run.manifest["forecasters"]}
    rest = sorted(crps, key=lambda name: crps[name] if math.isfinite(crps[name]) else math.inf)
    return list(dict.fromkeys([*first, *rest]))


def _fitted(fans: Mapping[str, Fans], horizon: int, room: int) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Steps of each forecaster's fans, none where they are left out, and the packed fans, within so many characters.

    From the least interesting on, forecasters first lose every second step and then their fans; the first keeps them.
    """
    whole, fewer = list(range(1, horizon + 1)), fewer_steps(horizon)
    names = list(fans)
    steps = dict.fromkeys(names, whole)
    packed = {name: pack_fans(fans[name].quantiles, whole) for name in names}
    for shorter in (fewer, []):
        for name in names[:0:-1]:
            if sum(map(len, packed.values())) <= room:
                return steps, packed
            steps[name] = shorter
            packed.pop(name)
            if shorter:
                packed[name] = pack_fans(fans[name].quantiles, shorter)
    return steps, packed


def _fan_limits(steps: Mapping[str, Sequence[int]], horizon: int, *, fine: bool) -> list[str]:
    """What a reader has to know of fans that are not whole."""
    said = [] if fine else [f"Fans are rounded to 1/{PRECISION:.0f} of half the width of their central 50 %."]
    thin = [name for name, kept in steps.items() if 0 < len(kept) < horizon]
    absent = [name for name, kept in steps.items() if not kept]
    if thin:
        said.append(f"Every second step is interpolated, for the size of the page: {', '.join(thin)}.")
    if absent:
        said.append(f"Fans are left out for the size of the page, scores are not: {', '.join(absent)}.")
    return said


def _skill(run: Run) -> list[Mapping[str, Any]]:
    """Lines by step of the close: CRPS against the opponent's, with intervals where they are stored."""
    table = run.scores()
    table = table[(table["channel"] == "close") & (table["step"] > 0) & np.isfinite(table["value"])]
    ends = ["crps_bps.difference_pct", "crps_bps.low_pct", "crps_bps.high_pct"]
    table = table[(table["group"] == f"opponent={opponent_of(run)}") & table["metric"].isin(ends)]
    lines = _ratios(run)
    for (name, metric), rows in table.groupby(["forecaster", "metric"], sort=False):
        rows = rows.sort_values("step")
        lines.append(
            {"forecaster": name, "metric": metric, "step": rows["step"].tolist(), "value": rows["value"].tolist()}
        )
    return lines


def _ratios(run: Run) -> list[Mapping[str, Any]]:
    """CRPS at every step in percent of the opponent's, as difference: the line through the tested steps."""
    scores, opponent = run.scores(), opponent_of(run)
    crps = scores[(scores["channel"] == "close") & (scores["step"] > 0) & (scores["group"] == "all")]
    table = crps[crps["metric"] == "crps_bps"].pivot_table(
        index="step", columns="forecaster", values="value", sort=False
    )
    if opponent not in table.columns:
        return []
    ratios = (100.0 * table.div(table[opponent], axis=0) - 100.0).drop(columns=opponent).sort_index()
    return [
        {"forecaster": name, "metric": "ratio", "step": one.index.tolist(), "value": one.tolist()}
        for name, one in ((str(name), ratios[name].dropna()) for name in ratios.columns)
    ]
