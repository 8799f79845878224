"""Time of a sweep: 1,000 parameters of `threshold` over 17,000 hours on a random walk of 30 paths.

``python benchmarks/sweep_speed.py [CONFIGURATIONS [HOURS]]``: makes synthetic candles in a folder that is removed
afterwards, runs the sweep twice (the second time with its forecasts in the store), and prints both times by stage.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from btcbt.progress import PlainProgress
from btcbt.workflows.sweep import run_sweep

EXPERIMENT = """
name: base
candles: {{path: candles.parquet, interval: 1h}}
windows: {{start: {start}, end: {end}, context: 48, horizon: 24}}
forecasters: {{walk: {{kind: random_walk, n_paths: 30}}}}
strategies: {{threshold: {{use: threshold}}}}
store: {{shard_size: 1000}}
"""
SWEEP = """
name: speed
experiment: base.yaml
over:
  strategies.threshold.params.entry_bps: {{from: 5, to: 100, steps: {entries}}}
  strategies.threshold.params.exit_bps: {{from: -60, to: 4, steps: 25}}
"""
HOUR = np.timedelta64(1, "h")


def main() -> None:
    """Run it."""
    from rich.console import Console

    configurations, hours = (int(one) for one in (*sys.argv[1:], *("1000", "17000")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        first = np.datetime64("2023-01-01T00", "ms")
        times = first + HOUR.astype("timedelta64[ms]") * np.arange(hours + 72)
        close = 30_000 * np.exp(np.cumsum(0.005 * np.random.default_rng(1).standard_normal(len(times))))
        opened = np.concatenate([close[:1], close[:-1]])
        columns = {"open": opened, "high": np.maximum(opened, close), "low": np.minimum(opened, close), "close": close}
        columns |= {"volume": np.ones(len(times)), "amount": close}
        table = {"open_time": pa.array(times).cast(pa.timestamp("ms", tz="UTC"))} | columns
        pq.write_table(pa.table(table), "candles.parquet")
        span = {"start": str(times[48])[:19] + "Z", "end": str(times[48 + hours])[:19] + "Z"}
        Path("base.yaml").write_text(EXPERIMENT.format(**span), encoding="utf-8")
        Path("sweep.yaml").write_text(SWEEP.format(entries=configurations // 25), encoding="utf-8")
        for what in ("first", "again, forecasts in the store"):
            began = time.perf_counter()
            done = run_sweep("sweep.yaml", progress=PlainProgress(Console(stderr=True)))
            seconds = time.perf_counter() - began
            print(f"{what}: {len(done.table):,} configurations x {hours:,} hours in {seconds:.1f} s")


if __name__ == "__main__":
    main()
