"""Members: the forecasters of a run with their origins, their labels and their place in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from btcbt.config import STORE_FOLDER, RunConfig
from btcbt.errors import CheckpointError
from btcbt.forecasters import Forecaster
from btcbt.records import ForecastBatch, IntArray
from btcbt.storage.forecasts import (
    Digests,
    ForecastStore,
    ShardPlan,
    fitted_digests,
    forecast_key,
    history_digests,
    window_digests,
)
from btcbt.storage.remote import RemoteFolder
from btcbt.walkforward.forecasters import Loaded, Serving, build_forecasters
from btcbt.walkforward.stages import Label
from btcbt.windows import Windows, contamination

READ_BATCH = 168
"""Origins whose stored forecasts are read at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A forecaster of the run, and where its forecasts are.

    Attributes
    ----------
    name, kind : str
        What the experiment calls it, and its kind.
    forecaster : Forecaster
    build : callable
        How a worker process builds the same forecaster.
    base : str or None
        The member whose stored forecasts it is made from.
    windows : Windows
        M origins with the context that it needs.
    digests : void (M,)
        What the stored forecast of each origin must agree with.
    column : str
        Name of those digests in the run's table of origins.
    key : str
        Names its forecasts in the store.
    meaning : mapping
        What the key is the digest of, as JSON values.
    store : ForecastStore
    plan : ShardPlan
        Which forecasts are stored, and which are missing.
    labels : str (M,)
        Contamination label of each origin.
    configured : bool
        False for a random walk that was added for comparison.
    computed : int
        Origins that this run had to forecast.
    provenance : mapping
        What made its forecasts.
    """

    name: str
    kind: str
    forecaster: Forecaster
    build: Callable[[], Forecaster]
    base: str | None
    windows: Windows
    digests: Digests
    column: str
    key: str
    meaning: Mapping[str, object]
    store: ForecastStore
    plan: ShardPlan
    labels: NDArray[np.str_]
    configured: bool
    computed: int = 0
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def work(self) -> tuple[str, Callable[[], Forecaster]]:
        """What a worker is to build, and the name under which it may keep it.

        Workers outlive a run. The key of the store is too short a name for them: it says nothing of refitted weights,
        while the digests of the forecasts do. What is built is compared with what this process has, for a path may
        lead to another checkpoint on another machine.
        """
        name = hashlib.sha256(self.key.encode())
        name.update(self.windows.origins.tobytes())
        name.update(self.digests.tobytes())
        return name.hexdigest(), partial(_build_alike, self.build, dict(self.forecaster.identity()), self.name)

    def batches(self) -> Iterator[ForecastBatch]:
        """Its stored forecasts in order of time, `READ_BATCH` origins at once."""
        return self.store.read(self.plan, self.windows.origins, READ_BATCH)


def _build_alike(build: Callable[[], Forecaster], identity: Mapping[str, object], name: str) -> Forecaster:
    forecaster = build()
    if dict(forecaster.identity()) != identity:
        raise CheckpointError(
            f"forecaster '{name}': a worker reads other weights or source than the process that started it; "
            "give all machines the same files under the same paths"
        )
    return forecaster


def make_members(
    config: RunConfig,
    loaded: Loaded,
    serving: Mapping[str, Serving],
    windows: Windows,
    remote: RemoteFolder | None,
    label: Label = contamination,
) -> dict[str, Member]:
    """Build the forecasters of a run, label their origins, and find what of their forecasts is stored.

    Parameters
    ----------
    config : RunConfig
        The experiment.
    loaded : Loaded
        Its forecasters before any refit.
    serving : mapping
        The refits of those that are refitted.
    windows : Windows
        The origins, with the longest context of all forecasters.
    remote : RemoteFolder or None
        Where forecasts are shared between machines, if anywhere.
    label : callable
        As `btcbt.windows.contamination`.
    """
    of_context: dict[int, Digests] = {}
    members: dict[str, Member] = {}
    for name, (forecaster, build) in build_forecasters(config, loaded, serving, windows.candles).items():
        own = windows.with_context(forecaster.context)
        if forecaster.context not in of_context:
            of_context[forecaster.context] = window_digests(own)
        labels, digests, kind = label_and_digest(forecaster, own.origins, of_context[forecaster.context], label)
        key, meaning = forecast_key(
            forecaster.identity(),
            interval_ms=windows.candles.interval_ms,
            context=forecaster.context,
            horizon=forecaster.horizon,
            n_paths=forecaster.n_paths,
            seed=config.seed,
        )
        store = ForecastStore(
            config.store.folder / STORE_FOLDER / key,
            key,
            n_paths=forecaster.n_paths,
            horizon=forecaster.horizon,
            remote=None if remote is None else remote.child(key),
        )
        chosen = loaded.configs[name]
        members[name] = Member(
            name=name,
            kind=chosen.kind,
            forecaster=forecaster,
            build=build,
            base=chosen.based_on,
            windows=own,
            digests=digests,
            column=f"window.{forecaster.context}" if kind == "window" else f"{kind}.{name}",
            key=key,
            meaning=meaning,
            store=store,
            plan=store.plan(own.origins, digests),
            labels=labels,
            configured=name in config.forecasters,
        )
    return members


def label_and_digest(
    forecaster: Forecaster, origins: IntArray, windows: Digests, label: Label = contamination
) -> tuple[NDArray[np.str_], Digests, str]:
    """What each origin's fitted parts had looked at, and what its stored forecast must agree with.

    Parameters
    ----------
    forecaster : Forecaster
    origins : int64 (M,)
        All origins of the walk, ms UTC.
    windows : void (M,)
        Digests of their windows.
    label : callable
        As `btcbt.windows.contamination`.

    Returns
    -------
    labels : str (M,)
        See `btcbt.windows.contamination`.
    digests : void (M,)
        Of its window; with the weights, if they were fitted for it; with all before, if the forecaster learns.
    kind : str
        ``window``, ``refit`` or ``history``: which of these.
    """
    labels = np.empty(len(origins), dtype="U11")
    weights = [""] * len(origins)
    for part in forecaster.parts(origins):
        labels[part.rows] = label(origins[part.rows], part.ranges)
        for row in part.rows.tolist():
            weights[row] = part.weights
    digests, kind = windows, "window"
    if any(weights):
        digests, kind = fitted_digests(windows, weights), "refit"
    if forecaster.base is not None:
        digests, kind = history_digests(origins, digests), "history"
    return labels, digests, kind
