"""Tells transformers' Auto classes of our checkpoints, whichever of the two packages is imported first.

``import btcbt`` must stay fast, so it cannot import transformers to register anything, and transformers has no entry
points that it would read by itself. The alternative that it offers, code inside the checkpoint (``auto_map``), is out
of the question: a checkpoint is data. So the registration follows the import: at once if the Auto modules are loaded,
else when they have been. Nothing is replaced in transformers; its public ``register`` methods do the rest.

The modules of transformers import one another in circles, and ours builds on several of them. Hence all of them are
listened to, and the registration waits until none of them is half imported.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OURS = "btcbt.models.kronos.hf.auto"
THEIRS = "transformers."
AUTO_MODULES = tuple(
    f"{THEIRS}models.auto.{part}" for part in ("configuration_auto", "tokenization_auto", "modeling_auto")
)

_registered: set[str] = set()


class AfterImport(MetaPathFinder):
    """Finds nothing itself; listens to the ends of imports."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the other finders find a module of transformers, and add to what its loader does."""
        if fullname != OURS and not fullname.startswith(THEIRS):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _listen(spec.loader)
                return spec
        return None


def install() -> None:
    """Register with the Auto modules that are loaded, and see to those that are not."""
    if not any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport())
    _catch_up()


def _listen(loader: Loader) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        _catch_up(module.__name__)

    loader.exec_module = exec_module  # type: ignore[method-assign] # of this one module's loader


def _catch_up(done: str = "") -> None:
    """Register with the Auto modules that were loaded since the last time; `done` is no longer half imported."""
    waiting = [name for name in AUTO_MODULES if name in sys.modules and name not in _registered]
    if not waiting or any(name != done and _half_imported(name) for name in list(sys.modules)):
        return
    try:
        ours = import_module(OURS)
        for name in waiting:
            ours.register(sys.modules[name])
    except Exception as error:  # noqa: BLE001 - what fails here must not keep transformers from being imported
        warnings.warn(f"btcbt: the Auto classes of transformers do not know Kronos ({error})", stacklevel=2)
    _registered.update(waiting)


def _half_imported(name: str) -> bool:
    if name != OURS and not name.startswith(THEIRS):
        return False
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))
