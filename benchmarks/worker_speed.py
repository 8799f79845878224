"""How much faster a walk is with two processes than with one: kronos-nano on the bundled candles.

Rounds alternate, each into a store of its own, so that nothing is reused and a busy machine slows both. Time is that of
forecasting, the start of processes included::

    python benchmarks/worker_speed.py --days 14 --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from datetime import date, timedelta
from pathlib import Path

from btcbt.config import RunConfig
from btcbt.walkforward import runner

START = date(2019, 6, 1)


def milliseconds(workers: int, days: int, root: Path) -> float:
    """Of forecasting, an origin."""
    tree = {
        "name": "speed",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 240, "horizon": 24, "start": START, "end": START + timedelta(days=days)},
        "forecasters": {"kronos": {"kind": "kronos", "n_paths": 30, "device": "cpu"}},
        "executor": {"kind": "local", "workers": workers},
        "store": {"root": str(root)},
    }
    run = runner.run(RunConfig.model_validate(tree, strict=False))
    member = run.manifest["forecasters"]["kronos"]
    return 1000.0 * float(run.manifest["seconds"]["forecast kronos"]) / int(member["computed"])


def main() -> None:
    """Measure, and print a line a round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    times: dict[int, list[float]] = {workers: [] for workers in given.workers}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.rounds):
            for workers, seen in times.items():
                seen.append(milliseconds(workers, given.days, Path(scratch) / f"{number}-{workers}"))
                print(f"round {number + 1}, {workers} workers: {seen[-1]:.1f} ms an origin", flush=True)
    base = statistics.median(times[given.workers[0]])
    for workers, seen in times.items():
        median = statistics.median(seen)
        print(
            f"{workers} workers: {median:.1f} ms an origin ({min(seen):.1f} .. {max(seen):.1f}), {base / median:.2f} x"
        )


if __name__ == "__main__":
    main()
