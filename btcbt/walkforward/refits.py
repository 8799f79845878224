"""Refits inside the walk-forward: a checkpoint is fine-tuned on candles before the origins that it serves.

A refit is determined by its starting weights, the candles of its ranges, and a recipe. The digest of these is its
key and the name of its folder, ``<root>/store/refits/<key>/``, where a repeated or extended experiment finds it. The
fit gets a copy of those candles and nothing else, so it cannot depend on others.

A folder appears under its name when it is complete; an interrupted fit is resumed from its temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast, get_args

import numpy as np

from btcbt.config import (
    REFITS_FOLDER,
    STORE_FOLDER,
    ForecasterSection,
    Interval,
    KronosConfig,
    RefitConfig,
    RunConfig,
    WindowsConfig,
    interval_ms,
    time_text,
)
from btcbt.errors import CheckpointError, StoreError
from btcbt.files import CAN_LOCK, acquire_lock, open_regular, sync_folder, temporary_name, write_whole
from btcbt.forecasters import Forecaster
from btcbt.forecasters.kronos import KronosForecaster, load_checkpoint, pair_digest
from btcbt.forecasters.refitted import Served
from btcbt.forecasters.registry import refitted
from btcbt.models.kronos.checkpoints.card import selection_losses
from btcbt.models.kronos.checkpoints.files import read_json
from btcbt.models.kronos.training.finetune import finetune
from btcbt.models.kronos.training.recipe import FinetuneConfig, Optimizer, Span, Start
from btcbt.models.kronos.training.state import ForeignFitError
from btcbt.progress import Progress
from btcbt.records import Candles, DataRange, IntArray, Refit
from btcbt.trees import tree_digest
from btcbt.windows import RefitPeriod, fit_windows, plan_refits

NOTE_FILE = "refit.json"
REFIT_NUMERICS = 1
"""Raised whenever the same weights, candles and recipe give another fit than before."""
MODEL_CURVE = "model_loss.csv"
_LOOKS = 8
_HISTORY = "history"
"""Name of the candles in recipes, so that a fit is resumed even if their file is renamed."""
_PLACES = ("name", "candles", "start", "output", "save_every", "device")

Plan = Callable[[Candles, WindowsConfig, RefitConfig], tuple[RefitPeriod, ...]]

log = logging.getLogger(__name__)


class _StartingWeights(NamedTuple):
    """The networks that a fit starts from: their locations and their digest."""

    model: str
    tokenizer: str | None
    weights: str


@dataclass(frozen=True, slots=True)
class _Found:
    """Contents of a complete folder."""

    weights: str
    ranges: tuple[DataRange, ...] | None


class Refitter:
    """The refits of one forecaster over one history, made on demand.

    Parameters
    ----------
    config : KronosConfig
        The forecaster, with its `refit`.
    windows : WindowsConfig
        Of the experiment.
    candles : Candles
        The history; a fit gets the part that its period allows.
    frozen : KronosForecaster
        The forecaster with its starting weights.
    folder : Path
        Where refits are kept.
    plan : callable
        As `btcbt.windows.plan_refits`.
    """

    def __init__(
        self,
        config: KronosConfig,
        windows: WindowsConfig,
        candles: Candles,
        frozen: KronosForecaster,
        folder: Path,
        plan: Plan = plan_refits,
    ) -> None:
        if config.refit is None:
            raise ValueError("the forecaster has no refit schedule")
        self.config, self.refit, self.windows, self.frozen, self.folder = config, config.refit, windows, frozen, folder
        self.periods = plan(candles, windows, config.refit)
        self.window = windows.context + windows.horizon
        self.report: Callable[[str], None] = lambda _line: None
        """Receives the progress lines of each fit."""
        self._starts = [period.start for period in self.periods]
        self._done: dict[int, Refit] = {}

    def check(self) -> None:
        """Check that each period has candles to train and to select on, before any fit starts.

        Raises
        ------
        CandleError
            If a period has none.
        """
        for period in self.periods:
            fit_windows(period, self.window)

    def number(self, origin: int) -> int:
        """Number of the period that serves an origin (ms UTC)."""
        number = bisect_right(self._starts, origin) - 1
        if number < 0 or origin >= self.periods[number].end:
            raise ValueError(f"no refit serves {time_text(origin)}")
        return number

    def at(self, origin: int, until: int | None = None) -> Refit:
        """The refit that serves an origin, made if it is not stored.

        Parameters
        ----------
        origin : int
            ms UTC.
        until : int, optional
            Origins after this one use its refit, since later refits may have used candles after it.
        """
        return self.fit(self.number(origin if until is None else min(origin, until)))

    def fit(self, number: int) -> Refit:
        """The refit of a period, made if it is not stored.

        Raises
        ------
        CandleError
            If there are too few candles.
        CheckpointError
            If its loss is not finite.
        StoreError
            If refits cannot be written to the store.
        """
        if number not in self._done:
            period, key = self.periods[number], self.key(number)
            target = self.folder / key
            with _writable(self.folder):
                found = _find(target, key) or self._make(number, target)
            ranges = self._with_inherited(found.ranges)
            self._done[number] = Refit(period.start, period.end, key, str(target), found.weights, ranges)
        return self._done[number]

    def forecaster(self, serving: Callable[[int], Refit]) -> Forecaster:
        """The forecaster that uses these refits.

        Parameters
        ----------
        serving : callable
            Origin (ms UTC) to the refit that serves it.
        """
        return refitted(self.frozen, self.config, self.windows, serving)

    def key(self, number: int) -> str:
        """SHA-256 (hex) of the inputs of a refit: starting weights, candles, recipe, version of the fitting code."""
        start = self._starting_weights(number)
        recipe = self._recipe(number, start, self.folder).model_dump(mode="json")
        made_from: dict[str, Any] = {
            "weights": start.weights,
            "candles": candles_digest(self.periods[number].candles),
            "recipe": {name: value for name, value in recipe.items() if name not in _PLACES},
            "numerics": REFIT_NUMERICS,
        }
        return tree_digest(made_from)

    def _with_inherited(self, ranges: tuple[DataRange, ...] | None) -> tuple[DataRange, ...] | None:
        """Ranges of a refit and of the starting weights as declared now: it may be older than their declaration."""
        inherited = self.frozen.data_ranges()
        if ranges is None or inherited is None:
            return ranges
        return tuple(dict.fromkeys((*inherited, *ranges)))

    def _starting_weights(self, number: int) -> _StartingWeights:
        if self.refit.cumulative and number > 0:
            before = self.fit(number - 1)
            return _StartingWeights(before.folder, None, before.weights)
        return _StartingWeights(self.config.checkpoint, self.config.tokenizer, self.frozen.weights)

    def _recipe(self, number: int, start: _StartingWeights, output: Path) -> FinetuneConfig:
        refit, period, context = self.refit, self.periods[number], self.windows.context
        count, _ = fit_windows(period, self.window)
        steps = refit.steps or math.ceil((refit.epochs or 0.0) * count / refit.batch_size)
        interval = period.candles.interval_ms
        return FinetuneConfig(
            name="refit",
            candles=(_HISTORY,),
            interval=next(name for name in get_args(Interval) if interval_ms(name) == interval),
            start=Start(model=start.model, tokenizer=start.tokenizer),
            window=self.window,
            context=(max(2, context // 4), context),
            train=_span(period.train),
            select=_span(period.select),
            embargo=max(0, period.select[0] - period.train[1]) // interval,
            tokenizer=self._optimizer(refit.tokenizer_steps) if refit.tokenizer_steps else None,
            model=self._optimizer(steps),
            dropout=refit.dropout,
            mirror=refit.mirror,
            calendar=self.frozen.calendar,
            clip=self.config.clip,
            device=self.config.device,
            precision=refit.precision,
            save_every=refit.select_every or -(-steps // _LOOKS),
            seed=refit.seed,
            output=str(output),
        )

    def _optimizer(self, steps: int) -> Optimizer:
        refit = self.refit
        return Optimizer(
            steps=steps,
            batch_size=refit.batch_size,
            learning_rate=refit.learning_rate,
            weight_decay=refit.weight_decay,
            select_every=refit.select_every or -(-steps // _LOOKS),
        )

    def _make(self, number: int, target: Path) -> _Found:
        """Fit in a temporary folder with a fixed name, so that an interrupted fit is resumed; then rename it."""
        period = self.periods[number]
        scratch = target.with_name(f".{target.name}.{target.name[:8]}.tmp")
        with _locked(target):
            found = _find(target, target.name)  # another process may have been faster
            if found is not None:
                return found
            self._fit(number, scratch)
            checkpoint = load_checkpoint(str(scratch))
            note = {
                "key": target.name,
                "serves": [time_text(period.start), time_text(period.end)],
                "weights": pair_digest(checkpoint),
                "selection_losses": selection_losses(scratch / MODEL_CURVE),
            }
            write_whole(scratch / NOTE_FILE, (json.dumps(note, indent=2) + "\n").encode())
            if target.exists():  # damaged, or of another key
                target.rename(temporary_name(target))
            scratch.rename(target)
            sync_folder(target.parent)
        found = _find(target, target.name)
        if found is None:
            raise CheckpointError(f"{target}: the refit cannot be read back; delete the folder and run again")
        return found

    def _fit(self, number: int, scratch: Path) -> None:
        """Resume an interrupted fit; start over if it belongs to another recipe, such as that of an earlier version."""
        recipe = self._recipe(number, self._starting_weights(number), scratch)
        history = {_HISTORY: _copy(self.periods[number].candles)}
        try:
            finetune(history, recipe, self.report)
        except ForeignFitError:
            shutil.rmtree(scratch)
            finetune(history, recipe, self.report)


def make_refitter(
    config: ForecasterSection, run: RunConfig, candles: Candles, frozen: Forecaster, plan: Plan = plan_refits
) -> Refitter | None:
    """The refitter of a forecaster of an experiment; None if it is not refitted.

    Parameters
    ----------
    config : ForecasterSection
        The forecaster.
    run : RunConfig
        The experiment.
    candles : Candles
        Its history.
    frozen : Forecaster
        Built from `config.without_refit()`.
    plan : callable
        As `btcbt.windows.plan_refits`.
    """
    if config.schedule is None:
        return None
    folder = run.store.folder / STORE_FOLDER / REFITS_FOLDER
    # Only Kronos has a schedule, and fitting is implemented for its networks.
    kronos, network = cast(KronosConfig, config), cast(KronosForecaster, frozen)
    return Refitter(kronos, run.windows, candles, network, folder, plan)


def make_refits(name: str, refitter: Refitter, origins: IntArray, progress: Progress) -> Served:
    """Make or load the refits that serve some origins.

    Parameters
    ----------
    name : str
        Name of the forecaster, for the progress.
    refitter : Refitter
    origins : int64 (M,)
        ms UTC.
    progress : Progress
        Receives the progress.
    """
    numbers = sorted({refitter.number(origin) for origin in origins.tolist()})
    made = []
    with progress.stage(f"refit {name}", len(numbers), unit="fits") as advance:
        for number in numbers:
            when = time_text(refitter.periods[number].start)
            refitter.report = partial(_note, progress, f"refit {name} for {when}")
            made.append(refitter.fit(number))
            advance(1)
    return Served(tuple(made))


def _note(progress: Progress, what: str, line: str) -> None:
    """Pass on lines with a selection loss; lines of single steps are left out."""
    if " select " in line:
        progress.note(f"{what}: {line}")


def describe_refits(forecaster: Forecaster, origins: IntArray) -> dict[str, Any]:
    """The refits that served some origins, for a manifest; empty if none did.

    ``selection_losses`` holds the loss of each evaluation on the selection range, that of the starting weights first.
    """
    served = forecaster.refits(origins)
    if not served:
        return {}
    return {
        "refits": [
            {
                "serves": [time_text(refit.start), time_text(refit.end)],
                "key": refit.key,
                "weights": refit.weights,
                "selection_losses": read_json(Path(refit.folder) / NOTE_FILE).get("selection_losses"),
                "looked_at": None
                if refit.ranges is None
                else [[one.use, time_text(one.start), time_text(one.end)] for one in refit.ranges],
            }
            for refit in served
        ]
    }


def candles_digest(candles: Candles) -> str:
    """SHA-256 (hex) of candles: their times, their values, their interval."""
    digest = hashlib.sha256(str(candles.interval_ms).encode())
    for array in (candles.open_time, candles.values):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _find(folder: Path, key: str) -> _Found | None:
    """Contents of a folder, if it is the complete refit of that key."""
    if not (folder / NOTE_FILE).is_file():
        return None
    try:
        note, checkpoint = read_json(folder / NOTE_FILE), load_checkpoint(str(folder))
        weights = pair_digest(checkpoint)
        if (note.get("key"), note.get("weights")) != (key, weights):
            raise CheckpointError(f"{folder}: its weights differ from those that were fitted")
    except CheckpointError as error:
        log.warning("%s; refitting", error)
        return None
    return _Found(weights, None if checkpoint.ranges is None else tuple(checkpoint.ranges))


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold a lock, so that other processes wait until this refit is made or has failed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not CAN_LOCK:
        yield
        return
    lock = target.with_name(f".{target.name}.lock.{target.name[:8]}.tmp")  # ``btcbt store gc`` knows such names
    while True:
        with open_regular(lock, "wb") as file:
            acquire_lock(file)
            if not _is_at(file, lock):  # the previous holder removed it, so this lock is on a deleted file
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Report the folder of refits if a file in it cannot be read or written."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder}: refits cannot be stored there ({error.strerror or error}); make room or fix its permissions, "
            "or choose another store.root, and run again"
        ) from None


def _copy(candles: Candles) -> Candles:
    """A copy of the candles: a view would give access to the rest of the history."""
    open_time, values = candles.open_time.copy(), candles.values.copy()
    for array in (open_time, values):
        array.setflags(write=False)
    return Candles(open_time, values, candles.interval_ms, candles.source, candles_digest(candles))


def _span(times: Sequence[int]) -> Span:
    start, end = (datetime.fromtimestamp(time / 1000, UTC) for time in times)
    return Span(start=start, end=end)
