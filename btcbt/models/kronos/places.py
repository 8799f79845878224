"""Where the parts of a checkpoint are, and what it says that it has looked at.

A place is ``kronos-nano``, a folder or a hub id. It holds a pair (``model/`` and ``tokenizer/``), a model (with
``tokenizer/`` in it or not), or a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from btcbt.errors import CheckpointError
from btcbt.models.kronos.checkpoints import (
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
from btcbt.models.kronos.published import known_ranges, known_tokenizer
from btcbt.records import DataRange

SHIPPED = "kronos-nano"


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
    """Longest context that a checkpoint was fitted with, as its recipe says; None without one."""
    file = open_place(place) / RECIPE_FILE
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
    root = open_place(place)
    folder = root
    if not (root / RANGES_FILE).is_file() and root.name in (MODEL_FOLDER, TOKENIZER_FOLDER):
        folder = root.parent
    if (folder / RANGES_FILE).is_file():
        return read_data_ranges(folder)
    return known_ranges(str(place))
