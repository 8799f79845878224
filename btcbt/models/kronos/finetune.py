"""Candle history and a recipe to a checkpoint that says what it has looked at."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from btcbt.config import time_ms
from btcbt.models.kronos.beginning import begin
from btcbt.models.kronos.checkpoints import MODEL_FOLDER, TOKENIZER_FOLDER, describe_pair, write_data_ranges
from btcbt.models.kronos.recipe import FinetuneConfig
from btcbt.models.kronos.training import Curve, WindowSampler, fit, model_losses, tokenizer_losses
from btcbt.records import Candles, DataRange


def finetune(histories: Mapping[str, Candles], config: FinetuneConfig, report: Callable[[str], None]) -> Path:
    """Fit tokenizer and model, from scratch or from checkpoints, and write them under ``config.output``.

    Parameters
    ----------
    histories : mapping of str to Candles
        Each of ``config.candles``.
    config : FinetuneConfig
    report : callable
        Gets lines of progress.

    Returns
    -------
    Path
        The folder: ``tokenizer/``, ``model/``, ``data_ranges.json``, ``recipe.json``, ``tokenizer_loss.csv`` (where
        the tokenizer was fitted) and ``model_loss.csv``.

    Raises
    ------
    CandleError
        If a range holds not one window.
    CheckpointError
        If a checkpoint to start from is missing, broken or of another shape, or the loss is no number; in the latter
        case nothing is written for that stage.
    """
    train = WindowSampler(
        [histories[name] for name in config.candles], time_ms(config.train.start), config.train_end_ms, config.window,
        "train",
    )  # fmt: skip
    select = WindowSampler(
        [histories[name] for name in config.select_on or config.candles],
        time_ms(config.select.start), time_ms(config.select.end), config.window, "select",
    )  # fmt: skip
    report(f"{len(train.starts):,} training and {len(select.starts):,} selection windows of {config.window} candles")
    tokenizer, model, ranges = begin(config)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)

    report(f"tokenizer, {_size(tokenizer):,} parameters{'' if config.tokenizer else ', kept as it is'}")
    if config.tokenizer is not None:
        curve = fit(
            tokenizer, lambda batch: tokenizer_losses(tokenizer, batch), train, select, config, config.tokenizer, 0,
            report,
        )  # fmt: skip
        _write_curve(curve, output / "tokenizer_loss.csv")
    tokenizer.save_pretrained(output / TOKENIZER_FOLDER)

    untrained = math.log(2**model.config.s1_bits)
    report(f"model, {_size(model):,} parameters; a coarse token drawn at random costs {untrained:.3f} nats")
    tokenizer.requires_grad_(False).eval()
    curve = fit(
        model, lambda batch: model_losses(model, tokenizer, batch), train, select, config, config.model, 1, report
    )  # fmt: skip
    model.save_pretrained(output / MODEL_FOLDER)
    describe_pair(output)
    _write_curve(curve, output / "model_loss.csv")

    digests = ", ".join(f"{name} (SHA-256 {candles.sha256[:16]})" for name, candles in histories.items())
    for folder in (output, output / MODEL_FOLDER, output / TOKENIZER_FOLDER):
        write_data_ranges(folder, looked_at(config, ranges), f"fitted by 'btcbt finetune' on {digests}")
    (output / "recipe.json").write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    return output


def looked_at(config: FinetuneConfig, before: tuple[DataRange, ...]) -> tuple[DataRange, ...]:
    """What a fit has looked at: all that its parents had, and its own ranges."""
    use = "pretraining" if config.start.tokenizer is None and config.start.model is None else "finetuning"
    own = (
        DataRange(use, time_ms(config.train.start), config.train_end_ms),
        DataRange("selection", time_ms(config.select.start), time_ms(config.select.end)),
    )
    return tuple(dict.fromkeys((*before, *own)))


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _write_curve(curve: Curve, path: Path) -> None:
    names = list(dict.fromkeys(key for row in curve.rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
            for row in curve.rows
        )
