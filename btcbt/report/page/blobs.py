"""How numbers travel in a page: gzip in base64, which the script unpacks with ``DecompressionStream("gzip")``."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack(array: NDArray[Any]) -> str:
    """The bytes of an array."""
    return _packed(np.ascontiguousarray(array).tobytes())


def pack_json(value: object) -> str:
    """JSON without spaces; numbers are finite."""
    return _packed(json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
