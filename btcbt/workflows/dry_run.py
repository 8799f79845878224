"""What a run would do: origins, shards, what is stored, and time and memory from a probe of a few origins."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from btcbt.config import RunConfig, time_text
from btcbt.forecasters.asking import ask
from btcbt.progress import Progress
from btcbt.walkforward.forecasted import Clock, load
from btcbt.walkforward.manifest import run_digest
from btcbt.walkforward.members import Member, make_members
from btcbt.walkforward.registration import until_now
from btcbt.walkforward.rehearsal import try_strategies
from btcbt.walkforward.stages import Stages
from btcbt.walkforward.traders import make_traders
from btcbt.windows import decision_windows

PROBED = 8
"""Origins that each forecaster is asked for."""


@dataclass(frozen=True, slots=True)
class ForecasterOutlook:
    """What there is to do for one forecaster.

    Attributes
    ----------
    name : str
    stored : float
        Origins whose forecasts are in the store; NaN where that depends on refits to come.
    missing, shards : int
        Origins to forecast, and the files that they make.
    rate, seconds : float
        Origins a second, and the time for all that are missing; NaN where it was not probed.
    megabytes : float
        Size of all its forecasts before compression.
    note : str
        What to know of it; empty if nothing.
    """

    name: str
    stored: float
    missing: int
    shards: int
    rate: float
    seconds: float
    megabytes: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run would do.

    Attributes
    ----------
    name, first, last : str
        Of the experiment; its first and last origin.
    origins, accounts, probed : int
    skipped : mapping of str to int
        Origins that are left out, by reason.
    forecasters : tuple of ForecasterOutlook
    memory_mb : float
        Highest memory of this process, probe included.
    finished : bool
        Whether the run is there already.
    """

    name: str
    first: str
    last: str
    origins: int
    accounts: int
    probed: int
    skipped: Mapping[str, int]
    forecasters: tuple[ForecasterOutlook, ...]
    memory_mb: float
    finished: bool

    @property
    def seconds(self) -> float:
        """Estimated time of all forecasts that were probed."""
        return sum(one.seconds for one in self.forecasters if math.isfinite(one.seconds))


def look_ahead(study: RunConfig, *, stages: Stages | None = None, progress: Progress | None = None) -> Outlook:
    """Check an experiment as a run does, ask every forecaster for a few origins, and store nothing.

    Parameters
    ----------
    study : RunConfig
    stages : Stages, optional
        Those of a symbol of a panel.
    progress : Progress, optional

    Raises
    ------
    BtcbtError
        As `btcbt.run`, before its first forecast.
    """
    progress, stages, clock = progress or Progress(), stages or Stages(), Clock()
    candles = stages.history(study.candles)
    config = until_now(study, candles)
    traders = make_traders(config)
    refitted = {name for name, one in config.forecasters.items() if one.schedule is not None}
    frozen = {name: one.without_refit() for name, one in config.forecasters.items()}
    loaded, windows = load(config.model_copy(update={"forecasters": frozen}), candles, stages, clock)
    decided = decision_windows(candles, config.windows, int(windows.origins[0]))
    try_strategies(config, loaded, traders, windows, decided)
    members = make_members(config, loaded, {}, windows, None, stages.label)
    with progress.stage("probe", len(members), unit="forecasters") as advance:
        found = []
        for name, member in members.items():
            found.append(_probe(member, config, refitted=name in refitted))
            advance(1)
    funding = stages.with_funding(config.portfolio, windows).funding
    keys = {name: member.key for name, member in members.items()}
    digest = run_digest(study, candles.sha256, keys, traders, funding, stages.others)
    done = not refitted and (config.store.folder / config.name / digest / "manifest.json").is_file()
    return Outlook(
        name=config.name,
        first=time_text(int(windows.origins[0])),
        last=time_text(int(windows.origins[-1])),
        origins=len(windows),
        accounts=len(traders),
        probed=min(PROBED, len(windows)),
        skipped=dict(windows.skipped),
        forecasters=tuple(found),
        memory_mb=_peak_mb(),
        finished=done and not any(one.missing for one in found),
    )


def _probe(member: Member, config: RunConfig, *, refitted: bool) -> ForecasterOutlook:
    count = len(member.windows)
    missing = count if refitted else len(member.plan.missing)
    size = min(config.store.shard_size, member.store.most_rows)
    megabytes = count * math.prod(member.store.shape) * 4 / 1e6
    rate, note = math.nan, ""
    if member.base is not None:
        note = f"works on the forecasts of {member.base}; not timed"
    elif missing:
        asked = [member.windows[row] for row in range(min(PROBED, count))]
        ask(member.forecaster, asked[:1])  # the first call loads and compiles
        began = time.perf_counter()
        ask(member.forecaster, asked)
        rate = len(asked) / max(time.perf_counter() - began, 1e-9)
    if refitted:
        note = "refitted inside the run: the time is that of forecasting alone, and the store is not looked up"
    stored = math.nan if refitted else float(count - missing)
    seconds = missing / rate if rate > 0 else math.nan
    return ForecasterOutlook(member.name, stored, missing, math.ceil(missing / size), rate, seconds, megabytes, note)


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
