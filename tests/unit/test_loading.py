"""The digest of a class of the user's own: what changes it, and what does not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from btcbt.loading import source_sha256
from btcbt.strategies.loading import load_strategy

OWN = """
import json
import numpy as np
import plain_helper
from pack.inner import value
from btcbt.strategies import Strategy

class Own(Strategy):
    def decide(self, forecast, holding):
        import lazy_helper
        return value
"""
FILES = {
    "own_models.py": OWN,
    "plain_helper.py": "from deep_helper import *\n",
    "deep_helper.py": "x = 1\n",
    "lazy_helper.py": "y = 1\n",
    "pack/__init__.py": "",
    "pack/inner.py": "from . import sibling\nfrom .sibling import z\n\nvalue = 0.0\n",
    "pack/sibling.py": "z = 1\n",
    "pack/unused.py": "",
    "unused_helper.py": "",
}


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Write the files anew, some of them changed, and digest the class as a fresh process would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def forget() -> None:
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(tmp_path):
                del sys.modules[name]

    def digest(changed: str = "", use: str = "own_models:Own") -> str:
        forget()
        (tmp_path / "pack").mkdir(exist_ok=True)
        for name, text in FILES.items():
            (tmp_path / name).write_text(text + "# changed\n" * (name == changed))
        return source_sha256(type(load_strategy(use)))

    yield digest
    forget()


@pytest.mark.parametrize("changed", [name for name in FILES if "unused" not in name])
def test_a_change_of_anything_that_is_imported_changes_the_digest(digest: Callable[..., str], changed: str) -> None:
    assert digest(changed) != digest()


@pytest.mark.parametrize("changed", [name for name in FILES if "unused" in name])
def test_what_is_not_imported_does_not_count(digest: Callable[..., str], changed: str) -> None:
    assert digest(changed) == digest()


def test_a_module_and_the_path_of_its_file_have_one_digest(digest: Callable[..., str], tmp_path: Path) -> None:
    assert digest() == digest(use="own_models.py:Own") == digest(use=f"{tmp_path}/own_models.py:Own")


def test_the_digest_is_of_what_was_loaded_and_not_of_what_the_file_became(
    digest: Callable[..., str], tmp_path: Path
) -> None:
    before = digest()
    (tmp_path / "own_models.py").write_text(OWN + "# edited while it runs\n")
    assert source_sha256(type(load_strategy("own_models:Own"))) == before


def test_built_in_classes_have_the_empty_digest() -> None:
    from btcbt.forecasters.random_walk import RandomWalk

    assert source_sha256(type(load_strategy("threshold"))) == ""
    assert source_sha256(RandomWalk) == ""


def test_a_digest_names_no_folder(digest: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digest()
    for name in list(sys.modules):
        if name.split(".")[0] in ("own_models", "plain_helper", "deep_helper", "lazy_helper", "pack"):
            del sys.modules[name]
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "pack").mkdir(parents=True)
    for name, text in FILES.items():
        (elsewhere / name).write_text(text)
        (tmp_path / name).unlink()
    monkeypatch.chdir(elsewhere)
    assert source_sha256(type(load_strategy("own_models:Own"))) == first
