"""What the script of the page draws: candles, quantiles, decisions, fills and equity, compressed.

The page unpacks each blob with the browser's own ``DecompressionStream("gzip")``.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btcbt.config import interval_ms
from btcbt.records import CLOSE
from btcbt.report.colours import colours_of
from btcbt.report.figures import highlighted, milliseconds, primary
from btcbt.storage.runs import Run

LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
"""The median and the ends of the central 50, 80 and 95 %."""
MEDIAN = LEVELS.index(0.5)
BPS = 1e4
MANY, COARSE = 4_000_000, 4
"""With more quantiles than this, those of a long run, they are rounded to 4 bps, which a chart cannot show."""
SHOWN = ("open", "high", "low", "close", "volume")


def page_payload(run: Run) -> dict[str, str]:
    """Blobs by name, gzip in base64: ``meta`` is JSON, the others are little-endian arrays."""
    candles, names = run.candles(), list(run.manifest["forecasters"])
    times, close = milliseconds(candles.index), candles["close"].to_numpy(dtype=np.float64)
    origins = milliseconds(run.origins().index)
    last = close[np.searchsorted(times, origins) - 1]
    unit = COARSE if len(names) * len(origins) * run.config.windows.horizon * len(LEVELS) > MANY else 1
    blobs = {f"quantiles{k}": _quantile_blob(run, name, last, unit) for k, name in enumerate(names)}
    blobs["candles"] = _pack(candles[list(SHOWN)].to_numpy(dtype="<f4").T)
    meta: dict[str, Any] = {
        "interval": interval_ms(run.config.candles.interval),
        "horizon": run.config.windows.horizon,
        "levels": LEVELS,
        "unit": unit,
        "forecasters": [{"name": name, "colour": colour} for name, colour in colours_of(names).items()],
        "main": names.index(primary(run)),
        "times": times.tolist(),
        "origins": origins.tolist(),
        "accounts": [],
        "skill": _by_step(run, "skill"),
        "coverage": _by_step(run, "coverage"),
    }
    if run.manifest["strategies"]:
        accounts, blobs["equity"], blobs["targets"] = _accounts(run)
        meta |= accounts
    blobs["meta"] = _pack_bytes(json.dumps(meta, separators=(",", ":"), allow_nan=False).encode())
    return blobs


def quantile_steps(quantiles: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Quantiles (M, H, 7) in bps as bytes that compress well; exact, modulo 2**16.

    The median and the gaps between neighbouring quantiles, each as its change from the step before, change by change
    together, small values near zero (zigzag), first all low bytes and then all high bytes.
    """
    parts = np.diff(quantiles, axis=2, prepend=np.int16(0))
    parts[:, :, 0] = quantiles[:, :, MEDIAN]
    changes = np.diff(parts, axis=1, prepend=np.int16(0)).transpose(2, 1, 0)
    folded = np.ascontiguousarray(((changes << 1) ^ (changes >> 15)).astype("<u2"))
    return np.ascontiguousarray(folded.ravel().view(np.uint8).reshape(-1, 2).T)


def _quantile_blob(run: Run, name: str, last: NDArray[np.float64], unit: int) -> str:
    """Quantiles of the close against the last close, in units of so many bps."""
    rows, done = np.empty((len(last), run.config.windows.horizon, len(LEVELS)), dtype=np.int16), 0
    for batch in run.forecasts(name).batches():
        part = slice(done, done + len(batch.paths))
        gain = BPS / unit * (batch.paths[..., CLOSE] / last[part, None, None] - 1.0)
        levels = np.nan_to_num(np.quantile(gain, LEVELS, axis=1))
        rows[part] = np.clip(np.rint(levels), -32767, 32767).transpose(1, 2, 0)
        done = part.stop
    return _pack(quantile_steps(rows))


def _accounts(run: Run) -> tuple[dict[str, Any], str, str]:
    """Names, fills and times of the accounts, the equity (K, N') and the decided weights (K', M)."""
    equity, targets, orders = run.equity(), run.targets(), run.orders()
    named = set(highlighted(list(equity.columns), primary(run)))
    fills = {
        "account": [list(equity.columns).index(name) for name in orders["strategy"]],
        "time": (orders["time"].astype("datetime64[ms, UTC]").astype("int64")).tolist(),
        "side": orders["side"].tolist(),
        "size": [_short(value) for value in orders["size"]],
        "price": [_short(value) for value in orders["price"]],
        "fee": [_short(value) for value in orders["fee"]],
    }
    meta = {
        "accounts": [{"name": name, "shown": name in named} for name in equity.columns],
        "equityTimes": milliseconds(equity.index).tolist(),
        "cash": float(run.config.portfolio.initial_cash),
        "fills": fills,
        "decided": {"names": list(targets.columns), "times": milliseconds(targets.index).tolist()},
    }
    return meta, _pack(equity.to_numpy(dtype="<f4").T), _pack(targets.to_numpy(dtype="<f4").T)


def _by_step(run: Run, what: str) -> list[Mapping[str, Any]]:
    """Lines by step of the close: skill with its band, or coverage of the central 50, 80 and 95 %."""
    table = run.scores()
    table = table[(table["channel"] == "close") & (table["step"] > 0) & np.isfinite(table["value"])]
    if what == "coverage":
        table = table[(table["group"] == "all") & table["metric"].isin(["coverage50", "coverage80", "coverage95"])]
    else:
        ends = ["crps_bps.difference_pct", "crps_bps.low_pct", "crps_bps.high_pct"]
        table = table[table["group"].str.startswith("opponent=") & table["metric"].isin(ends)]
    lines: list[Mapping[str, Any]] = []
    for (name, metric), rows in table.groupby(["forecaster", "metric"], sort=False):
        rows = rows.sort_values("step")
        line = {"forecaster": name, "metric": metric, "step": rows["step"].tolist(), "value": rows["value"].tolist()}
        lines.append(line)
    return lines


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _pack(array: NDArray[Any]) -> str:
    return _pack_bytes(np.ascontiguousarray(array).tobytes())


def _pack_bytes(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
