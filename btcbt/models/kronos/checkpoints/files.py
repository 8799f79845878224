"""The files of a checkpoint, in upstream's layout: ``config.json`` beside ``model.safetensors``, here or on the hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from btcbt.errors import CheckpointError
from btcbt.files import read_file
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

MAX_TEXT_BYTES = 1 << 20
"""Most bytes of each file of a checkpoint but its weights."""


def write_network(
    folder: Path, state: Mapping[str, Tensor], config: TokenizerConfig | ModelConfig, model_type: str
) -> None:
    """Write a network's two files; upstream's classes ignore the key `model_type`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    values = {"model_type": model_type, **config.to_dict()}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        weights_file, config_file = Path(temporary) / WEIGHTS_FILE, Path(temporary) / CONFIG_FILE
        save_file(state, weights_file, metadata={"format": "pt"})
        config_file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(weights_file, folder / WEIGHTS_FILE)
        os.replace(config_file, folder / CONFIG_FILE)


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
            f"{name}: no such folder, and not available from the hub ({reason}); "
            "check the name and the network, or download it and give the folder"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object, or raise a CheckpointError that names the file."""
    try:
        values = json.loads(read_file(path, MAX_TEXT_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); is the checkpoint complete?") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: not JSON; download or save the checkpoint again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds {type(values).__name__}, expected a JSON object")
    return values


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
    instead of the list says that they are unknown.

    Raises
    ------
    CheckpointError
        If an entry is malformed, or ends before it starts.
    """
    path = folder / RANGES_FILE
    if not path.is_file():
        return None
    entries = read_json(path).get("ranges")
    if entries is None:
        return None
    try:
        for e in entries:
            if _iso_ms(e["end"]) < _iso_ms(e["start"]):
                raise CheckpointError(
                    f"{path}: the range '{e['use']}' ends {e['end']}, before its start {e['start']}; swap the two"
                )
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
