"""What the script of the page of a run on several symbols draws: comparisons, rankings, accounts, fans."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from btcbt.config import interval_ms
from btcbt.metrics.score import comparison_steps
from btcbt.records import FloatArray
from btcbt.report.figures import milliseconds
from btcbt.report.page.blobs import pack, pack_json
from btcbt.report.page.books import Accounts, page_accounts, page_fills
from btcbt.report.page.fans import LEVELS, PRECISION, Closes, pack_fans, read_quantiles
from btcbt.report.page.payload import MANY, MOST_CHARACTERS, SHOWN, page_forecasters
from btcbt.report.panel_figures import panel_colours, rankings_over_time
from btcbt.report.panel_tables import each_row, main_forecaster, pooled_frame, symbol_frame
from btcbt.storage.panel_runs import PanelRun

MOST_QUANTILES = 12_000_000
"""Quantiles of all symbols that are read; of more, every n-th origin."""
MOST_FILLS, MOST_WEIGHTS = 60_000, 1_000_000
"""Fills, and decided weights, in the page; accounts beyond them have none."""


class _Fans(NamedTuple):
    """Quantiles and units of a forecaster on one symbol; see `btcbt.report.page.fans.Fans`."""

    quantiles: NDArray[np.int16]
    units: FloatArray


def panel_payload(run: PanelRun) -> tuple[dict[str, str], list[str]]:
    """Blobs by name, and sentences on what is left out; those of a symbol end in its place among the symbols."""
    names, main = list(run.manifest["forecasters"]), main_forecaster(run)
    order = list(dict.fromkeys([main, run.manifest["opponent"], *names]))
    horizon = run.config.windows.horizon
    accounts = page_accounts(run.equity(), run.config.portfolio.initial_cash, main, horizon)
    decided, times, weights = _weights(run, accounts)
    blobs = {"equity": accounts.equity, "targets": pack(weights)}
    meta: dict[str, Any] = {
        "interval": interval_ms(run.config.candles.interval),
        "horizon": horizon,
        "levels": LEVELS,
        "main": names.index(main),
        "forecasters": page_forecasters(names, order, panel_colours(run)),
        "symbols": list(run.symbols),
        "steps": comparison_steps(horizon),
        "forest": _forest(run),
        "rankings": _rankings(run),
        **accounts.meta,
        "decided": {"names": decided, "times": times},
    }
    blobs["meta"] = pack_json(meta)
    found, every, fine = _symbols(run, accounts, decided, MOST_CHARACTERS - sum(map(len, blobs.values())))
    limits = [f"The browser holds one origin in {every}, for the size of the page."] if every > 1 else []
    if not fine:
        limits.append(f"Fans are rounded to 1/{PRECISION:.0f} of half the width of their central 50 %.")
    if len(decided) < len(accounts.names):
        limits.append(f"Decisions and fills are those of {len(decided)} of {len(accounts.names)} accounts.")
    return blobs | found, [*limits, *accounts.limits]


def _rankings(run: PanelRun) -> list[dict[str, Any]]:
    """RankIC over a moving window by forecaster and step."""
    return [
        {"forecaster": one.forecaster, "step": one.step, "time": one.time.tolist()}
        | {key: np.round(getattr(one.moving, key), 4).tolist() for key in ("mean", "low", "high")}
        for one in rankings_over_time(run)
    ]


def _forest(run: PanelRun) -> list[dict[str, Any]]:
    """Rows of the forest plot: symbol, or null for all of them, forecaster, step (0: the path), difference and ends."""
    if not run.metrics.get("origins.scored"):
        return []
    rows = [((name, step, None), one) for (name, step), one in each_row(pooled_frame(run))]
    rows += [((name, step, symbol), one) for (name, step, symbol), one in each_row(symbol_frame(run))]
    return [
        {
            "forecaster": name,
            "step": int(step),
            "symbol": symbol,
            **{key: round(float(one[f"{key}_pct"]), 4) for key in ("difference", "low", "high")},
            "p": round(float(one["adjusted_p"]), 4),
        }
        for (name, step, symbol), one in rows
        if np.isfinite([one["low_pct"], one["high_pct"], one["adjusted_p"]]).all()
    ]


def _weights(run: PanelRun, accounts: Accounts) -> tuple[list[str], list[int], NDArray[np.float32]]:
    """Accounts whose decisions are kept, times of the decisions, and weights (symbols, accounts, times)."""
    targets, orders = run.targets(), run.orders()
    shown = [one["name"] for one in accounts.meta["accounts"] if one["shown"]]
    room = max(1, MOST_WEIGHTS // max(1, len(targets) * len(run.symbols)))
    kept: list[str] = []
    fills = 0
    for name in dict.fromkeys([*shown, *accounts.names]):
        fills += int((orders["strategy"] == name).sum())
        if f"{name}/{run.symbols[0]}" in targets.columns and len(kept) < room and (fills <= MOST_FILLS or not kept):
            kept.append(name)
    decided = [name for name in accounts.names if name in kept]
    columns = [[targets[f"{name}/{symbol}"].to_numpy(dtype="<f4") for name in decided] for symbol in run.symbols]
    return decided, milliseconds(targets.index).tolist(), np.array(columns, dtype="<f4")


def _symbols(run: PanelRun, accounts: Accounts, decided: list[str], room: int) -> tuple[dict[str, str], int, bool]:
    """Blobs of each symbol within so many characters, every how many origins they hold, and whether fans are fine."""
    names, horizon, orders = list(run.manifest["forecasters"]), run.config.windows.horizon, run.orders()
    orders = orders[orders["strategy"].isin(decided)]
    closes = {symbol: Closes.of(run.symbol(symbol)) for symbol in run.symbols}
    count = sum(len(one.origins) for one in closes.values()) * len(names) * horizon * len(LEVELS)
    every = max(1, math.ceil(count / MOST_QUANTILES))
    fine = count / every <= MANY
    fans = {
        (symbol, name): _Fans(*read_quantiles(run.symbol(symbol), name, closes[symbol], every, fine=fine))
        for symbol in run.symbols
        for name in names
    }
    thinner = 1
    while True:
        blobs = {}
        for k, symbol in enumerate(run.symbols):
            own, steps = closes[symbol], list(range(1, horizon + 1))
            book = {
                "times": own.times.tolist(),
                "origins": own.origins[:: every * thinner].tolist(),
                "fills": page_fills(orders[orders["symbol"] == symbol], accounts.names),
                "fans": [{"steps": steps, "units": fans[symbol, name].units.tolist()} for name in names],
            }
            blobs[f"book-{k}"] = pack_json(book)
            blobs[f"candles-{k}"] = pack(run.symbol(symbol).candles()[list(SHOWN)].to_numpy(dtype="<f4").T)
            for j, name in enumerate(names):
                blobs[f"quantiles{j}-{k}"] = pack_fans(fans[symbol, name].quantiles[::thinner], steps)
        size = sum(map(len, blobs.values()))
        if size <= room or len(next(iter(fans.values())).quantiles) <= thinner:
            return blobs, every * thinner, fine
        thinner = max(thinner + 1, math.ceil(thinner * size / max(room, 1)))
