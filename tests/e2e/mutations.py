"""Changes of files, drawn from a seeded generator: bytes, lines of YAML, and values of JSON."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from btcbt.trees import tree_digest
from tests.e2e.test_experiment_fuzz import KEYS, VALUES

TOKENS = [
    *(b"nan", b"inf", b"1e999", b"-1", b"9" * 30, b"0" * 300, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m"),
    *(b"[" * 999, b"{", b"}", b"\n", b",", b'"', b"PAR1", b"PK\x03\x04", b"../../x", b"\\ud800", b"\r"),
]
ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 7, 0.5, 2**31, 2**63, -(2**63) - 1, 2**200, 1e308, 1e-320, float("nan")),
    *(float("inf"), "", "x", "x" * 400, "../../etc", "/etc/passwd", "\x1b[31m", "\ud800", "\u2028", "nan", "a\nb"),
    *("1e999", "0001-01-01T00:00:00+00:00", "9999-12-31", "random_walk", [], {}, [[]], [0], ["a"], {"a": 1}),
]
DIGITS = [b"%d" % digit for digit in range(10)]
DEEP = json.loads("[" * 400 + "]" * 400)
SEALED = {"trial": 16, "registration": 64}
"""Where a file has a checksum of what lies beside it: its key, and the digits of the checksum."""


def pick(rng: np.random.Generator, values: Any) -> Any:
    """One of them; a choice by numpy would turn them into an array."""
    return values[int(rng.integers(len(values)))]


def mutate_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """The content after one to three flips, cuts, repeats, overwrites, tokens or moves."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        # Half of them near one of the ends, where most formats keep their structure.
        near = len(changed) - int(rng.integers(0, 400)) if rng.random() < 0.5 else int(rng.integers(0, 400))
        at = min(max(near if rng.random() < 0.5 else int(rng.integers(0, len(changed) + 1)), 0), len(changed))
        upto = min(len(changed), at + int(rng.integers(1, 64)))
        match int(rng.integers(7)):
            case 0 if at < len(changed):
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                del changed[at:upto]
            case 2:
                changed[at:at] = changed[at:upto] * int(rng.integers(1, 5))
            case 3:
                changed[at:upto] = rng.bytes(upto - at)
            case 4:
                changed[at:upto] = pick(rng, TOKENS)
            case 5:
                del changed[at:]
            case 6:
                digits = [place for place, byte in enumerate(changed[:100_000]) if byte in b"0123456789"]
                if digits:
                    changed[pick(rng, digits)] = pick(rng, b"0123456789-.e")
    return bytes(changed)


def mutate_yaml(rng: np.random.Generator, content: bytes) -> bytes:
    """The text after one to three changes of its lines, of values in them, or of bytes."""
    for _ in range(int(rng.integers(1, 4))):
        lines = content.split(b"\n")
        row = int(rng.integers(len(lines)))
        line, value = lines[row], pick(rng, VALUES).encode()
        indent = line[: len(line) - len(line.lstrip())]
        match int(rng.integers(12)):
            case 0:
                head, colon, _ = line.partition(b": ")
                lines[row] = head + (colon or b": ") + value
            case 1 | 2:  # one of the values of a mapping on one line
                parts = line.split(b", ")
                at = int(rng.integers(len(parts)))
                end = parts[at][len(parts[at].rstrip(b"}]")) :]
                parts[at] = parts[at].rpartition(b": ")[0] + b": " + value + (end if rng.random() < 0.8 else b"")
                lines[row] = b", ".join(parts)
            case 3:
                lines.insert(row, indent + pick(rng, KEYS).encode() + b": " + value)
            case 4:
                del lines[row]
            case 5:
                lines.insert(row, line)
            case 6:
                lines[row] = b" " * int(rng.integers(7)) + line.lstrip()
            case 7:
                return mutate_bytes(rng, b"\n".join(lines))
            case _ if digits := [at for at, byte in enumerate(content) if byte in b"0123456789"]:
                at = pick(rng, digits)  # which is often as good as it was
                lines = [content[:at] + pick(rng, DIGITS) + content[at + 1 :]]
        content = b"\n".join(lines)
    return content


def mutate_json(rng: np.random.Generator, content: bytes) -> bytes:
    """The tree after one to three changes; a checksum of it is corrected half of the time, as a forger would."""
    try:
        tree = json.loads(content)
    except ValueError:
        return mutate_bytes(rng, content)
    if rng.random() < 0.15:
        return mutate_bytes(rng, content)
    for _ in range(int(rng.integers(1, 4))):
        tree = _changed(rng, tree)
    if rng.random() < 0.5:
        seal(tree)
    return json.dumps(tree).encode()


def seal(tree: Any) -> None:
    """Correct the checksum of a tree that has one."""
    for key, digits in SEALED.items():
        if isinstance(tree, dict) and key in tree and "checksum" in tree:
            tree["checksum"] = tree_digest(tree[key])[:digits]


def _changed(rng: np.random.Generator, tree: Any) -> Any:
    """One value somewhere in a tree replaced, left out, or added."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.1:
        return DEEP if rng.random() < 0.03 else copy.deepcopy(pick(rng, ODD))
    tree = copy.copy(tree)
    key = pick(rng, list(tree)) if isinstance(tree, dict) else int(rng.integers(len(tree)))
    draw = rng.random()
    if draw < 0.15:
        del tree[key]
    elif draw < 0.25 and isinstance(tree, dict):
        tree[str(pick(rng, KEYS))] = tree[key]
    elif draw < 0.25:
        tree.append(tree[key])
    else:
        tree[key] = _changed(rng, tree[key])
    return tree


def mutate_lines(rng: np.random.Generator, content: bytes) -> bytes:
    """JSON lines after a change of one of them, or of their order."""
    lines = content.splitlines()
    if not lines or rng.random() < 0.2:
        return mutate_bytes(rng, content)
    at = int(rng.integers(len(lines)))
    lines[at] = mutate_json(rng, lines[at])
    if rng.random() < 0.2:
        lines.append(lines[at])
    return b"\n".join(lines) + b"\n"


def mutate_file(rng: np.random.Generator, path: Path) -> None:
    """Change a file by its kind; now and then it is emptied, deleted, or becomes a folder."""
    content = path.read_bytes()
    draw = rng.random()
    path.unlink()
    if draw < 0.02:
        return
    if draw < 0.04:
        path.mkdir()
        return
    kinds = {".json": mutate_json, ".jsonl": mutate_lines, ".yaml": mutate_yaml}
    path.write_bytes(b"" if draw < 0.06 else kinds.get(path.suffix, mutate_bytes)(rng, content))
