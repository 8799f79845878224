"""`btcbt finetune`: reads a recipe and its candles, fits the networks, and draws their loss curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from btcbt.candles import read_candles
from btcbt.config import load_config
from btcbt.errors import CheckpointError
from btcbt.files import read_file, replacing
from btcbt.models.kronos.training.finetune import CURVE_FILES, finetune
from btcbt.models.kronos.training.leakage import selection_losses
from btcbt.models.kronos.training.memory import keep_freed_memory
from btcbt.models.kronos.training.processes import is_first, leave_process_group
from btcbt.models.kronos.training.recipe import FinetuneConfig
from btcbt.report.colours import COLOURS
from btcbt.report.figures import DPI, INK, new_figure, style_axes

__all__ = ["FinetuneResult", "draw_curves", "is_first", "loss_table", "run_recipe"]

MAX_CURVE_BYTES = 1 << 26
MAX_STEP = 2**53

Report = Callable[[str], None]
Losses = Mapping[str, Mapping[str, float]]


class FinetuneResult(NamedTuple):
    """Folders of the fits; if scalings are compared, selection losses by the scaling of the fit and of the measure."""

    folders: list[Path]
    losses: Losses


def run_recipe(recipe: str | Path | Mapping[str, Any], report: Report) -> FinetuneResult:
    """Fit the networks of a recipe; see `btcbt.models.kronos.training.finetune.finetune`.

    Parameters
    ----------
    recipe : path or mapping
        Its file, or the keys and values of such a file.
    report : callable
        Receives a line of progress now and then.

    Raises
    ------
    ConfigError
        If the recipe is wrong; names file, line and key.
    """
    config = load_config(recipe, FinetuneConfig)
    histories = {name: read_candles(name, config.interval) for name in config.candles}
    keep_freed_memory()
    variants = config.variants()
    folders: list[Path] = []
    losses: dict[str, Mapping[str, float]] = {}
    for variant in variants:
        if len(variants) > 1 and is_first():
            report(f"scaling {variant.scaling}, in {variant.output}")
        folders.append(finetune(histories, variant, report))
        if is_first():
            draw_curves(folders[-1])
        if len(variants) > 1:
            losses[str(variant.scaling)] = selection_losses(histories, config, folders[-1])
    leave_process_group()
    return FinetuneResult(folders, losses)


def loss_table(losses: Losses) -> str:
    """Selection losses of compared scalings side by side, in nats per sub-token."""
    columns = list(next(iter(losses.values())))
    head = f"{'fitted with':20s}" + "".join(f"{column:>22s}" for column in columns)
    lines = ["selection loss of the model in nats per sub-token; columns: scaling of the windows measured on", head]
    lines += [f"{name:20s}" + "".join(f"{row[c]:22.4f}" for c in columns) for name, row in losses.items()]
    return "\n".join(lines)


def draw_curves(folder: Path) -> list[Path]:
    """Draw each loss curve of a fit beside its CSV file; return the pictures' paths.

    Raises
    ------
    CheckpointError
        If such a file is damaged.
    """
    files = []
    for name in CURVE_FILES.values():
        if (folder / name).is_file():
            figure = curve_chart(name.partition("_")[0], _curve(folder / name))
            file = (folder / name).with_suffix(".png")
            with replacing(file) as temporary:
                figure.savefig(temporary, dpi=DPI, format="png")
            files.append(file)
    return files


def curve_chart(stage: str, curve: Mapping[str, list[tuple[int, float]]]) -> Figure:
    """Training and selection loss by step, the best selection loss marked."""
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    for (split, points), colour in zip(curve.items(), COLOURS, strict=False):
        steps, losses = zip(*points, strict=True)
        axes.plot(steps, losses, color=colour, linewidth=1.5, marker="o", markersize=2.5, label=split)
    step, best = min(curve["select"], key=lambda point: point[1])
    axes.plot([step], [best], marker="o", markersize=8, markerfacecolor="none", color=INK, linestyle="none")
    axes.annotate(f"best {best:.4f}, step {step:,}", (step, best), (6, 10), textcoords="offset points", fontsize=8)
    axes.set_xlabel("Step", fontsize=9)
    style_axes(axes, "Loss (nats per sub-token)" if stage == "model" else "Loss (squared scaled units, and entropy)")
    axes.legend(fontsize=8, frameon=False)
    figure.suptitle(f"Loss of the {stage}", x=0.01, ha="left", fontsize=12)
    return figure


def _curve(file: Path) -> dict[str, list[tuple[int, float]]]:
    curve: dict[str, list[tuple[int, float]]] = {}
    try:
        for row in csv.DictReader(io.StringIO(read_file(file, MAX_CURVE_BYTES).decode(), newline="")):
            curve.setdefault(row["split"], []).append((int(row["step"]), float(row["loss"])))
        if "select" not in curve or max(abs(step) for points in curve.values() for step, _ in points) > MAX_STEP:
            raise ValueError("no selection loss, or steps out of range")
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        problem = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{file}: not the losses of a fit ({problem}); delete it, the weights are whole"
        ) from None
    return curve
