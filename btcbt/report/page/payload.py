"""What the script of the page draws: candles, quantiles, decisions, fills and equity, compressed.

The page unpacks each blob with the browser's own ``DecompressionStream("gzip")``.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from btcbt.config import interval_ms
from btcbt.metrics.distribution import probability_integral_transform, sample_quantiles
from btcbt.records import CLOSE, IN_BPS
from btcbt.report.colours import colours_of
from btcbt.report.figures import milliseconds, notable, primary
from btcbt.report.page.series import equity_bands, losses_over_time, pit_shares, placebo_ranges
from btcbt.report.versus import opponent_of
from btcbt.storage.runs import Run

LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
"""The median and the ends of the central 50, 80 and 95 %."""
MEDIAN = LEVELS.index(0.5)
MANY, COARSE = 4_000_000, 4
"""With more quantiles than this, those of a long run, they are rounded to 4 bps, which a chart cannot show; with more
than twice as many, to a multiple of that."""
SHOWN = ("open", "high", "low", "close", "volume")


def page_payload(run: Run) -> dict[str, str]:
    """Blobs by name, gzip in base64: ``meta`` is JSON, the others are little-endian arrays."""
    candles, names = run.candles(), list(run.manifest["forecasters"])
    times, close = milliseconds(candles.index), candles["close"].to_numpy(dtype=np.float64)
    origins = milliseconds(run.origins().index)
    closes = _Closes(close, times, origins, interval_ms(run.config.candles.interval))
    count = len(names) * len(origins) * run.config.windows.horizon * len(LEVELS)
    unit = COARSE * math.ceil(count / (2 * MANY)) if count > MANY else 1
    blobs, pit = {}, {}
    for k, name in enumerate(names):
        blobs[f"quantiles{k}"], pit[name] = _quantile_blob(run, name, closes, unit)
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
        "pit": pit if run.manifest["origins"]["scored"] else {},
        **losses_over_time(run),
    }
    if run.manifest["strategies"]:
        accounts, blobs["equity"], blobs["targets"] = _accounts(run)
        meta |= accounts | {"bands": equity_bands(run), "placebos": placebo_ranges(run)}
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


def _quantile_blob(run: Run, name: str, candles: _Closes, unit: int) -> tuple[str, dict[str, list[float]]]:
    """Quantiles of the close against the last close, in units of so many bps, and histograms of its PIT by step.

    The quantiles are those that scores use, so that what is drawn is what is tested.
    """
    horizon = run.config.windows.horizon
    rows, done = np.empty((len(candles.last), horizon, len(LEVELS)), dtype=np.int16), 0
    steps = sorted({1, horizon})
    pit = np.full((len(candles.last), len(steps), 2), np.nan)
    for batch in run.forecasts(name).batches():
        part = slice(done, done + len(batch.paths))
        closes = np.sort(batch.paths[..., CLOSE], axis=1).transpose(0, 2, 1)
        gain = IN_BPS / unit * (sample_quantiles(closes, LEVELS) / candles.last[part, None, None] - 1.0)
        rows[part] = np.clip(np.rint(np.nan_to_num(gain)), -32767, 32767)
        for k, step in enumerate(steps):
            outcome = candles.after(part, step)
            for end in (0, 1):
                pit[part, k, end] = probability_integral_transform(closes[:, step - 1], outcome, np.float64(end))
        done = part.stop
    return _pack(quantile_steps(rows)), {str(step): pit_shares(*pit[:, k].T) for k, step in enumerate(steps)}


class _Closes(NamedTuple):
    """Closes of a run: of the candle before each origin, and the next ones."""

    close: NDArray[np.float64]
    times: NDArray[np.int64]
    origins: NDArray[np.int64]
    interval: int

    @property
    def last(self) -> NDArray[np.float64]:
        return np.asarray(self.close[np.searchsorted(self.times, self.origins) - 1])

    def after(self, part: slice, step: int) -> NDArray[np.float64]:
        """Close of the candle so many steps after each origin; NaN where it is absent."""
        wanted = self.origins[part] + (step - 1) * self.interval
        at = np.minimum(np.searchsorted(self.times, wanted), len(self.times) - 1)
        return np.where(self.times[at] == wanted, self.close[at], np.nan)


def _accounts(run: Run) -> tuple[dict[str, Any], str, str]:
    """Names, fills and times of the accounts, the equity (K, N') and the decided weights (K', M)."""
    equity, targets, orders = run.equity(), run.targets(), run.orders()
    named = set(notable(equity, primary(run)))
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
    if what == "skill":
        lines += _ratios(run)
    for (name, metric), rows in table.groupby(["forecaster", "metric"], sort=False):
        rows = rows.sort_values("step")
        line = {"forecaster": name, "metric": metric, "step": rows["step"].tolist(), "value": rows["value"].tolist()}
        lines.append(line)
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


def _pack(array: NDArray[Any]) -> str:
    return _pack_bytes(np.ascontiguousarray(array).tobytes())


def _pack_bytes(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
