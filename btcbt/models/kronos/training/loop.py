"""The loop that fits a network, in steps that a stopped fit resumes from.

Every random choice of a step (windows, context length, mirroring, dropout) is a function of (seed, stage, step), so a
fit is reproducible on one device, and a saved state holds no random numbers.
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
from btcbt.models.kronos.training.processes import ProcessGroup
from btcbt.models.kronos.training.recipe import FinetuneConfig, Optimizer
from btcbt.models.kronos.training.schedule import learning_rate, make_optimizer
from btcbt.models.kronos.training.state import FitFolder, Snapshot, pack_optimizer, unpack_optimizer

STAGES = tuple(LOSS_NAMES)
QUIET_SECONDS = 10.0
"""Longest time between two lines of progress, as far as steps allow."""

Report = Callable[[str], None]
Row = dict[str, float | str]


@dataclass
class StageProgress:
    """How far a stage has come, apart from its tensors; all of it is JSON.

    Attributes
    ----------
    step : int
        Optimizer steps done.
    looked : bool
        Whether the selection loss was measured after them.
    rows : list of dict
        The loss curve: step, split, losses by name, learning rate.
    best_loss, best_step : float, int
        The lowest selection loss, and its step.
    looks_since : int
        Evaluations on the selection range since then.
    sums, count : dict, int
        Training losses since the last evaluation.
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
        On the device of `processes`.
    objective : callable
        Losses of a batch.
    train, select : WindowSampler
    config : FinetuneConfig
    settings : Optimizer
        Those of the stage.
    stage : str
        ``tokenizer`` or ``model``.
    processes : ProcessGroup, optional
        The processes that share the work; only this one if left out.
    folder : FitFolder, optional
        Where the state is saved every ``config.save_every`` steps; nowhere if left out.
    report : callable
        Receives lines of progress.
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
        processes: ProcessGroup | None = None,
        folder: FitFolder | None = None,
    ) -> None:
        self.network, self.objective, self.train, self.select = network, objective, train, select
        self.config, self.settings, self.stage = config, settings, stage
        self.report, self.processes, self.folder = report, processes or ProcessGroup("cpu"), folder
        self.names = LOSS_NAMES[stage]
        self.bfloat16 = runs_in_bfloat16(config, self.processes.device)
        self.progress = StageProgress()
        self.optimizer = make_optimizer(network, settings)
        self.best = copy.deepcopy(network.state_dict())
        self.wrapped = self.processes.wrap(network)
        self.parts = settings.accumulate * self.processes.world
        if settings.batch_size % self.parts:
            raise ConfigError(
                f"{stage}.batch_size {settings.batch_size} does not divide into accumulate {settings.accumulate} x "
                f"{self.processes.world} processes; choose a multiple of {self.parts}"
            )
        self._start_time, self._first_step, self._last_report = time.perf_counter(), 0, time.perf_counter()

    def run(self) -> list[Row]:
        """Run to the end, from the last state if there is one; the network then holds the best weights.

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
        progress = self.progress
        while True:
            last = progress.step == self.settings.steps
            if not progress.looked and (last or progress.step % self.settings.select_every == 0):
                self._evaluate()
            if last or self._out_of_patience():
                break
            if progress.step % self.config.save_every == 0 and progress.step > self._first_step:
                self._save()
            self._step()
        self.network.load_state_dict(self.best)
        self.network.eval()
        return progress.rows

    def _step(self) -> None:
        """One step of the optimizer, over a batch that is split for processes and accumulation."""
        progress, settings, processes = self.progress, self.settings, self.processes
        rate = learning_rate(settings, progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        stage = STAGES.index(self.stage)
        seed = (self.config.seed * 2 + stage) * 1_000_003 + progress.step + processes.rank * 1_000_000_007
        torch.manual_seed(seed % 2**64)  # the generator takes 64 bits
        self.network.train()
        whole = self.train.draw(self.config, settings.batch_size, (stage, progress.step))
        self.optimizer.zero_grad(set_to_none=True)
        sums: Losses = {}
        for i in range(settings.accumulate):
            # Together the processes hold the windows of a single one: the quantizer's entropy is over all of them.
            batch = whole.part(i * processes.world + processes.rank, self.parts).to(processes.device)
            last = i == settings.accumulate - 1
            with nullcontext() if last else processes.no_sync(self.wrapped):
                with self._autocast():
                    losses = self.objective(self.wrapped, batch)
                (losses["loss"] / settings.accumulate).backward()
            sums = {key: value.detach().float() + sums.get(key, 0.0) for key, value in losses.items()}
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        *values, size = processes.sum([*torch.stack([sums[key] for key in self.names]).tolist(), float(norm)])
        if not math.isfinite(values[0]):
            self._abort("the loss", values[0])
        if not math.isfinite(size):
            self._abort("the gradient's norm", size)
        self.optimizer.step()
        progress.step, progress.looked, progress.count = progress.step + 1, False, progress.count + 1
        for key, value in zip(self.names, values, strict=True):
            progress.sums[key] = progress.sums.get(key, 0.0) + value / self.parts
        if time.perf_counter() - self._last_report > QUIET_SECONDS:
            self._report_line(f"train {progress.sums['loss'] / progress.count:.4f}")

    def _abort(self, what: str, value: float) -> NoReturn:
        """Abort on a non-finite value; the best weights stay."""
        progress = self.progress
        self.network.load_state_dict(self.best)
        self.network.eval()
        raise CheckpointError(
            f"{self.stage}: {what} is {value} at step {progress.step}; the weights of step "
            f"{progress.best_step} (selection loss {progress.best_loss:.4f}) are kept. Lower {self.stage}.learning_rate"
        )

    def _evaluate(self) -> None:
        """Measure the selection loss, keep the weights if they are the best, and extend the loss curve."""
        progress = self.progress
        selected = self.evaluate()
        if not math.isfinite(selected["loss"]):
            self._abort("the selection loss", selected["loss"])
        progress.rows.append({"step": progress.step, "split": "select", **selected})
        if progress.count:
            means = {key: value / progress.count for key, value in progress.sums.items()}
            rate = learning_rate(self.settings, progress.step - 1)
            progress.rows.append({"step": progress.step, "split": "train", "learning_rate": rate, **means})
        progress.looks_since += 1
        if selected["loss"] < progress.best_loss:
            self.best = copy.deepcopy(self.network.state_dict())
            progress.best_loss, progress.best_step, progress.looks_since = selected["loss"], progress.step, 0
        trained = f"train {progress.sums['loss'] / progress.count:.4f}  " if progress.count else ""
        self._report_line(f"{trained}select {selected['loss']:.4f} (best {progress.best_loss:.4f})")
        progress.sums, progress.count, progress.looked = {}, 0, True

    def evaluate(self) -> dict[str, float]:
        """Mean losses over windows of the selection range."""
        batches = self.select.spread(self.config, self.settings.batch_size)
        with self._autocast():
            return mean_losses(self.objective, self.network, batches, self.names, self.processes)

    def _out_of_patience(self) -> bool:
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
        self.best = {key: value.to(self.processes.device) for key, value in parts["best"].items()}
        unpack_optimizer(self.optimizer, parts["adam"])
        self.progress = StageProgress(**snapshot.values["progress"])
        self._first_step = self.progress.step
        self.report(f"resumed from step {self.progress.step}")

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.processes.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def _report_line(self, text: str) -> None:
        """Report step, speed and the longest time left."""
        step, steps = self.progress.step, self.settings.steps
        seconds = (time.perf_counter() - self._start_time) / max(step - self._first_step, 1)
        self._last_report = time.perf_counter()
        line = f"{self.stage} {step:6d}/{steps}  {text}"
        if step > self._first_step:
            rate = self.settings.batch_size * self.config.window / seconds
            line += f"  {rate:,.0f} tokens/s  {(steps - step) * seconds / 60:.1f} min left"
        self.report(line)


def runs_in_bfloat16(config: FinetuneConfig, device: torch.device) -> bool:
    """Whether the matrix products of a fit are in bfloat16; ``auto`` means GPUs that support it.

    Raises
    ------
    ConfigError
        If the recipe asks for it and the device does not support it.
    """
    supported = device.type != "cuda" or torch.cuda.is_bf16_supported()
    if config.precision == "bfloat16" and not supported:
        raise ConfigError("precision 'bfloat16': not supported by this GPU; choose float32 or auto")
    return config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda" and supported)
