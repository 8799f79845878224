"""The same forecasts whatever the batch, the shard, the engine, the number of workers and the range."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from btcbt.config import RunConfig
from btcbt.walkforward.runner import run

WINDOWS = {"context": 48, "horizon": 6, "start": "2019-06-01", "end": "2019-06-09"}
LONGER = WINDOWS | {"start": "2019-05-30", "end": "2019-06-11"}
FORECASTERS = {
    "random_walk": {"kind": "random_walk", "n_paths": 5},
    "ewma": {"kind": "ewma_volatility", "n_paths": 5},
    "garch": {"kind": "garch", "n_paths": 5},
    "kronos": {"kind": "kronos", "n_paths": 2, "device": "cpu"},
}
CASES = {
    "batch 1": {"batch": 1},
    "batch 7": {"batch": 7},
    "batch 64": {"batch": 64},
    "shards of 24": {"shard": 24},
    "shards of 500": {"shard": 500},
    "1 worker": {"executor": {"kind": "local", "workers": 1}},
    "4 joblib workers": {"executor": {"kind": "joblib", "workers": 4}},
    "a longer range": {"windows": LONGER},
}


def paths(
    root: Path,
    names: list[str],
    *,
    batch: int | str = "auto",
    shard: int = 168,
    executor: dict[str, object] | None = None,
    windows: dict[str, object] = WINDOWS,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Origins (M,) and paths (M, S, H, 6) of each forecaster."""
    tree = {
        "name": "invariance",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": windows,
        "forecasters": {name: FORECASTERS[name] | {"batch_size": batch} for name in names},
        "store": {"root": str(root), "shard_size": shard},
        "executor": executor or {"kind": "local"},
    }
    finished = run(RunConfig.model_validate(tree, strict=False))
    assert all(member["reused"] == 0 for member in finished.manifest["forecasters"].values())
    return {name: (finished.forecasts(name).origins, finished.forecasts(name).paths()) for name in names}


def difference(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """Largest relative difference of any value of the paths at the origins of the first."""
    here = np.isin(other[0], one[0])
    np.testing.assert_array_equal(other[0][here], one[0])
    return float(np.max(np.abs(other[1][here] - one[1]) / np.maximum(np.abs(one[1]), 1e-9)))


@pytest.mark.proof
def test_no_path_depends_on_how_the_work_was_cut(tmp_path: Path) -> None:
    names = list(FORECASTERS)
    reference = paths(tmp_path / "reference", names)
    table = {}
    for number, (case, changes) in enumerate(CASES.items()):
        given = paths(tmp_path / str(number), names, **changes)  # type: ignore[arg-type]
        table[case] = {name: difference(reference[name], given[name]) for name in names}
    sys.stdout.write(f"\nlargest relative difference to batch auto, shards of 168\n{'':18}")
    sys.stdout.write("".join(f"{name:>13}" for name in names) + "\n")
    for case, row in table.items():
        sys.stdout.write(f"{case:18}" + "".join(f"{value:13.1e}" for value in row.values()) + "\n")
    for case, row in table.items():
        # Baselines are equal bit for bit; a network's sums are rounded anew for each size of batch. Another token
        # would be another price by some 1e-4 or more.
        assert {name: value for name, value in row.items() if value > (1e-5 if name == "kronos" else 0.0)} == {}, case
