"""The trial ledger: every configuration ever evaluated on some candles, for multiple-testing corrections.

The best of many worthless strategies looks good. How good depends on how many were tried, over all runs, not
only in the last one (Bailey and Lopez de Prado, 2014, "The deflated Sharpe ratio"). So every account of every
run appends a line to a file beside the runs::

    {"checksum": "...", "trial": {"id": "...", "name": "threshold@kronos", "sharpe": 0.01, ...}}

A configuration is identified by the digest of all its inputs, so running it again adds nothing. What goes into that
digest has a version (`VERSION`). A line of an earlier version is still read and counted; only where an account of this
version has the same scores on the same candles to the last bit, both are taken for one trial. Lines are written
at once and synced, under a lock where the system has one; the checksum detects truncated or altered lines, which
are reported in a warning and skipped. Several roots, or colleagues, may share a ledger: a run then writes to its own
file and to the shared one, and counts what is in either.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from btcbt.errors import StoreError
from btcbt.files import acquire_lock, open_regular, read_file
from btcbt.records import Candles
from btcbt.trees import canonical, tree_digest

VERSION = 3
"""Of trial identities; the same configuration has another one under each version. 2: built-in strategies have short
names (``threshold`` for ``strategies.threshold:Threshold``), the digest of a user's source covers what it imports. 3:
the portfolio has `on_gap` and a funding series, and decisions are those at a strategy's own origins."""
_CHECKSUM_BYTES = 8
_LARGEST = 2**53
"""Bound of every number of a trial."""
MAX_LEDGER_BYTES = 1 << 28
"""Some 400,000 trials."""
_NUMBERS = ("sharpe", "skew", "kurtosis", "gross_sharpe")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration on one period of candles, and its result.

    Attributes
    ----------
    id : str
        Digest of all its inputs; see `trial_id`.
    name, experiment : str
        Its name, ``strategy@forecaster``, and that of the experiment; for readers.
    candles, stretch : str
        SHA-256 of the file of candles, and digest of the candles traded; see `stretch_digest`.
    start, end : int
        Period of the candles traded, [start, end) in ms UTC.
    sharpe : float
        Sharpe ratio per candle, net; NaN if the account never traded.
    n : int
        Number of candles.
    skew, kurtosis : float
        Of the returns per candle; the kurtosis of a normal distribution is 3. NaN as `sharpe`.
    version : int
        Of the identity; see `VERSION`.
    configuration : str
        Digest of what it is made of without its dates: equal for one configuration on two periods. Empty on lines
        written before this was recorded.
    gross_sharpe : float
        Sharpe ratio per candle before fees and slippage; NaN as `sharpe`, and on such lines.
    recorded : str
        When it was first evaluated, ISO 8601 in UTC; empty on lines written before this was recorded.
    """

    id: str
    name: str
    experiment: str
    candles: str
    stretch: str
    start: int
    end: int
    sharpe: float
    n: int
    skew: float
    kurtosis: float
    version: int = VERSION
    configuration: str = ""
    gross_sharpe: float = math.nan
    recorded: str = ""

    @property
    def account(self) -> tuple[object, ...]:
        """What it traded on and how it fared: equal for one configuration, whatever version its identity has."""
        scores = (None if math.isnan(one) else one for one in (self.sharpe, self.skew, self.kurtosis))
        return (self.stretch, self.start, self.end, self.n, *scores)


def trial_id(made_of: Mapping[str, object]) -> str:
    """Digest (32 hex digits) of all inputs of a configuration, given as JSON values."""
    return tree_digest({"version": VERSION, **made_of})[:32]


def stretch_digest(candles: Candles, start: int, end: int) -> str:
    """Digest (32 hex digits) of the candles that open in [start, end) ms UTC, independent of their file."""
    rows = (candles.open_time >= start) & (candles.open_time < end)
    digest = hashlib.blake2b(candles.open_time[rows].tobytes(), digest_size=16)
    digest.update(candles.values[rows].tobytes())
    return digest.hexdigest()


class Ledger:
    """The trials in one file, or in several together; none need exist yet.

    Parameters
    ----------
    file : Path
        The ledger's file.
    *shared : Path
        Further files, which others write to, too.
    """

    def __init__(self, file: Path, *shared: Path) -> None:
        self.file = file
        self.files = (file, *shared)

    def record(self, trials: Iterable[Trial]) -> int:
        """Add trials to each file that does not have them yet; on return they are on disk.

        A trial is also added where its line lacks what an earlier program did not record.

        Returns
        -------
        int
            Number of lines added to the first file.

        Raises
        ------
        StoreError
            If a file cannot be written.
        """
        wanted = {trial.id: trial for trial in trials}
        if not wanted:
            return 0
        added = [self._record(file, wanted.values()) for file in self.files]
        return added[0]

    def _record(self, path: Path, wanted: Iterable[Trial]) -> int:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_regular(path, "ab+") as file:
                acquire_lock(file)
                file.seek(0)
                content = file.read(MAX_LEDGER_BYTES + 1)
                if len(content) > MAX_LEDGER_BYTES:
                    raise OSError(errno.EFBIG, f"larger than {MAX_LEDGER_BYTES:,} bytes")
                known: dict[str, bool] = {}
                for trial in _parse(path, content):
                    known[trial.id] = known.get(trial.id, False) or bool(trial.configuration)
                new = [one for one in wanted if one.id not in known or (one.configuration and not known[one.id])]
                if new:
                    # Terminate a line truncated by a crash, so that it does not damage the next.
                    torn = b"\n" if content and not content.endswith(b"\n") else b""
                    file.write(torn + b"".join(map(_line, new)))
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"{path}: the trial ledger cannot be written ({error.strerror}); free space or fix its permissions"
            ) from None
        return len(new)

    def trials(self) -> list[Trial]:
        """Every trial once, in the order in which they were first recorded.

        An identity of an earlier version cannot be made again from its line, which holds no configuration. So each
        trial of this version stands for one of an earlier version whose `Trial.account` is equal. Two configurations
        of an earlier version whose accounts are equal remain two trials until both have been run again.

        Raises
        ------
        StoreError
            If a file exists and cannot be read.
        """
        first: dict[str, Trial] = {}
        for path in self.files:
            try:
                content = read_file(path, MAX_LEDGER_BYTES)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(
                    f"{path}: the trial ledger cannot be read ({error.strerror}); fix its permissions"
                ) from None
            for trial in _parse(path, content, warn=True):
                if trial.id not in first or (trial.configuration and not first[trial.id].configuration):
                    first[trial.id] = trial
        return _without_predecessors(first.values())

    def related(self, trials: Sequence[Trial], same_market: Callable[[Trial], bool] | None = None) -> list[Trial]:
        """Every trial on the candles of some others.

        Parameters
        ----------
        trials : sequence of Trial
            The others.
        same_market : callable, optional
            Whether a trial that overlaps with them in time, on another file of candles, traded the same market.

        Returns
        -------
        list of Trial
            Those on the very same candles, and those that overlap in time on the same file or the same market.
        """
        stretches, files = {trial.stretch for trial in trials}, {trial.candles for trial in trials}

        def is_related(one: Trial) -> bool:
            if one.stretch in stretches:
                return True
            if not any(one.start < trial.end and trial.start < one.end for trial in trials):
                return False
            return one.candles in files or (same_market is not None and same_market(one))

        return [one for one in self.trials() if is_related(one)]


def _parse(path: Path, content: bytes, *, warn: bool = False) -> Iterator[Trial]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        trial = _read(line)
        if trial is not None:
            yield trial
        elif warn:
            log.warning("%s:%d: damaged line of the trial ledger; its trial is not counted", path, number)


def _without_predecessors(trials: Iterable[Trial]) -> list[Trial]:
    """Leave out one trial of an earlier version for each of this version that has the same account."""
    every = list(trials)
    again = Counter(trial.account for trial in every if trial.version == VERSION)
    kept = []
    for trial in every:
        if trial.version != VERSION and again[trial.account] > 0:
            again[trial.account] -= 1
        else:
            kept.append(trial)
    return kept


def _line(trial: Trial) -> bytes:
    tree = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(trial).items()}
    return json.dumps({"checksum": _checksum(tree), "trial": tree}, allow_nan=False).encode() + b"\n"


def _read(line: bytes) -> Trial | None:
    """The trial of a line; None if it is damaged."""
    try:
        record = json.loads(line)
        tree = record["trial"]
        if record["checksum"] != _checksum(tree):
            return None
        # Lines of the first version do not name it; the others were added later.
        tree = {"version": 1, "configuration": "", "gross_sharpe": None, "recorded": "", **tree}
        if set(tree) != {field.name for field in fields(Trial)}:
            return None
        numbers = {key: math.nan if tree[key] is None else float(tree[key]) for key in _NUMBERS}
        trial = Trial(**{**tree, **numbers})
        return trial if _plausible(trial) else None
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def _plausible(trial: Trial) -> bool:
    """Whether values have their types and sizes: anyone who can append a line can compute its checksum."""
    texts = (trial.id, trial.name, trial.experiment, trial.candles, trial.stretch, trial.configuration)
    whole = (trial.start, trial.end, trial.n, trial.version)
    scores = (trial.sharpe, trial.skew, trial.kurtosis, trial.gross_sharpe)
    return (
        all(type(text) is str for text in texts)
        and all(type(number) is int and abs(number) < _LARGEST for number in whole)
        and trial.start <= trial.end
        and trial.n >= 0
        and all(math.isnan(one) or abs(one) < _LARGEST for one in scores)
    )


def _checksum(tree: Mapping[str, Any]) -> str:
    return hashlib.blake2b(canonical(tree), digest_size=_CHECKSUM_BYTES).hexdigest()
