"""Members: the forecasters of a run with their origins, labels and stored forecasts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from btcbt.config import STORE_FOLDER, RunConfig
from btcbt.forecasters import Forecaster
from btcbt.forecasters.registry import create_alike
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
    """A forecaster of the run, its origins, and its stored forecasts.

    Attributes
    ----------
    name, kind : str
        Name in the experiment, and kind.
    forecaster : Forecaster
    build : callable
        How a worker process builds the same forecaster.
    base : str or None
        Name of the member that is its base.
    windows : Windows
        M origins, with the context of this forecaster.
    digests : void (M,)
        Digest of the inputs of each origin; a stored forecast is used only if its digest is equal.
    column : str
        Name of those digests in the run's table of origins.
    key : str
        Key of its forecasts in the store.
    meaning : mapping
        The content whose digest is the key, as JSON values.
    store : ForecastStore
    plan : ShardPlan
        Which forecasts are stored, and which are missing.
    labels : str (M,)
        Contamination label of each origin.
    configured : bool
        False for a random walk that was added as benchmark.
    computed : int
        Origins that this run had to forecast.
    provenance : mapping
        Provenance of its forecasts.
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
        """A cache key for worker processes, and the function with which they build the forecaster.

        Workers outlive a run. The key of the store does not identify refitted weights, so the key for workers also
        covers the digests of the forecasts. The forecaster built by a worker is compared with that of this process,
        since a path may lead to another checkpoint on another machine.
        """
        name = hashlib.sha256(self.key.encode())
        name.update(self.windows.origins.tobytes())
        name.update(self.digests.tobytes())
        return name.hexdigest(), partial(create_alike, self.build, dict(self.forecaster.identity()), self.name)

    @property
    def batch(self) -> int:
        """Number of origins in each of `batches`: `READ_BATCH`, or fewer of many paths."""
        return min(READ_BATCH, self.store.most_rows)

    def batches(self) -> Iterator[ForecastBatch]:
        """Its stored forecasts in order of time, `batch` origins at once."""
        return self.store.read(self.plan, self.windows.origins, self.batch)


def make_members(
    config: RunConfig,
    loaded: Loaded,
    serving: Mapping[str, Serving],
    windows: Windows,
    remote: RemoteFolder | None,
    label: Label = contamination,
) -> dict[str, Member]:
    """Build the forecasters of a run, label their origins, and look up their stored forecasts.

    Parameters
    ----------
    config : RunConfig
        The experiment.
    loaded : Loaded
        Its forecasters before any refit.
    serving : mapping
        The refits of refitted forecasters.
    windows : Windows
        The origins, with the longest context of all forecasters.
    remote : RemoteFolder or None
        Store shared between machines, if there is one.
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
            seed=config.forecast_seed,
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
    """The contamination label of each origin, and the digest of the inputs of its forecast.

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
        Of the window; of the window and weights, if these were fitted for the origin; of all windows so far, if the
        forecaster learns online.
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
