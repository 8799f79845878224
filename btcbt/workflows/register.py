"""Register a study: freeze configuration, weights, code and hypotheses before its hours exist or are looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from btcbt.config import LEDGER_FILE, RunConfig, load_config, time_ms, time_text
from btcbt.errors import CandleError, ConfigError
from btcbt.files import open_regular, read_file
from btcbt.records import Candles
from btcbt.storage.forecasts import column_values
from btcbt.storage.ledger import Ledger
from btcbt.storage.registrations import Registration, read_registrations, study_digest, write_registration
from btcbt.storage.verdicts import MAX_JSON_BYTES
from btcbt.walkforward.provenance import git_commit
from btcbt.walkforward.registration import check_accounts, known_candles, starting_forecasters, study_of
from btcbt.walkforward.stages import Stages
from btcbt.walkforward.traders import make_traders
from btcbt.walkforward.trial_returns import Hours, hours_between, kept_hours
from btcbt.walkforward.trials import returns_folder

_EVER = 2**62


@dataclass(frozen=True, slots=True)
class Registered:
    """The outcome of `register`.

    Attributes
    ----------
    registration : Registration
        That of the study.
    new : bool
        False if the same study was registered before.
    others : tuple of Registration
        Other registrations of the name.
    """

    registration: Registration
    new: bool
    others: tuple[Registration, ...]


@dataclass(frozen=True, slots=True)
class _Look:
    """Hours that something has scored: its name, when, [start, end) in ms UTC, and the candles, if they are kept."""

    what: str
    date: str
    start: int
    end: int
    hours: Hours | None


def register(config: RunConfig | str | Path) -> Registered:
    """Freeze a study.

    Parameters
    ----------
    config : RunConfig or path
        The experiment, with hypotheses, or its file. Its window may lie beyond the candles.

    Raises
    ------
    ConfigError
        If there are no hypotheses, or a candle of the window was scored already.
    BtcbtError
        If the experiment is invalid, the folder cannot be written, or a registration of the name is damaged.
    """
    study = config if isinstance(config, RunConfig) else load_config(config)
    if not study.hypotheses:
        raise ConfigError(
            f"experiment '{study.name}': it has no hypotheses, so there is nothing to register; add some, such as "
            "'hypotheses: {edge: {kind: forecast, forecaster: NAME}}'"
        )
    stages = Stages()
    candles = stages.history(study.candles)
    if not len(candles):
        raise CandleError(f"candles {candles.source}: no candles; give a file with at least one candle")
    traders = make_traders(study)
    check_accounts(study, traders)
    content = study_of(study, starting_forecasters(study), traders)
    digest = study_digest(content)
    root = study.store.folder
    before = {one.digest: one for one in read_registrations(root, study.name)}
    if digest in before:
        kept = before.pop(digest)
        return Registered(kept, False, tuple(before.values()))
    _require_unseen(study, candles)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = Registration(digest, now, content, known_candles(candles), git_commit())
    kept = write_registration(root, study.name, made)
    return Registered(kept, kept == made, tuple(before.values()))


def _require_unseen(study: RunConfig, candles: Candles) -> None:
    """Refuse a window of which anything in the ledger, or a run in the folder, scored a candle.

    The window reaches to the last outcome. Where no candle in common tells whether the market was the same, it is
    taken to be: hours that may have been looked at are no evidence.
    """
    start = time_ms(study.windows.start)
    end = time_ms(study.windows.end) + study.windows.horizon * candles.interval_ms
    ours = hours_between(candles, -_EVER, _EVER)
    for look in (*_trials(study, candles), *_runs(study.store.folder, candles.interval_ms)):
        if look.start >= end or look.end <= start:
            continue
        common = look.hours is not None and len(np.intersect1d(ours.open_time, look.hours.open_time)) > 0
        if common and look.hours is not None and not ours.same_market(look.hours):
            continue
        unknown = "" if common else " (on candles that this file does not reach, so it may be another market)"
        hours = f"{time_text(max(look.start, start))} .. {time_text(min(look.end, end))}"
        raise ConfigError(
            f"study '{study.name}': {look.what}, {look.date[:10] or 'at an unrecorded date'}, already scored "
            f"{hours} of its window{unknown}; move windows.start to {time_text(look.end)} or later"
            + ("" if common else ", or give candles that reach these hours")
        )


def _trials(study: RunConfig, candles: Candles) -> Iterator[_Look]:
    """The trials of all ledgers."""
    folders = study.store.ledger_folders
    kept = [returns_folder(folder) for folder in folders]
    for one in Ledger(*(folder / LEDGER_FILE for folder in folders)).trials():
        what = f"the trial '{one.name}' of the experiment '{one.experiment}'"
        yield _Look(what, one.recorded, one.start, one.end, kept_hours(kept, one, candles))


def _runs(root: Path, interval: int) -> Iterator[_Look]:
    """The runs in the folder: those without strategies are not in the ledger."""
    for file in sorted(root.glob("*/*/manifest.json")):
        try:
            manifest = json.loads(read_file(file, MAX_JSON_BYTES))
            first, last = (time_ms(datetime.fromisoformat(manifest["origins"][key])) for key in ("first", "last"))
            horizon = int(manifest["config"]["windows"]["horizon"])
            with open_regular(file.with_name("candles.parquet")) as content:
                table = pq.read_table(content, columns=["open_time", "close"])
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            continue  # not a run of this version: it cannot say what it scored
        times = column_values(table, "open_time", np.dtype("<i8"))
        hours = Hours(times, column_values(table, "close", np.dtype("<f8")))
        end = min(last + horizon * interval, int(times[-1]) + interval)
        yield _Look(f"the run {file.parent}", str(manifest.get("started", "")), first, end, hours)
