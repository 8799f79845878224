"""Comparison of refitted forecasters with the same checkpoint with frozen weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.table import Table

from btcbt.metrics.table import score
from btcbt.report.cells import NONE, number, plain_table
from btcbt.storage.runs import Run


def same_checkpoint(run: Run) -> Iterator[tuple[str, str]]:
    """Pairs of a refitted forecaster and another one of the same checkpoint: frozen, or refitted and listed before it.

    Calibrated forecasters are left out.
    """
    fitted = {name: one for name, one in run.config.forecasters.items() if one.starts_from is not None}
    for name in sorted(fitted, key=lambda name: fitted[name].schedule is not None):
        for other, theirs in fitted.items():
            ours = fitted[name]
            alike = ours.schedule is not None and ours.starts_from == theirs.starts_from
            if alike and f"forecast.{name}.against.{other}.energy_bps.skill" in run.metrics:
                yield name, other


def refit_table(run: Run) -> list[Table]:
    """Paired tests of refitted forecasters against the same checkpoint; empty if none is refitted."""
    pairs = list(same_checkpoint(run))
    if not pairs:
        return []
    last, crps = f"h{run.config.windows.horizon}", score("forecast", "crps_bps")
    table = plain_table(
        f"Refitted against the same checkpoint, {crps.heading} of the close at step {last[1:]}, {crps.unit}, "
        f"{crps.direction}"
    )
    table.caption = "same origins and random numbers; p: Diebold-Mariano, two-sided, of each row for itself"
    for column in ("refitted", "against", "refits", "difference", "95% interval", "relative", "p"):
        table.add_column(column, justify="left" if column in ("refitted", "against") else "right", no_wrap=True)
    for name, other in pairs:
        prefix = f"forecast.{name}.against.{other}.crps_bps.close.{last}"
        value = {key: run.metrics.get(f"{prefix}.{key}", math.nan) for key in ("difference", "low", "high", "skill")}
        interval = f"{number(value['low'], '+.2f')} .. {number(value['high'], '+.2f')}"
        table.add_row(
            name,
            other,
            str(len(run.manifest["forecasters"][name].get("refits", ()))),
            number(value["difference"], "+.2f"),
            interval if math.isfinite(value["low"]) else NONE,
            number(0.0 - 100 * value["skill"], "+.2f") + "%",
            number(run.metrics.get(f"{prefix}.dm_p", math.nan), ".3f"),
        )
    return [table]
