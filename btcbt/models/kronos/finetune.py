"""Candle history and a recipe to a checkpoint that says what it has looked at."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from btcbt.config import time_ms
from btcbt.models.kronos.checkpoints import describe_pair, write_data_ranges
from btcbt.models.kronos.config import MODELS, TOKENIZERS
from btcbt.models.kronos.decoder import Kronos
from btcbt.models.kronos.recipe import FinetuneConfig
from btcbt.models.kronos.tokenizer import KronosTokenizer
from btcbt.models.kronos.training import (
    Curve,
    WindowSampler,
    fit,
    freeze_calendar,
    model_losses,
    tokenizer_losses,
)
from btcbt.records import Candles, DataRange


def finetune(histories: Mapping[str, Candles], config: FinetuneConfig, report: Callable[[str], None]) -> Path:
    """Fit tokenizer and model from scratch and write them under ``config.output``.

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
        The folder: ``tokenizer/``, ``model/``, ``data_ranges.json``, ``recipe.json``, ``tokenizer_loss.csv`` and
        ``model_loss.csv``.

    Raises
    ------
    CandleError
        If a range holds not one window.
    CheckpointError
        If the loss is no number; nothing is written for that stage.
    """
    train = WindowSampler(list(histories.values()), config.train, config.window)
    select = WindowSampler(
        [histories[name] for name in config.select_on or config.candles], config.select, config.window
    )
    report(f"{len(train.starts):,} training and {len(select.starts):,} selection windows of {config.window} candles")

    torch.manual_seed(config.seed)
    tokenizer = KronosTokenizer(TOKENIZERS[config.tokenizer_size])
    shape = MODELS[config.size]
    model = Kronos(
        dataclasses.replace(
            shape,
            ffn_dropout_p=config.dropout,
            resid_dropout_p=config.dropout,
            token_dropout_p=config.dropout,
        )
    )
    freeze_calendar(model, config.calendar)

    report(f"tokenizer '{config.tokenizer_size}', {_size(tokenizer):,} parameters")
    curve = fit(
        tokenizer,
        lambda batch: tokenizer_losses(tokenizer, batch),
        train,
        select,
        config,
        config.tokenizer,
        0,
        report,
    )
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(output / "tokenizer")
    _write_curve(curve, output / "tokenizer_loss.csv")

    report(
        f"model '{config.size}', {_size(model):,} parameters; ln V = {math.log(2**shape.s1_bits):.3f} nats untrained"
    )
    tokenizer.requires_grad_(False).eval()
    curve = fit(
        model,
        lambda batch: model_losses(model, tokenizer, batch),
        train,
        select,
        config,
        config.model,
        1,
        report,
    )
    model.save_pretrained(output / "model")
    describe_pair(output)
    _write_curve(curve, output / "model_loss.csv")

    ranges = tuple(
        DataRange(use, time_ms(span.start), time_ms(span.end))
        for use, span in (("pretraining", config.train), ("selection", config.select))
    )
    digests = ", ".join(f"{name} (SHA-256 {candles.sha256[:16]})" for name, candles in histories.items())
    write_data_ranges(output, ranges, f"fitted by 'btcbt finetune' on {digests}")
    (output / "recipe.json").write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    return output


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
