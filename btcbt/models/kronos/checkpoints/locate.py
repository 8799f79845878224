"""Where the parts of a checkpoint are, and what it says that it has looked at.

A place is ``kronos-nano``, a folder or a hub id. It holds a pair (``model/`` and ``tokenizer/``), a model (with
``tokenizer/`` in it or not), or a tokenizer.
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
from btcbt.models.kronos.checkpoints.published import known_ranges, known_tokenizer
from btcbt.records import DataRange

SHIPPED = "kronos-nano"
UNDECLARED = DataRange("unknown", 0, 0)
"""Stands for what a part that declares nothing has looked at."""


def open_place(place: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint, downloaded if it is a hub id.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    return NANO if str(place) == SHIPPED and NANO.is_dir() else resolve_folder(place, revision)


def find_model(place: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint's model."""
    root = open_place(place, revision)
    return root / MODEL_FOLDER if (root / MODEL_FOLDER).is_dir() else root


def fitted_context(place: str | Path) -> int | None:
    """Longest context that a checkpoint was fitted with, as its recipe or its pair's says; None without one."""
    file = _own_or_pair_file(open_place(place), RECIPE_FILE)
    context = read_json(file).get("context") if file.is_file() else None
    if isinstance(context, list) and len(context) == 2 and all(isinstance(n, int) and n >= 2 for n in context):
        return int(context[1])
    return None


def find_tokenizer(place: str | Path, revision: str | None = None) -> str | Path:
    """Where the tokenizer is that belongs to a checkpoint: a folder, or the hub id that a model's name is known by.

    Raises
    ------
    CheckpointError
        If the checkpoint is a model, and no tokenizer is in it, beside it, or known by its published name.
    """
    root = open_place(place, revision)
    if (root / TOKENIZER_FOLDER).is_dir():
        return root / TOKENIZER_FOLDER
    if read_json(root / CONFIG_FILE).get("d_in") is not None:  # a key of tokenizers alone, upstream's too
        return root
    if root.name == MODEL_FOLDER and (root.parent / TOKENIZER_FOLDER).is_dir():
        return root.parent / TOKENIZER_FOLDER
    known = known_tokenizer(str(place))
    if known is None:
        raise CheckpointError(f"{place}: a model without its tokenizer; put it into {root / TOKENIZER_FOLDER}")
    return known


def declared_ranges(place: str | Path) -> Sequence[DataRange] | None:
    """Candles that a checkpoint has looked at, by its own file, its pair's, or its published name; None if unknown."""
    file = _own_or_pair_file(open_place(place), RANGES_FILE)
    return read_data_ranges(file.parent) if file.is_file() else known_ranges(str(place))


def pair_ranges(model: str | None, tokenizer: str | None) -> tuple[DataRange, ...] | None:
    """Candles that a model or the tokenizer used with it has looked at; None if no part of them declares any.

    Parameters
    ----------
    model : str, optional
        Place of the model; None for a new one.
    tokenizer : str, optional
        Place of the tokenizer, where it is apart; otherwise the model's, which declares with it unless it is another
        checkpoint that is known to belong to it.
    """
    if tokenizer is None and model is not None:
        found = find_tokenizer(model)
        tokenizer = found if isinstance(found, str) else None
    declared = [declared_ranges(place) for place in (tokenizer, model) if place is not None]
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
