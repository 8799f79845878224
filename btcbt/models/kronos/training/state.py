"""The progress of a fit on disk: finished stages, and the state of the running one. Safetensors and JSON, no pickle.

Everything is written under another name, flushed to the disk and renamed, so that a kill at any moment leaves the old
file or the new one. A fit is identified by its digest; a state of another fit is never resumed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from btcbt.config import time_ms
from btcbt.errors import CheckpointError, ConfigError
from btcbt.files import TEMPORARY, replacing, write_whole
from btcbt.models.kronos.checkpoints.files import (
    MODEL_FOLDER,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    read_json,
    weights_digest,
)
from btcbt.models.kronos.training.recipe import FinetuneConfig
from btcbt.records import Candles

FIT_FILE = "fit.json"
STATE_FILE = "training_state.safetensors"
NUMERICS = 1
"""Raised whenever the same recipe, candles and parents give other weights than before."""

_NOT_IN_DIGEST = ("output", "save_every", "device", "name")
_PARTIAL_FIT_FILE = re.compile(rf"\.{re.escape(FIT_FILE)}\.[0-9a-f]{{8}}\.tmp")
_PARTIAL_NETWORK = re.compile(r"\.writing-\w{8}")
"""Temporary folders of `btcbt.models.kronos.checkpoints.files.write_network`."""


class ForeignFitError(ConfigError):
    """A folder holds another fit, or a checkpoint that was not made here."""


def fit_digest(config: FinetuneConfig, histories: Mapping[str, Candles], parents: Sequence[nn.Module]) -> str:
    """SHA-256 (hex) of all that determines a fit: recipe, the candles of its ranges, its starting weights.

    Output folder, interval between saved states, device and name are left out.
    """
    left_out = (*_NOT_IN_DIGEST, "start")
    recipe = {key: value for key, value in config.model_dump(mode="json").items() if key not in left_out}
    digest = hashlib.sha256(json.dumps({"numerics": NUMERICS, **recipe}, sort_keys=True).encode())
    start, end = time_ms(config.train.start), time_ms(config.select.end)
    for name in config.candles:
        candles = histories[name]
        rows = slice(*np.searchsorted(candles.open_time, (start, end)))
        digest.update(f"{name}:{candles.interval_ms}:".encode())
        for array in (candles.open_time[rows], candles.values[rows]):
            digest.update(np.ascontiguousarray(array).tobytes())
    for parent in parents:
        digest.update(weights_digest(parent).encode())
    return digest.hexdigest()


@dataclass
class Snapshot:
    """State of a stage between two steps: values for JSON, tensors by name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


class FitFolder:
    """The folder of a fit, and how far the fit has come.

    Parameters
    ----------
    folder : Path
    digest : str
        Of the fit (`fit_digest`).
    writes : bool
        False for processes that do not write.

    Raises
    ------
    ForeignFitError
        If the folder holds another fit, or a checkpoint that was not made by a fit.
    ConfigError
        If it cannot be written.
    """

    def __init__(self, folder: Path, digest: str, *, writes: bool = True) -> None:
        self.folder, self.digest, self.writes = folder, digest, writes
        self.finished: list[str] = []
        with self.writing():
            started = self._read()
            if writes:
                folder.mkdir(parents=True, exist_ok=True)
                self._clear(started)
                self._write_fit_file()

    def _read(self) -> bool:
        """Read the finished stages; return whether this fit was started here."""
        folder, digest = self.folder, self.digest
        fit_file = folder / FIT_FILE
        if fit_file.is_file():
            known = read_json(fit_file)
            if known.get("digest") != digest:
                raise ForeignFitError(
                    f"{folder}: holds the fit of another recipe, other candles or other starting weights (its digest "
                    f"is {str(known.get('digest'))[:12]}, this one's {digest[:12]}); choose another output, or remove "
                    "the folder"
                )
            stages = [str(stage) for stage in known.get("finished", [])]
            self.finished = [stage for stage in stages if (folder / stage / WEIGHTS_FILE).is_file()]
            return True
        if any(folder.glob(f"*/{WEIGHTS_FILE}")) or (folder / WEIGHTS_FILE).exists():
            raise ForeignFitError(f"{folder}: holds a checkpoint that this recipe did not make; choose another output")
        return False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an error of writing into one that names the folder.

        Raises
        ------
        ConfigError
            If something in it cannot be written.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:  # the latter is what safetensors makes of a full disk
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ConfigError(
                f"{self.folder}: a fit cannot be written there ({reason}); make room, or choose another output folder"
            ) from None

    def finish(self, stage: str) -> None:
        """Record a stage as finished and delete its state."""
        self.finished.append(stage)
        if self.writes:
            with self.writing():
                self._write_fit_file()
                (self.folder / STATE_FILE).unlink(missing_ok=True)

    def save(self, stage: str, snapshot: Snapshot) -> None:
        """Save the state of a stage, replacing any earlier one."""
        if self.writes:
            values = {"digest": self.digest, "stage": stage, **snapshot.values}
            tensors = {key: value.detach().cpu().contiguous() for key, value in snapshot.tensors.items()}
            metadata = {"state": json.dumps(values)}
            with self.writing(), replacing(self.folder / STATE_FILE) as file:
                save_file(tensors, file, metadata=metadata)

    def load(self, stage: str) -> Snapshot | None:
        """The saved state of a stage; None without one.

        Raises
        ------
        CheckpointError
            If the file is damaged.
        """
        path = self.folder / STATE_FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                values = json.loads((file.metadata() or {}).get("state", "{}"))
                if values.get("digest") != self.digest or values.get("stage") != stage:
                    return None
                return Snapshot(values, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (SafetensorError, ValueError, OSError) as error:
            raise CheckpointError(f"{path}: broken state of a fit ({error}); remove it to restart the stage") from None

    def _write_fit_file(self) -> None:
        content = {"digest": self.digest, "finished": self.finished}
        write_whole(self.folder / FIT_FILE, (json.dumps(content, indent=2) + "\n").encode())

    def _clear(self, started: bool) -> None:
        """Remove what a killed process of this fit left half-written, and nothing else.

        Before a fit is started in the folder, that can only be the file that identifies it.
        """
        for left in list(self.folder.glob(".*.tmp")):
            if (TEMPORARY if started else _PARTIAL_FIT_FILE).fullmatch(left.name) and left.is_file():
                left.unlink()
        for stage in (MODEL_FOLDER, TOKENIZER_FOLDER) if started else ():
            for left in list((self.folder / stage).glob(".writing-*")):
                if _PARTIAL_NETWORK.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts of an optimizer, by parameter number and name."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, moments in state.items() for name, value in moments.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `pack_optimizer` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
