"""Weights to and from disk and hub, in upstream's layout: ``config.json`` beside ``model.safetensors``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from btcbt.errors import CheckpointError
from btcbt.models.kronos.shapes import ModelConfig, TokenizerConfig
from btcbt.records import DataRange

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RANGES_FILE = "data_ranges.json"
RECIPE_FILE = "recipe.json"
MODEL_FOLDER, TOKENIZER_FOLDER = "model", "tokenizer"
"""Parts of a folder that holds a pair."""
NANO = Path(__file__).parents[1] / "nano"
"""The shipped checkpoint: a folder with ``tokenizer/`` and ``model/``."""

_MAX_JSON_BYTES = 1 << 20
_FLOATS = {"F64", "F32", "F16", "BF16"}

ConfigT = TypeVar("ConfigT", TokenizerConfig, ModelConfig)


class Checkpointed(Generic[ConfigT]):
    """`from_pretrained` and `save_pretrained` for a network whose constructor takes its configuration."""

    config_class: ClassVar[type[Any]]
    model_type: ClassVar[str]
    """What ``config.json`` says that the folder holds; transformers' Auto classes choose by it."""
    config: ConfigT

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path, *, revision: str | None = None) -> Self:
        """Load a network from a folder, or from the model hub.

        Parameters
        ----------
        path_or_hub_id : str or Path
            A folder with ``config.json`` and ``model.safetensors``, or a hub id such as
            ``NeoQuasar/Kronos-small``.
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
        folder = resolve_folder(path_or_hub_id, revision)
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


def write_network(
    folder: Path, state: Mapping[str, Tensor], config: TokenizerConfig | ModelConfig, model_type: str
) -> None:
    """Write a network's two files; upstream's classes ignore the key `model_type`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    described = {"model_type": model_type, **config.to_dict()}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
        weights, described_in = Path(scratch) / WEIGHTS_FILE, Path(scratch) / CONFIG_FILE
        save_file(state, weights, metadata={"format": "pt"})
        described_in.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        os.replace(weights, folder / WEIGHTS_FILE)
        os.replace(described_in, folder / CONFIG_FILE)


def describe_pair(root: Path) -> None:
    """Put the model's ``config.json`` beside ``model/`` and ``tokenizer/``: the Auto classes look for it there."""
    shutil.copyfile(root / MODEL_FOLDER / CONFIG_FILE, root / CONFIG_FILE)


def resolve_folder(path_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a checkpoint, downloading it if it is a hub id.

    Raises
    ------
    CheckpointError
        If there is no such folder, and the hub does not have it or cannot be reached.
    """
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    name = str(path_or_hub_id)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{name}: no such folder; give a checkpoint folder or a hub id such as owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = [CONFIG_FILE, WEIGHTS_FILE, RANGES_FILE, RECIPE_FILE]
    files += [f"{part}/{file}" for part in (MODEL_FOLDER, TOKENIZER_FOLDER) for file in (CONFIG_FILE, WEIGHTS_FILE)]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{name}: neither a folder here nor to be had from the hub ({reason}); "
            "check the name and the network, or download it and give the folder"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object, or raise a CheckpointError that names the file."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {_MAX_JSON_BYTES:,} bytes; not a checkpoint's file")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); is the checkpoint complete?") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: not JSON; download or save the checkpoint again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds {type(values).__name__}, expected a JSON object")
    return values


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


def weights_digest(module: nn.Module) -> str:
    """SHA-256 (hex) over names, shapes and values of all parameters: the content, wherever it was stored."""
    digest = hashlib.sha256()
    for name, value in sorted(module.named_parameters()):
        array = value.detach().float().cpu().contiguous().numpy()
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_data_ranges(folder: Path) -> tuple[DataRange, ...] | None:
    """Candles that a checkpoint was made from, as its folder declares; None if it declares nothing.

    The file holds ``{"ranges": [{"use": ..., "start": ISO time, "end": ISO time}, ...]}``, ends exclusive; ``null``
    in place of the list says that they are unknown.
    """
    path = folder / RANGES_FILE
    if not path.is_file():
        return None
    entries = read_json(path).get("ranges")
    if entries is None:
        return None
    try:
        return tuple(DataRange(str(e["use"]), _iso_ms(e["start"]), _iso_ms(e["end"])) for e in entries)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: a range is malformed ({error}); expected use, start and end") from None


def write_data_ranges(folder: Path, ranges: tuple[DataRange, ...] | None, note: str = "") -> None:
    """Write what `read_data_ranges` reads."""
    entries = (
        None if ranges is None else [{"use": r.use, "start": _ms_iso(r.start), "end": _ms_iso(r.end)} for r in ranges]
    )
    content: Mapping[str, object] = {"ranges": entries, "note": note}
    (folder / RANGES_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _iso_ms(text: str) -> int:
    time = datetime.fromisoformat(text)
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _ms_iso(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).replace(tzinfo=None).isoformat() + "Z"
