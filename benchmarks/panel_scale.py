"""What a panel costs: peak memory and time by the number of symbols, and a forecast in a panel against single runs.

Each measurement runs in a process of its own, on synthetic hours with a common factor and in a store of its own::

    python benchmarks/panel_scale.py memory --symbols 5 10 20 --hours 8760
    python benchmarks/panel_scale.py cost --symbols 5 --hours 48
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from btcbt.candles import make_candles, write_candles
from btcbt.config import PanelConfig, RunConfig
from btcbt.walkforward.runner import run

HOUR_MS = 3_600_000
START = datetime(2019, 1, 1, tzinfo=UTC)
CONTEXT, HORIZON = 240, 24
CHEAP = {"ewma": {"kind": "ewma_volatility", "n_paths": 20}, "random_walk": {"kind": "random_walk", "n_paths": 20}}
COSTS: Mapping[str, dict[str, Any]] = {
    "random_walk": {"kind": "random_walk"},
    "kronos-nano": {"kind": "kronos", "device": "cpu"},
}


def write_symbols(folder: Path, count: int, hours: int) -> dict[str, str]:
    """Files of synthetic candles whose returns share a factor, by symbol."""
    rng = np.random.default_rng(7)
    n = CONTEXT + hours + HORIZON
    factor = 0.005 * rng.standard_t(5, n)
    files = {}
    for k in range(count):
        close = 100 * np.exp(np.cumsum(rng.uniform(0.5, 1.5) * factor + 0.004 * rng.standard_t(5, n)))
        opening = np.concatenate(([100.0], close[:-1]))
        high = np.maximum(opening, close) * np.exp(0.001 * rng.exponential(size=n))
        low = np.minimum(opening, close) * np.exp(-0.001 * rng.exponential(size=n))
        volume = np.exp(rng.standard_normal(n))
        values = np.column_stack([opening, high, low, close, volume, volume * (high + low) / 2])
        first = int((START - timedelta(hours=CONTEXT)).timestamp() * 1000)
        files[f"S{k:02}"] = str(folder / f"S{k:02}.parquet")
        open_time = first + HOUR_MS * np.arange(n, dtype=np.int64)
        write_candles(make_candles(open_time, values, interval="1h", source=f"S{k:02}"), files[f"S{k:02}"])
    return files


def experiment(root: Path, hours: int, forecasters: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the candles and strategies."""
    return {
        "name": "scale",
        "windows": {
            "context": CONTEXT,
            "horizon": HORIZON,
            "start": START.isoformat(),
            "end": (START + timedelta(hours=hours)).isoformat(),
        },
        "forecasters": dict(forecasters),
        "executor": {"kind": "local", "workers": 1},
        "store": {"root": str(root)},
    }


def panel(folder: Path, count: int, hours: int, forecasters: Mapping[str, Any]) -> dict[str, float]:
    """Run a panel in this process; its peak memory in MB, wall and CPU seconds, and seconds of forecasting."""
    files = write_symbols(folder, count, hours)
    tree = experiment(folder / "runs", hours, forecasters)
    tree |= {"candles": {"symbols": files}, "strategies": {"equal_weight": {"use": "equal_weight"}}}
    if "ewma" in forecasters:
        tree["strategies"]["top_k"] = {"use": "top_k", "forecasters": ["ewma"]}
    done = run(PanelConfig.model_validate(tree))
    forecasting = sum(_forecasting(done.symbol(symbol).manifest["seconds"]) for symbol in files)
    return _used() | {"wall": float(done.manifest["seconds"]["total"]), "forecasting": forecasting}


def singles(folder: Path, count: int, hours: int, forecasters: Mapping[str, Any]) -> dict[str, float]:
    """The same symbols in runs of their own, one after the other."""
    files = write_symbols(folder, count, hours)
    seconds = []
    for symbol, path in files.items():
        tree = experiment(folder / "runs", hours, forecasters) | {"candles": {"path": path, "symbol": symbol}}
        seconds.append(run(RunConfig.model_validate(tree)).manifest["seconds"])
    return _used() | {"wall": sum(one["total"] for one in seconds), "forecasting": sum(map(_forecasting, seconds))}


def _forecasting(seconds: Mapping[str, float]) -> float:
    return sum(taken for stage, taken in seconds.items() if stage.startswith("forecast "))


def _used() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"memory": used.ru_maxrss / 1000, "cpu": used.ru_utime + used.ru_stime}


def alone(measure: Any, *arguments: Any) -> dict[str, float]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(1, get_context("spawn")) as process:
        measured: dict[str, float] = process.submit(measure, Path(scratch), *arguments).result()
        return measured


def main() -> None:
    """Measure, and print a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "cost"])
    parser.add_argument("--symbols", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--hours", type=int, default=8760)
    given = parser.parse_args()
    for count in given.symbols:
        if given.what == "memory":
            one = alone(panel, count, given.hours, CHEAP)
            print(
                f"{count} symbols: {one['memory']:,.0f} MB, {one['cpu']:,.0f} s CPU, {one['wall']:,.0f} s", flush=True
            )
            continue
        for name, forecaster in COSTS.items():
            only = {"random_walk": COSTS["random_walk"]} | {name: forecaster}
            together, apart = (alone(measure, count, given.hours, only) for measure in (panel, singles))
            each = [1000 * one["forecasting"] / (count * given.hours) for one in (together, apart)]
            print(
                f"{name}, {count} symbols: {each[0]:.2f} ms a forecast in the panel, {each[1]:.2f} ms in single runs, "
                f"ratio {each[0] / each[1]:.2f}; CPU of all {together['cpu']:.0f} and {apart['cpu']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
