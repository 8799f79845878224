"""Base class of pretrained models of quantiles that are read from a folder or the hub."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from btcbt.errors import CheckpointError
from btcbt.forecasters.kronos import resolve_dtype
from btcbt.forecasters.quantile_model import QuantileModel
from btcbt.messages import short
from btcbt.models.kronos.checkpoints.files import (
    CONFIG_FILE,
    read_data_ranges,
    read_json,
    resolve_folder,
    weights_digest,
)
from btcbt.models.kronos.inference.devices import resolve_device
from btcbt.records import DataRange

_DEVICE_ORIGINS = 256
_LOADING_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError, SafetensorError)


class QuantileCheckpoint(QuantileModel):
    """A network of transformers' file format: ``config.json`` beside ``model.safetensors``.

    Parameters
    ----------
    checkpoint : str
        Folder or hub id. A ``data_ranges.json`` in it declares what it was trained on; without one, origins are
        ``unknown``.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    dtype : str
        ``float32`` or ``bfloat16``, of the network.
    context, horizon, n_paths, seed, batch_size
        As of `Baseline`.

    Raises
    ------
    ConfigError
        If device or dtype is not available, or a package is not installed.
    CheckpointError
        If the checkpoint is missing, damaged, or of another architecture.
    ForecasterError
        If the context or the horizon is outside of what the model takes.
    """

    def __init__(
        self,
        *,
        context: int,
        horizon: int,
        n_paths: int,
        seed: int,
        batch_size: int | None = None,
        checkpoint: str,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        self.device = resolve_device(device)
        on_cpu = self.device.type == "cpu"
        size = batch_size or (None if on_cpu else _DEVICE_ORIGINS)
        super().__init__(context=context, horizon=horizon, n_paths=n_paths, seed=seed, batch_size=size)
        self.single_threaded = on_cpu
        self.checkpoint, self.dtype = checkpoint, resolve_dtype(dtype, self.device)
        classes = self._classes()
        folder = resolve_folder(checkpoint)
        self.architecture = _architecture(folder, checkpoint, tuple(classes))
        self.model = _load(classes[self.architecture], folder, checkpoint, self.dtype).to(self.device)
        self.ranges = read_data_ranges(folder)
        self._digest = weights_digest(self.model)
        self._check_limits(*self._limits())

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Data ranges that the checkpoint declares; None if it declares none."""
        return self.ranges

    @classmethod
    @abstractmethod
    def _classes(cls) -> Mapping[str, Any]:
        """The classes of its networks, by the name of their architecture.

        Raises
        ------
        ConfigError
            If their package is not installed.
        """

    @abstractmethod
    def _limits(self) -> tuple[int, int, int]:
        """Fewest and most closes that the network takes, and how many steps it forecasts at once."""

    def _parameters(self) -> Mapping[str, object]:
        dtype = str(self.dtype).removeprefix("torch.")
        return {**super()._parameters(), "weights_sha256": self._digest, "dtype": dtype}


def _architecture(folder: Path, name: str, known: Sequence[str]) -> str:
    """The architecture that a checkpoint's ``config.json`` names, if it is a known one."""
    named = read_json(folder / CONFIG_FILE).get("architectures")
    found = named[0] if isinstance(named, list) and named else None
    if found not in known:
        raise CheckpointError(
            f"{name}: its architecture is {short(found)}, expected {' or '.join(known)}; name another checkpoint, or "
            "the kind of forecaster that it belongs to"
        )
    return str(found)


def _load(network: Any, folder: Path, name: str, dtype: torch.dtype) -> Any:
    """Load weights into a class of transformers. None may be missing: transformers would leave it random."""
    try:
        model, report = network.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except _LOADING_ERRORS as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(f"{name}: cannot be loaded ({reason}); download it again, or name another") from None
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise CheckpointError(f"{name}: {len(missing)} weights are missing, such as {missing[0]}; download it again")
    return model.eval()
