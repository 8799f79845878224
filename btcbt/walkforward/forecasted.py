"""The first half of a run: candles, windows, and every forecast in the store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from btcbt.config import STORE_FOLDER, RunConfig
from btcbt.errors import StoreError
from btcbt.files import in_use
from btcbt.progress import Progress
from btcbt.records import Candles
from btcbt.storage.remote import RemoteFolder, open_remote
from btcbt.walkforward.forecasters import Loaded, Serving, load_forecasters
from btcbt.walkforward.forecasting import forecast_missing, try_out
from btcbt.walkforward.members import Member, make_members
from btcbt.walkforward.refits import make_refits
from btcbt.walkforward.stages import Stages
from btcbt.windows import Windows


@dataclass(frozen=True, slots=True, eq=False)
class Clock:
    """Wall seconds of each stage, and when the run began (UTC)."""

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began


def load(config: RunConfig, candles: Candles, stages: Stages, clock: Clock) -> tuple[Loaded, Windows]:
    """The forecasters of an experiment before any refit, and the origins that suit all of them."""
    with clock("load forecasters"):
        stages.windows(candles, config.windows)  # reports a wrong range before weights are loaded
        loaded = load_forecasters(config, candles, stages.plan, others=stages.others)
        for refitter in loaded.refitters.values():
            refitter.check()
        return loaded, stages.windows(candles, config.windows, loaded.context)


@contextmanager
def forecasted(
    config: RunConfig, loaded: Loaded, windows: Windows, stages: Stages, clock: Clock, progress: Progress
) -> Iterator[dict[str, Member]]:
    """The forecasters with every forecast stored; in the block, ``btcbt store gc`` deletes nothing that they use.

    Parameters
    ----------
    config : RunConfig
        The experiment.
    loaded, windows
        From `load`.
    stages : Stages
    clock : Clock
        Receives the time of each stage.
    progress : Progress
    """
    remote = _open_remote(config)
    with _store_in_use(config.store.folder / STORE_FOLDER):
        serving: dict[str, Serving] = {}
        for name, refitter in loaded.refitters.items():
            with clock(f"refit {name}"):
                serving[name] = make_refits(name, refitter, windows.origins, progress)
        members = make_members(config, loaded, serving, windows, remote, stages.label)
        try_out(members.values())
        for name, member in members.items():
            with clock(f"forecast {name}"):
                base = None if member.base is None else members[member.base]
                members[name] = forecast_missing(member, base, config, progress)
        yield members


def _open_remote(config: RunConfig) -> RemoteFolder | None:
    url = config.store.url
    return None if url is None else open_remote(url).child(STORE_FOLDER)


@contextmanager
def _store_in_use(folder: Path) -> Iterator[None]:
    """Prevent ``btcbt store gc`` from deleting what this run uses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror}); make room or choose another store.root, and run again"
        ) from None
    with in_use(folder):
        yield
