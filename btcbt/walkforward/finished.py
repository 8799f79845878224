"""A finished run of the same experiment: read instead of made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from btcbt.errors import StoreError
from btcbt.files import open_regular
from btcbt.records import FloatArray
from btcbt.storage.runs import Run, load_run
from btcbt.walkforward.members import Member
from btcbt.walkforward.registration import Standing

FILES = ("manifest.json", "metrics.json", "scores.parquet", "origins.parquet", "targets.parquet", "report.html")
"""Files without which a run is not whole; those that it has are read."""


def whole(directory: Path, files: Sequence[str]) -> bool:
    """Whether a directory has all files, and its Parquet files can be read."""
    try:
        for file in directory.glob("*.parquet"):
            with open_regular(file) as content:
                pq.read_table(content)
    except (StoreError, OSError, pa.ArrowException):
        return False
    return all((directory / name).is_file() for name in files)


def stored_run(directory: Path, registered: Standing, members: Mapping[str, Member], targets: FloatArray) -> Run | None:
    """The run in a directory, if it is whole and what would be made now.

    The directory's name is the digest of configuration, candles, forecasts, code and strategies. What a strategy reads
    from a file of its own, what a checkpoint declares of its data, and what a forecaster is fitted on beside these
    candles are not part of it, so decisions, contamination labels and the digests of what forecasts were made from are
    compared.

    Parameters
    ----------
    directory : Path
    registered : Standing
        How the run stands to the registrations of its name, now.
    members : mapping
        Its forecasters, with the labels that they have now.
    targets : float64 (M, K)
        The decisions, made now.
    """
    if not whole(directory, FILES):
        return None
    try:
        run = load_run(directory)
        for name in run.manifest["forecasters"]:
            run.forecasts(name)  # verifies the files
        origins = run.origins()
        labelled = all(np.array_equal(origins[f"label.{name}"], one.labels) for name, one in members.items())
        digests = run.digests()
        same_inputs = all(
            digests[one.column].tolist() == [d.tobytes().hex() for d in one.digests] for one in members.values()
        )
        stored = run.targets().to_numpy(dtype=np.float64)
    except (StoreError, OSError, KeyError, pa.ArrowException):
        return None
    audit = run.manifest.get("audit") or {}
    same = stored.shape == targets.shape and np.array_equal(stored, targets, equal_nan=True)
    as_registered = run.manifest.get("registration") == registered.as_json()
    return run if same and labelled and same_inputs and as_registered and not audit.get("stale") else None
