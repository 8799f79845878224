"""Trees of JSON values: their digest, which does not depend on the order of keys, and their leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any


def canonical(tree: object) -> bytes:
    """JSON with sorted keys and without spaces.

    Raises
    ------
    TypeError, ValueError
        If a value is none of JSON.
    """
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


def tree_digest(tree: object) -> str:
    """SHA-256 (64 hex digits) of `canonical`."""
    return hashlib.sha256(canonical(tree)).hexdigest()


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; an empty mapping is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
