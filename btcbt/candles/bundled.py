"""Samples of real candles that ship with the package, so that an experiment needs no network."""

from __future__ import annotations

from pathlib import Path

from btcbt.errors import CandleError

PREFIX = "bundled:"
"""Prefix of a path that names a sample."""

_FOLDER = Path(__file__).parent / "sample"


def bundled_names() -> tuple[str, ...]:
    """Names of the samples, sorted; ``read_candles("bundled:BTCUSD_1h")`` reads one."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.parquet")))


def bundled_path(name: str) -> Path:
    """The packaged file of a sample; `name` with or without ``bundled:``.

    Raises
    ------
    CandleError
        If there is no such sample; the message lists those that exist.
    """
    wanted = name.removeprefix(PREFIX)
    # Looking the name up in the list, not in the folder, excludes '../' and absolute paths.
    if wanted not in bundled_names():
        known = ", ".join(bundled_names())
        raise CandleError(f"candles {name}: no such sample; use {PREFIX}NAME with one of {known}")
    return _FOLDER / f"{wanted}.parquet"
