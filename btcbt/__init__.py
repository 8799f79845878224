"""Walk-forward backtests of generative candle forecasters, with the luck accounted for.

>>> from btcbt import run, load_run
>>> result = run("experiments/walkforward.yaml")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from btcbt.models.kronos.hf.quick import predict_btc
    from btcbt.report.run import Run, load_run
    from btcbt.report.run.panel import PanelRun
    from btcbt.walkforward.runner import run
    from btcbt.workflows.compare import compare

__all__ = ["PanelRun", "Run", "compare", "load_run", "predict_btc", "run"]

_HOMES = {
    "run": "btcbt.walkforward.runner",
    "load_run": "btcbt.report.run",
    "PanelRun": "btcbt.report.run.panel",
    "compare": "btcbt.workflows.compare",
    "Run": "btcbt.report.run",
    "predict_btc": "btcbt.models.kronos.hf.quick",
}


def __getattr__(name: str) -> object:
    # Importing the package stays fast: numerical libraries are imported when they are first needed.
    if name not in _HOMES:
        raise AttributeError(f"module 'btcbt' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
