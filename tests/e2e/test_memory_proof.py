"""Peak memory of ten times as many origins of one history: paths are held a batch at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from btcbt.candles import write_candles
from btcbt.records import Candles

FEW, MANY = 7_000, 70_000
MORE = 0.10
"""Ten times as many origins may add so much: their rows in the account and their months' scores, and no path."""
FIRST = "2019-01-11"  # the history starts ten days before

EXPERIMENT = """\
name: memory
candles: {{path: "{candles}"}}
windows: {{start: {first}, end: {last}, context: 48, horizon: {horizon}}}
forecasters:
  random_walk: {{kind: random_walk, n_paths: {n_paths}}}
strategies: {strategies}
placebos: {placebos}
store: {{root: "{root}", shard_size: 500}}
"""
CHILD = """\
import resource, sys
from btcbt.walkforward.runner import run
run(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


MOST_MB = 3500
"""Of the paths of `PATHS`: shards of 128 MiB, a few of them queued, and the arrays of a batch."""
PATHS = (5000, 24)


def peak_megabytes(
    folder: Path, candles: Path, origins: int, strategies: str, placebos: int, paths: tuple[int, int] = (8, 4)
) -> float:
    """Highest resident memory of a process that runs the experiment from the first forecast to the figures."""
    import numpy as np

    n_paths, horizon = paths
    last = np.datetime64(FIRST, "h") + origins
    file = folder / "memory.yaml"
    file.write_text(
        EXPERIMENT.format(
            candles=candles,
            first=FIRST,
            last=f"{last}:00:00Z",
            strategies=strategies,
            n_paths=n_paths,
            horizon=horizon,
            placebos=placebos,
            root=folder / f"runs-{origins}",
        )
    )
    done = subprocess.run([sys.executable, "-c", CHILD, str(file)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


@pytest.mark.proof
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in the units of Linux")
def test_a_further_origin_needs_a_few_numbers_of_memory_and_none_of_its_paths(
    make_history: Callable[..., Candles], tmp_path: Path
) -> None:
    candles = tmp_path / "candles.parquet"
    write_candles(make_history(MANY + 24 * 11), candles)
    trade = "{threshold: {use: threshold}}"
    # Fewer placebos than are worth other processes, whose memory would not be seen here.
    rows = {"forecast and score": ("{}", 0), "and trade": (trade, 0), "and 4 placebo runs": (trade, 4)}
    peaks = {row: [peak_megabytes(tmp_path, candles, n, *what) for n in (FEW, MANY)] for row, what in rows.items()}
    sys.stdout.write(f"\npeak RSS in MB, random walk, 8 paths x 4 hours {FEW:>10,} {MANY:>10,} origins\n")
    sys.stdout.writelines(
        f"{row:<46} {few:10.0f} {many:10.0f} {many / few - 1:+.1%}\n" for row, (few, many) in peaks.items()
    )
    for few, many in peaks.values():
        assert many <= (1 + MORE) * few


@pytest.mark.proof
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in the units of Linux")
def test_five_thousand_paths_of_a_day_fit_into_a_few_gigabytes(
    make_history: Callable[..., Candles], tmp_path: Path
) -> None:
    candles = tmp_path / "candles.parquet"
    write_candles(make_history(24 * 18), candles)
    peak = peak_megabytes(tmp_path, candles, 120, "{threshold: {use: threshold}}", 0, PATHS)
    sys.stdout.write(f"\npeak RSS of {PATHS[0]:,} paths x {PATHS[1]} hours, 120 origins: {peak:,.0f} MB\n")
    assert peak <= MOST_MB
