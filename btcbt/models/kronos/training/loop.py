"""The loop that fits a network, in steps that can be gone on from.

Every random choice of a step (windows, context length, mirroring, dropout) is a function of (seed, stage, step), so a
fit is reproducible on one device, and a state needs no random numbers.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn

from btcbt.errors import CheckpointError, ConfigError
from btcbt.models.kronos.training.batches import WindowSampler
from btcbt.models.kronos.training.losses import LOSS_NAMES, Losses, Objective, mean_losses
from btcbt.models.kronos.training.processes import Ranks
from btcbt.models.kronos.training.recipe import FinetuneConfig, Optimizer
from btcbt.models.kronos.training.schedule import learning_rate, make_optimizer
from btcbt.models.kronos.training.state import FitFolder, Snapshot, pack_optimizer, unpack_optimizer

STAGES = tuple(LOSS_NAMES)
QUIET_SECONDS = 10.0
"""Longest silence between two lines of progress, as far as steps allow."""

Report = Callable[[str], None]
Row = dict[str, float | str]


@dataclass
class Progress:
    """Where a stage is, apart from its tensors; all of it is JSON.

    Attributes
    ----------
    step : int
        Optimizer steps done.
    looked : bool
        Whether the selection range was looked at after them.
    rows : list of dict
        The loss curve: step, split, losses by name, learning rate.
    best_loss, best_step : float, int
        The lowest selection loss, and when it was seen.
    looks_since : int
        Looks at the selection range since then.
    sums, count : dict, int
        Training losses since the last look.
    """

    step: int = 0
    looked: bool = False
    rows: list[Row] = field(default_factory=list)
    best_loss: float = math.inf
    best_step: int = 0
    looks_since: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0


class Fit:
    """Minimises ``objective(network, batch)["loss"]`` and keeps the weights that are best on the selection range.

    Parameters
    ----------
    network : Module
        On the device of `ranks`.
    objective : callable
        Losses of a batch.
    train, select : WindowSampler
    config : FinetuneConfig
    settings : Optimizer
        Those of the stage.
    stage : str
        ``tokenizer`` or ``model``.
    ranks : Ranks, optional
        The processes that share the work; this one alone if left out.
    folder : FitFolder, optional
        Where the state is kept every ``config.save_every`` steps; nowhere if left out.
    report : callable
        Gets lines of progress.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        train: WindowSampler,
        select: WindowSampler,
        config: FinetuneConfig,
        settings: Optimizer,
        stage: str,
        *,
        report: Report,
        ranks: Ranks | None = None,
        folder: FitFolder | None = None,
    ) -> None:
        self.network, self.objective, self.train, self.select = network, objective, train, select
        self.config, self.settings, self.stage = config, settings, stage
        self.report, self.ranks, self.folder = report, ranks or Ranks("cpu"), folder
        self.names = LOSS_NAMES[stage]
        self.half = runs_in_bfloat16(config, self.ranks.device)
        self.progress = Progress()
        self.optimizer = make_optimizer(network, settings)
        self.best = copy.deepcopy(network.state_dict())
        self.shared = self.ranks.wrap(network)
        self.parts = settings.accumulate * self.ranks.world
        if settings.batch_size % self.parts:
            raise ConfigError(
                f"{stage}.batch_size {settings.batch_size} does not divide into accumulate {settings.accumulate} x "
                f"{self.ranks.world} processes; choose a multiple of {self.parts}"
            )
        self._began, self._begun_at, self._spoke = time.perf_counter(), 0, time.perf_counter()

    def run(self) -> list[Row]:
        """Go on from the last state, if there is one, to the end; the network then holds the best weights.

        Returns
        -------
        list of dict
            The loss curve.

        Raises
        ------
        CheckpointError
            If a loss or gradient is NaN or infinite; the network then holds the best weights so far.
        """
        self._restore()
        now = self.progress
        while True:
            if not now.looked and (now.step % self.settings.select_every == 0 or now.step == self.settings.steps):
                self._look()
            if now.step == self.settings.steps or self._patience_is_over():
                break
            if now.step % self.config.save_every == 0 and now.step > self._begun_at:
                self._save()
            self._step()
        self.network.load_state_dict(self.best)
        self.network.eval()
        return now.rows

    def _step(self) -> None:
        """One step of the optimizer, over a batch that is cut for processes and accumulation."""
        now, settings, ranks = self.progress, self.settings, self.ranks
        rate = learning_rate(settings, now.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        stage = STAGES.index(self.stage)
        seed = (self.config.seed * 2 + stage) * 1_000_003 + now.step + ranks.rank * 1_000_000_007
        torch.manual_seed(seed % 2**64)  # the generator takes 64 bits
        self.network.train()
        whole = self.train.draw(self.config, settings.batch_size, (stage, now.step))
        self.optimizer.zero_grad(set_to_none=True)
        sums: Losses = {}
        for i in range(settings.accumulate):
            # All processes together then hold the windows that one alone would, for the quantizer's entropy is theirs.
            batch = whole.part(i * ranks.world + ranks.rank, self.parts).to(ranks.device)
            last = i == settings.accumulate - 1
            with nullcontext() if last else ranks.alone(self.shared):
                with self._autocast():
                    losses = self.objective(self.shared, batch)
                (losses["loss"] / settings.accumulate).backward()
            sums = {key: value.detach().float() + sums.get(key, 0.0) for key, value in losses.items()}
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        *values, size = ranks.total([*torch.stack([sums[key] for key in self.names]).tolist(), float(norm)])
        if not math.isfinite(values[0]):
            self._stop("the loss", values[0])
        if not math.isfinite(size):
            self._stop("the gradient's norm", size)
        self.optimizer.step()
        now.step, now.looked, now.count = now.step + 1, False, now.count + 1
        for key, value in zip(self.names, values, strict=True):
            now.sums[key] = now.sums.get(key, 0.0) + value / self.parts
        if time.perf_counter() - self._spoke > QUIET_SECONDS:
            self._say(f"train {now.sums['loss'] / now.count:.4f}")

    def _stop(self, what: str, value: float) -> NoReturn:
        """Give up on numbers that are none; the best weights stay."""
        now = self.progress
        self.network.load_state_dict(self.best)
        self.network.eval()
        raise CheckpointError(
            f"{self.stage}: {what} is {value} at step {now.step}; the weights of step {now.best_step} (selection loss "
            f"{now.best_loss:.4f}) are kept. Lower {self.stage}.learning_rate"
        )

    def _look(self) -> None:
        """Measure the selection loss, keep the weights if they are the best, and note the curve."""
        now = self.progress
        selected = self.evaluate()
        if not math.isfinite(selected["loss"]):
            self._stop("the selection loss", selected["loss"])
        now.rows.append({"step": now.step, "split": "select", **selected})
        if now.count:
            means = {key: value / now.count for key, value in now.sums.items()}
            rate = learning_rate(self.settings, now.step - 1)
            now.rows.append({"step": now.step, "split": "train", "learning_rate": rate, **means})
        now.looks_since += 1
        if selected["loss"] < now.best_loss:
            self.best = copy.deepcopy(self.network.state_dict())
            now.best_loss, now.best_step, now.looks_since = selected["loss"], now.step, 0
        trained = f"train {now.sums['loss'] / now.count:.4f}  " if now.count else ""
        self._say(f"{trained}select {selected['loss']:.4f} (best {now.best_loss:.4f})")
        now.sums, now.count, now.looked = {}, 0, True

    def evaluate(self) -> dict[str, float]:
        """Mean losses over windows of the selection range."""
        batches = self.select.spread(self.config, self.settings.batch_size)
        with self._autocast():
            return mean_losses(self.objective, self.network, batches, self.names, self.ranks)

    def _patience_is_over(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.looks_since >= patience

    def _save(self) -> None:
        if self.folder is not None:
            parts = {"weights": self.network.state_dict(), "best": self.best, "adam": pack_optimizer(self.optimizer)}
            tensors = {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}
            self.folder.save(self.stage, Snapshot({"progress": asdict(self.progress)}, tensors))

    def _restore(self) -> None:
        snapshot = None if self.folder is None else self.folder.load(self.stage)
        if snapshot is None:
            return
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "adam": {}}
        for key, value in snapshot.tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = value
        self.network.load_state_dict(parts["weights"])
        self.best = {key: value.to(self.ranks.device) for key, value in parts["best"].items()}
        unpack_optimizer(self.optimizer, parts["adam"])
        self.progress = Progress(**snapshot.values["progress"])
        self._begun_at = self.progress.step
        self.report(f"going on from step {self.progress.step}")

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=self.half)

    def _say(self, text: str) -> None:
        """One line: where the fit is, at what speed, and how long the rest takes at most."""
        step, steps = self.progress.step, self.settings.steps
        seconds = (time.perf_counter() - self._began) / max(step - self._begun_at, 1)
        self._spoke = time.perf_counter()
        line = f"{self.stage} {step:6d}/{steps}  {text}"
        if step > self._begun_at:
            rate = self.settings.batch_size * self.config.window / seconds
            line += f"  {rate:,.0f} tokens/s  {(steps - step) * seconds / 60:.1f} min left"
        self.report(line)


def runs_in_bfloat16(config: FinetuneConfig, device: torch.device) -> bool:
    """Whether the matrix products of a fit are in bfloat16; ``auto`` means GPUs that have it.

    Raises
    ------
    ConfigError
        If it is asked for where the device has not got it.
    """
    has = device.type != "cuda" or torch.cuda.is_bf16_supported()
    if config.precision == "bfloat16" and not has:
        raise ConfigError("precision 'bfloat16': this GPU has not got it; choose float32 or auto")
    return config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda" and has)
