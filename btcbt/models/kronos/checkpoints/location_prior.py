"""What a checkpoint's own validation hours say about the location of its forecasts, in ``location.json``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from btcbt.errors import CheckpointError
from btcbt.models.kronos.checkpoints.files import read_json
from btcbt.records import FloatArray

PRIOR_FILE = "location.json"


@dataclass(frozen=True, slots=True, eq=False)
class LocationPrior:
    """Sums of a regression at each step, as `btcbt.forecasters.located.LocationRegression` makes them.

    Attributes
    ----------
    gram : float64 (H, 2, 2)
        Of the products of the two regressors.
    moment : float64 (H, 2)
        Of the products of the regressors with the outcome.
    """

    gram: FloatArray
    moment: FloatArray

    def digest(self) -> str:
        """SHA-256 of both sums (64 hex digits)."""
        return hashlib.sha256(self.gram.tobytes() + self.moment.tobytes()).hexdigest()

    def write(self, folder: Path, note: str) -> None:
        """Write ``location.json``; the note says which hours it was fitted on."""
        tree = {"note": note, "gram": self.gram.round(5).tolist(), "moment": self.moment.round(5).tolist()}
        (folder / PRIOR_FILE).write_text(json.dumps(tree) + "\n", encoding="utf-8")


def read_prior(file: Path) -> LocationPrior | None:
    """Read the prior of a checkpoint; None if it has none.

    Raises
    ------
    CheckpointError
        If the file does not hold what `LocationPrior.write` writes.
    """
    if not file.is_file():
        return None
    tree = read_json(file)
    try:
        gram, moment = (np.asarray(tree[key], dtype=np.float64) for key in ("gram", "moment"))
    except (KeyError, TypeError, ValueError):
        gram, moment = np.empty(0), np.empty(0)
    steps = len(moment)
    if not steps or gram.shape != (steps, 2, 2) or moment.shape != (steps, 2) or not np.isfinite(gram).all():
        raise CheckpointError(
            f"{file}: expected 'gram' (H, 2, 2) and 'moment' (H, 2), finite numbers; delete it, or fit it again"
        )
    return LocationPrior(gram, moment)
