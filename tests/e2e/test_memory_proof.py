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
BYTES_AN_ORIGIN = 1_500
"""What a further origin may add: its rows in the history, the account and the scores of its month, and no path."""
FIRST = "2019-01-11"  # the history starts ten days before

EXPERIMENT = """\
name: memory
candles: {{path: "{candles}"}}
windows: {{start: {first}, end: {last}, context: 48, horizon: 4}}
forecasters:
  random_walk: {{kind: random_walk, n_paths: 8}}
strategies: {strategies}
store: {{root: "{root}", shard_size: 500}}
"""
CHILD = """\
import resource, sys
from btcbt.runner import run
run(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_megabytes(folder: Path, candles: Path, origins: int, strategies: str) -> float:
    """Highest resident memory of a process that runs the experiment from the first forecast to the figures."""
    import numpy as np

    last = np.datetime64(FIRST, "h") + origins
    file = folder / "memory.yaml"
    file.write_text(
        EXPERIMENT.format(
            candles=candles, first=FIRST, last=f"{last}:00:00Z", strategies=strategies, root=folder / f"runs-{origins}"
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
    rows = {"forecast and score": "{}", "and trade": '{threshold: {use: "strategies.threshold:Threshold"}}'}
    peaks = {
        row: [peak_megabytes(tmp_path, candles, origins, strategies) for origins in (FEW, MANY)]
        for row, strategies in rows.items()
    }
    sys.stdout.write(f"\npeak RSS in MB, random walk, 8 paths x 4 hours {FEW:>10,} {MANY:>10,} origins\n")
    sys.stdout.writelines(
        f"{row:<46} {few:10.0f} {many:10.0f} {many / few - 1:+.1%}\n" for row, (few, many) in peaks.items()
    )
    for few, many in peaks.values():
        assert (many - few) * 2**20 <= BYTES_AN_ORIGIN * (MANY - FEW)
