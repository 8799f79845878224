"""What the script of the page draws: candles, quantiles, decisions, fills and equity, compressed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from btcbt.config import interval_ms
from btcbt.report.figures import milliseconds, notable, primary, run_colours
from btcbt.report.page.blobs import pack, pack_json
from btcbt.report.page.fans import LEVELS, Closes, read_fans
from btcbt.report.page.series import equity_bands, losses_over_time, placebo_ranges
from btcbt.report.versus import opponent_of
from btcbt.storage.runs import Run

MOST_CHARACTERS = 7_500_000
"""Of all blobs: what keeps a page below 8 MB. The fans that do not fit are left out, the main forecaster's last."""
MANY, COARSE = 4_000_000, 4
"""With more quantiles than this, those of a long run, they are rounded to 4 bps, which a chart cannot show; with more
than twice as many, to a multiple of that."""
MOST_FORECASTERS = 6
"""Forecasters that charts show before a reader asks for others."""
MOST_ACCOUNTS, MOST_POINTS = 40, 400_000
"""Accounts in the charts, and points of their equity."""
SHOWN = ("open", "high", "low", "close", "volume")


def page_payload(run: Run) -> tuple[dict[str, str], list[str]]:
    """Blobs by name, and sentences on what is left out; ``meta`` is JSON, the others are little-endian arrays."""
    names, closes, limits = list(run.manifest["forecasters"]), Closes.of(run), []
    order, colours = by_interest(run), run_colours(run)
    count = len(names) * len(closes.origins) * run.config.windows.horizon * len(LEVELS)
    unit = COARSE * math.ceil(count / (2 * MANY)) if count > MANY else 1
    fans = {name: read_fans(run, name, closes, unit) for name in names}
    scored = bool(run.manifest["origins"]["scored"])
    blobs = {"candles": pack(run.candles()[list(SHOWN)].to_numpy(dtype="<f4").T)}
    meta: dict[str, Any] = {
        "interval": interval_ms(run.config.candles.interval),
        "horizon": run.config.windows.horizon,
        "levels": LEVELS,
        "unit": unit,
        "main": names.index(order[0]),
        "times": closes.times.tolist(),
        "origins": closes.origins.tolist(),
        "accounts": [],
        "skill": _skill(run),
        "coverage": [{"forecaster": name, **one} for name in names for one in fans[name].coverage] if scored else [],
        "pit": {name: fans[name].pit for name in names} if scored else {},
        **losses_over_time(run),
    }
    if run.manifest["strategies"]:
        accounts, arrays, left_out = _accounts(run)
        meta |= accounts | {"bands": equity_bands(run), "placebos": placebo_ranges(run)}
        blobs, limits = blobs | arrays, left_out
    kept, free = [], MOST_CHARACTERS - sum(map(len, blobs.values())) - len(pack_json(meta))
    for name in order:
        free -= len(fans[name].quantiles)
        if free >= 0 or name == order[0]:
            kept.append(name)
            blobs[f"quantiles{names.index(name)}"] = fans[name].quantiles
    meta["forecasters"] = [
        {
            "name": name,
            "colour": colours[name],
            "order": order.index(name),
            "shown": name in order[:MOST_FORECASTERS],
            "fans": name in kept,
        }
        for name in names
    ]
    blobs["meta"] = pack_json(meta)
    return blobs, [*_rounded(unit), *_without(kept, order), *limits]


def by_interest(run: Run) -> list[str]:
    """Forecasters: the main one, its opponent, then by the CRPS of the last step."""
    at, first = f"crps_bps.close.h{run.config.windows.horizon}", [primary(run), opponent_of(run)]
    crps = {name: run.metrics.get(f"forecast.{name}.{at}", math.nan) for name in run.manifest["forecasters"]}
    rest = sorted(crps, key=lambda name: crps[name] if math.isfinite(crps[name]) else math.inf)
    return list(dict.fromkeys([*first, *rest]))


def _rounded(unit: int) -> list[str]:
    return [f"Fans are rounded to {unit} bps of the last close, for the size of the page."] if unit > 1 else []


def _without(kept: Sequence[str], order: Sequence[str]) -> list[str]:
    absent = [name for name in order if name not in kept]
    if not absent:
        return []
    return [
        f"For the size of the page, the fans of these are left out; their scores are all here: {', '.join(absent)}."
    ]


def _accounts(run: Run) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Names, fills and times of the accounts; the equity (K, N') and the decided weights (K', M); what is left out."""
    equity, targets, orders = run.equity(), run.targets(), run.orders()
    named = notable(equity, primary(run))
    final = equity.iloc[-1].sort_values(ascending=False, kind="stable")
    chosen = set(list(dict.fromkeys([*named, *map(str, final.index)]))[:MOST_ACCOUNTS])
    names = [name for name in map(str, equity.columns) if name in chosen]
    decided = [name for name in map(str, targets.columns) if name in chosen]
    every = math.ceil(len(names) * len(equity) / MOST_POINTS)
    # The last hour is always there.
    at = np.arange(len(equity) - 1, -1, -every)[::-1]
    fills = orders[orders["strategy"].isin(names)]
    meta = {
        "accounts": [{"name": name, "shown": name in named} for name in names],
        "equityTimes": milliseconds(equity.index)[at].tolist(),
        "cash": float(run.config.portfolio.initial_cash),
        "fills": {
            "account": [names.index(name) for name in fills["strategy"]],
            "time": milliseconds(pd.DatetimeIndex(fills["time"])).tolist(),
            "side": fills["side"].tolist(),
            **{key: [_short(value) for value in fills[key]] for key in ("size", "price", "fee")},
        },
        "decided": {"names": decided, "times": milliseconds(targets.index).tolist()},
    }
    arrays = {
        "equity": pack(equity[names].to_numpy(dtype="<f4")[at].T),
        "targets": pack(targets[decided].to_numpy(dtype="<f4").T),
    }
    limits = [f"Curves show every {every} candles."] if every > 1 else []
    if len(names) < len(equity.columns):
        limits += [
            f"Charts hold {len(names)} of {len(equity.columns)} accounts, the best and those on the main forecaster."
        ]
    return meta, arrays, limits


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


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
