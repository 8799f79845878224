"""From candle history and a recipe to a checkpoint that declares what it has looked at."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from btcbt.config import time_ms
from btcbt.errors import CheckpointError
from btcbt.files import write_whole
from btcbt.models.kronos.checkpoints.card import bare_name, write_model_card
from btcbt.models.kronos.checkpoints.files import (
    MODEL_FOLDER,
    RECIPE_FILE,
    TOKENIZER_FOLDER,
    describe_pair,
    write_data_ranges,
)
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.training.batches import WindowSampler
from btcbt.models.kronos.training.loop import Fit, Report, Row
from btcbt.models.kronos.training.lora import add_adapters, merge_adapters
from btcbt.models.kronos.training.losses import Encoder, Objective, model_losses, tokenizer_losses
from btcbt.models.kronos.training.processes import ProcessGroup
from btcbt.models.kronos.training.recipe import FinetuneConfig, Optimizer
from btcbt.models.kronos.training.start import StartingWeights, load_starting_weights
from btcbt.models.kronos.training.state import FitFolder, fit_digest
from btcbt.records import Candles, DataRange

CURVE_FILES = {TOKENIZER_FOLDER: "tokenizer_loss.csv", MODEL_FOLDER: "model_loss.csv"}
NEVER_CLEAN = DataRange("window_with_future", 0, time_ms(datetime(9999, 1, 1, tzinfo=UTC)))
"""Range of weights whose training windows were scaled with their own future: no origin is clean of it."""


def finetune(histories: Mapping[str, Candles], config: FinetuneConfig, report: Callable[[str], None]) -> Path:
    """Fit tokenizer and model, from scratch or from checkpoints, and write them under ``config.output``.

    A stopped fit resumes from its last state; a finished one is not repeated.

    Parameters
    ----------
    histories : mapping of str to Candles
        Each of ``config.candles``.
    config : FinetuneConfig
        With one `scaling`.
    report : callable
        Receives lines of progress.

    Returns
    -------
    Path
        The folder: ``tokenizer/``, ``model/``, ``data_ranges.json``, ``recipe.json``, ``fit.json``,
        ``tokenizer_loss.csv`` (where the tokenizer was fitted) and ``model_loss.csv``.

    Raises
    ------
    CandleError
        If a range holds no window.
    CheckpointError
        If a checkpoint to start from is missing, broken or of another shape, or a loss is NaN or infinite; the
        best weights before it are then written.
    ConfigError
        If the folder holds another fit or cannot be written, tokenizer and model do not belong together, or a device or
        package is missing.
    """
    return _Finetune(histories, config, report).run()


class _Finetune:
    """One fit, stage by stage."""

    def __init__(self, histories: Mapping[str, Candles], config: FinetuneConfig, report: Report) -> None:
        if not isinstance(config.scaling, str):
            raise ValueError("a fit has one scaling; see FinetuneConfig.variants")
        self.histories, self.config = histories, config
        self.train = self._sampler(config.candles, "train", time_ms(config.train.start), config.train_end_ms)
        span = config.select
        self.select = self._sampler(
            config.select_on or config.candles, "select", time_ms(span.start), time_ms(span.end)
        )
        self.processes = ProcessGroup(config.device)
        self.report: Report = report if self.processes.first else lambda _: None

    def run(self) -> Path:
        config, processes = self.config, self.processes
        start = load_starting_weights(config)
        digest = fit_digest(config, self.histories, (start.tokenizer, start.model))
        folder = FitFolder(Path(config.output), digest, writes=processes.first)
        processes.wait()
        if MODEL_FOLDER in folder.finished:
            self.report(f"{folder.folder}: this fit is already done")
            return folder.folder
        self.report(
            f"{len(self.train.starts):,} training and {len(self.select.starts):,} selection windows of "
            f"{config.window} candles, on {processes.world} x {processes.device.type}"
        )
        tokenizer = self._tokenizer(folder, start)
        self._model(folder, start, tokenizer)
        processes.wait()
        return folder.folder

    def _sampler(self, names: tuple[str, ...], name: str, start: int, end: int) -> WindowSampler:
        return WindowSampler([self.histories[one] for one in names], start, end, self.config.window, name)

    def _tokenizer(self, folder: FitFolder, start: StartingWeights) -> KronosTokenizer:
        """The tokenizer, fitted unless it is finished or the recipe keeps it."""
        tokenizer, settings = start.tokenizer, self.config.tokenizer
        if TOKENIZER_FOLDER in folder.finished:
            return KronosTokenizer.from_pretrained(folder.folder / TOKENIZER_FOLDER)
        kept = "" if settings else ", not fitted"
        self.report(f"tokenizer, {_size(tokenizer):,} parameters{kept}")
        objective = partial(tokenizer_losses, code_weight=self.config.code_entropy, s1_bits=tokenizer.config.s1_bits)
        self._fit(folder, TOKENIZER_FOLDER, tokenizer, objective, settings, start)
        return tokenizer

    def _model(self, folder: FitFolder, start: StartingWeights, tokenizer: KronosTokenizer) -> None:
        """The model on the tokenizer's tokens."""
        model, lora = start.model, self.config.lora
        if lora is not None:
            add_adapters(model, lora, self.config.seed)
        chance = math.log(2**model.config.s1_bits)
        self.report(f"model, {_size(model):,} parameters; a uniform guess of a coarse token costs {chance:.3f} nats")
        encode = Encoder(tokenizer, self.processes.device)
        self._fit(
            folder, MODEL_FOLDER, model, lambda network, batch: model_losses(network, encode, batch),
            self.config.model, start,
        )  # fmt: skip

    def _fit(
        self,
        folder: FitFolder,
        stage: str,
        network: KronosTokenizer | Kronos,
        objective: Objective,
        settings: Optimizer | None,
        start: StartingWeights,
    ) -> None:
        """Fit one network and write its files, also when the fit is aborted."""
        network.to(self.processes.device)
        rows: list[Row] = []
        fit = None
        try:
            if settings is not None:
                fit = Fit(
                    network, objective, self.train, self.select, self.config, settings, stage,
                    report=self.report, processes=self.processes, folder=folder,
                )  # fmt: skip
                fit.run()
        except CheckpointError:
            if fit is not None and fit.progress.rows:
                self._write(folder, stage, network, fit.progress.rows, start)
            raise
        rows = fit.progress.rows if fit is not None else []
        self._write(folder, stage, network, rows, start)
        folder.finish(stage)

    def _write(
        self, folder: FitFolder, stage: str, network: KronosTokenizer | Kronos, rows: list[Row], start: StartingWeights
    ) -> None:
        if self.config.lora is not None and stage == MODEL_FOLDER:
            merge_adapters(network)
        if self.processes.first:
            with folder.writing():
                self._write_files(folder.folder, stage, network, rows, start)

    def _write_files(
        self, root: Path, stage: str, network: KronosTokenizer | Kronos, rows: list[Row], start: StartingWeights
    ) -> None:
        network.save_pretrained(root / stage)
        if stage == MODEL_FOLDER:
            describe_pair(root)
        if rows:
            write_whole(root / CURVE_FILES[stage], curve_csv(rows).encode())
        ranges = ranges_after_fit(self.config, start.ranges)
        digests = ", ".join(
            f"{bare_name(candles.source)} (SHA-256 {candles.sha256[:16]})" for candles in self.histories.values()
        )
        note = f"fitted by 'btcbt finetune' on {digests}"
        if NEVER_CLEAN in ranges:
            note += "; CONTAMINATED: windows were scaled with the candles to be predicted"
        for place in (root, root / stage):
            write_data_ranges(place, ranges, note)
        recipe = _without_folders(self.config.model_dump(mode="json"))
        write_whole(root / RECIPE_FILE, (json.dumps(recipe, indent=2) + "\n").encode())
        if stage == MODEL_FOLDER:
            write_model_card(root)


def ranges_after_fit(config: FinetuneConfig, before: tuple[DataRange, ...]) -> tuple[DataRange, ...]:
    """Data ranges of fitted weights: those of the starting weights (whatever their use), and those of the fit."""
    use = "pretraining" if config.start.tokenizer is None and config.start.model is None else "finetuning"
    own = [
        DataRange(use, time_ms(config.train.start), config.train_end_ms),
        DataRange("selection", time_ms(config.select.start), time_ms(config.select.end)),
    ]
    if config.leaky:
        own.append(NEVER_CLEAN)
    return tuple(dict.fromkeys((*before, *own)))


def _without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the folders of this machine: absolute paths are cut to their last part."""

    def shorten(value: Any) -> Any:
        if isinstance(value, list):
            return [shorten(one) for one in value]
        return bare_name(value) if isinstance(value, str) else value

    start = {network: shorten(checkpoint) for network, checkpoint in recipe["start"].items()}
    return recipe | {key: shorten(recipe[key]) for key in ("candles", "select_on", "output")} | {"start": start}


def curve_csv(rows: list[Row]) -> str:
    """A loss curve as CSV: a row for each evaluation and split (``select``, ``train``)."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
    )
    return text.getvalue()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
