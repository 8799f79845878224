"""Networks that load from and save to a checkpoint; every key, shape and number of a file is checked first."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from btcbt.errors import CheckpointError
from btcbt.models.kronos.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE, read_json, resolve_folder, write_network
from btcbt.models.kronos.shapes import ModelConfig, TokenizerConfig

_FLOATS = {"F64", "F32", "F16", "BF16"}

ConfigT = TypeVar("ConfigT", TokenizerConfig, ModelConfig)


class Checkpointed(Generic[ConfigT]):
    """`from_pretrained` and `save_pretrained` for a network whose constructor takes its configuration."""

    config_class: ClassVar[type[Any]]
    model_type: ClassVar[str]
    """Key ``model_type`` of ``config.json``, by which transformers' Auto classes choose a class."""
    config: ConfigT

    @staticmethod
    @abstractmethod
    def _locate(path_or_hub_id: str | Path, revision: str | None) -> str | Path:
        """The network's own folder, or hub id, in a checkpoint."""

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path, *, revision: str | None = None) -> Self:
        """Load a network from a folder, or from the model hub.

        Parameters
        ----------
        path_or_hub_id : str or Path
            ``kronos-nano``, a folder with ``config.json`` and ``model.safetensors``, a folder of a pair
            (``model/`` and ``tokenizer/``), or a hub id such as ``NeoQuasar/Kronos-small``.
        revision : str, optional
            Branch, tag or commit on the hub.

        Returns
        -------
        module
            In evaluation mode, float32, on the CPU.

        Raises
        ------
        CheckpointError
            If a file is missing or broken, or a key is missing, foreign or of another shape; names the key.
        """
        folder = resolve_folder(cls._locate(path_or_hub_id, revision))
        config = cls.config_class.from_dict(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
        with torch.device("meta"):  # a few lines of JSON can name a network that no machine has memory for
            shapes = cast(nn.Module, cls(config))  # type: ignore[call-arg]
        _check_shapes(shapes, folder / WEIGHTS_FILE)
        network = cls(config)  # type: ignore[call-arg]
        module = cast(nn.Module, network)
        _load_weights(module, folder / WEIGHTS_FILE)
        module.eval()
        return network

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, each whole or not at all; upstream's classes read them."""
        write_network(Path(folder), cast(nn.Module, self).state_dict(), self.config, self.model_type)


def _check_shapes(module: nn.Module, path: Path) -> None:
    """Compare a safetensors file's keys, shapes and types with a network's before memory is taken for either."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; is the checkpoint complete?")
    own = module.state_dict()
    constants = {name for name, _ in module.named_buffers()}
    with _broken_file_named(path), safe_open(path, framework="pt") as file:
        found = set(file.keys())
        missing = sorted(set(own) - found - constants)
        if missing:
            raise CheckpointError(f"{path}: key '{missing[0]}' is missing ({len(missing)} in all)")
        foreign = sorted(found - set(own))
        if foreign:
            raise CheckpointError(
                f"{path}: key '{foreign[0]}' does not belong to {type(module).__name__} ({len(foreign)} in all)"
            )
        for key in sorted(found):
            part = file.get_slice(key)
            if list(part.get_shape()) != list(own[key].shape):
                raise CheckpointError(
                    f"{path}: key '{key}' has shape {tuple(part.get_shape())}, "
                    f"expected {tuple(own[key].shape)} by {CONFIG_FILE}"
                )
            if own[key].is_floating_point() and part.get_dtype() not in _FLOATS:
                raise CheckpointError(f"{path}: key '{key}' holds {part.get_dtype()}, expected floating point")


def _load_weights(module: nn.Module, path: Path) -> None:
    """Fill `module` from a safetensors file that `_check_shapes` found to fit it."""
    own = module.state_dict()
    constants = {name for name, _ in module.named_buffers()}
    with _broken_file_named(path), safe_open(path, framework="pt") as file:
        state = {key: _checked(path, key, file.get_tensor(key), own[key], key in constants) for key in file.keys()}  # noqa: SIM118
    module.load_state_dict(own | state)


@contextmanager
def _broken_file_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: broken file ({error}); download or save it again") from None


def _checked(path: Path, key: str, value: Tensor, own: Tensor, constant: bool) -> Tensor:
    """Weights must be finite; constants that upstream stores must be the ones that the code computes."""
    value = value.to(own.dtype)
    if constant:
        if not torch.allclose(value.double(), own.double(), rtol=1e-2):
            raise CheckpointError(f"{path}: key '{key}' differs from the constant that this network uses")
        return own
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{path}: key '{key}' has NaN or infinite values; the checkpoint is unusable")
    return value
