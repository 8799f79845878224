"""Finds the parts of a checkpoint, and the candles that it declares to have looked at.

A checkpoint is named by ``kronos-nano``, a folder or a hub id. It holds a pair (``model/`` and ``tokenizer/``), a model
(with ``tokenizer/`` in it or not), or a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from btcbt.errors import CheckpointError
from btcbt.models.kronos.checkpoints.files import (
    CONFIG_FILE,
    MODEL_FOLDER,
    NANO,
    RANGES_FILE,
    RECIPE_FILE,
    TOKENIZER_FOLDER,
    read_data_ranges,
    read_json,
    resolve_folder,
)
from btcbt.models.kronos.checkpoints.location_prior import PRIOR_FILE, LocationPrior, read_prior
from btcbt.models.kronos.checkpoints.published import known_ranges, known_tokenizer
from btcbt.records import DataRange

SHIPPED = "kronos-nano"
UNDECLARED = DataRange("unknown", 0, 0)
"""Range of a part that declares nothing."""


def checkpoint_folder(checkpoint: str | Path, revision: str | None = None) -> Path:
    """Local folder of a checkpoint, downloaded if it is a hub id.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint.
    """
    return NANO if str(checkpoint) == SHIPPED and NANO.is_dir() else resolve_folder(checkpoint, revision)


def find_model(checkpoint: str | Path, revision: str | None = None) -> Path:
    """Folder of a checkpoint's model."""
    root = checkpoint_folder(checkpoint, revision)
    return root / MODEL_FOLDER if (root / MODEL_FOLDER).is_dir() else root


def find_tokenizer(checkpoint: str | Path, revision: str | None = None) -> str | Path:
    """Folder of a checkpoint's tokenizer, or its hub id where the model is known by its published name.

    Raises
    ------
    CheckpointError
        If the checkpoint is a model, and no tokenizer is in it, beside it, or known by its published name.
    """
    root = checkpoint_folder(checkpoint, revision)
    if (root / TOKENIZER_FOLDER).is_dir():
        return root / TOKENIZER_FOLDER
    config = read_json(root / CONFIG_FILE)
    if "d_in" in config or "n_layers" not in config:  # keys that tokenizers and models alone have, upstream's too
        return root
    if root.name == MODEL_FOLDER and (root.parent / TOKENIZER_FOLDER).is_dir():
        return root.parent / TOKENIZER_FOLDER
    known = known_tokenizer(str(checkpoint))
    if known is None:
        raise CheckpointError(f"{checkpoint}: a model without its tokenizer; put it into {root / TOKENIZER_FOLDER}")
    return known


def fitted_context(checkpoint: str | Path) -> int | None:
    """Longest context that a checkpoint was fitted with, by its recipe or its pair's; None without a recipe."""
    file = _own_or_pair_file(checkpoint_folder(checkpoint), RECIPE_FILE)
    context = read_json(file).get("context") if file.is_file() else None
    if isinstance(context, list) and len(context) == 2 and all(isinstance(n, int) and n >= 2 for n in context):
        return int(context[1])
    return None


def find_location_prior(checkpoint: str | Path) -> LocationPrior | None:
    """What a checkpoint's validation hours say about the location of its forecasts; None if it says nothing."""
    return read_prior(_own_or_pair_file(checkpoint_folder(checkpoint), PRIOR_FILE))


def declared_ranges(checkpoint: str | Path) -> Sequence[DataRange] | None:
    """Candles that a checkpoint has looked at, by its own file, its pair's, or its published name; None if unknown."""
    file = _own_or_pair_file(checkpoint_folder(checkpoint), RANGES_FILE)
    return read_data_ranges(file.parent) if file.is_file() else known_ranges(str(checkpoint))


def pair_ranges(model: str | None, tokenizer: str | None) -> tuple[DataRange, ...] | None:
    """Candles that a model or the tokenizer used with it has looked at; None if no part of them declares any.

    Parameters
    ----------
    model : str, optional
        Checkpoint of the model; None for new weights.
    tokenizer : str, optional
        Checkpoint of the tokenizer, if it is another one. If left out it is the model's, whose declaration covers
        both unless the tokenizer is a published checkpoint of its own.
    """
    if tokenizer is None and model is not None:
        found = find_tokenizer(model)
        tokenizer = found if isinstance(found, str) else None
    declared = [declared_ranges(one) for one in (tokenizer, model) if one is not None]
    if declared and all(ranges is None for ranges in declared):
        return None
    merged: dict[DataRange, None] = {}
    for ranges in declared:
        merged |= dict.fromkeys((UNDECLARED,) if ranges is None else ranges)
    return tuple(merged)


def _own_or_pair_file(root: Path, name: str) -> Path:
    """A file of a checkpoint's folder, or that of the pair that the folder is a part of."""
    part = root.name in (MODEL_FOLDER, TOKENIZER_FOLDER) and not (root / name).is_file()
    return (root.parent if part else root) / name
