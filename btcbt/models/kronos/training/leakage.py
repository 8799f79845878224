"""How much of a validation loss comes from the leak: each fit is measured with both scalings on the same windows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import nn

from btcbt.config import time_ms
from btcbt.models.kronos.checkpoints.files import MODEL_FOLDER, TOKENIZER_FOLDER
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.training.batches import Batch, WindowSampler
from btcbt.models.kronos.training.losses import LOSS_NAMES, Encoder, Losses, mean_losses, model_losses
from btcbt.models.kronos.training.processes import ProcessGroup
from btcbt.models.kronos.training.recipe import SCALINGS, FinetuneConfig
from btcbt.records import Candles


def selection_losses(histories: Mapping[str, Candles], config: FinetuneConfig, folder: Path) -> dict[str, float]:
    """The model's loss in nats on the selection windows of a recipe, by scaling.

    Parameters
    ----------
    histories : mapping of str to Candles
    config : FinetuneConfig
        Names the selection windows.
    folder : Path
        A fit's output.
    """
    processes = ProcessGroup(config.device)
    model = Kronos.from_pretrained(folder / MODEL_FOLDER).to(processes.device)
    tokenizer = KronosTokenizer.from_pretrained(folder / TOKENIZER_FOLDER)
    names = config.select_on or config.candles
    start, end = time_ms(config.select.start), time_ms(config.select.end)
    windows = WindowSampler([histories[name] for name in names], start, end, config.window, "select")
    losses: dict[str, float] = {}
    for scaling in SCALINGS:
        encode = Encoder(tokenizer, processes.device)
        batches = windows.spread(config.model_copy(update={"scaling": scaling}), config.model.batch_size)
        objective = partial(_objective, encode)
        losses[scaling] = mean_losses(objective, model, batches, LOSS_NAMES[MODEL_FOLDER], processes)["loss"]
    return losses


def _objective(encode: Encoder, network: nn.Module, batch: Batch) -> Losses:
    return model_losses(network, encode, batch)
