"""The returns of trials on disk, lined up on the hours of a run.

The Sharpe ratios in the trial ledger are enough to deflate one. Tests that ask whether *any* configuration beats a
benchmark need to know how alike they are, so the returns of each trial are kept, too, a file for each under its digest.
Beside them lie the open times and closes of each period that was traded: they say which hours two trials have in
common, and whether they traded the same market, whatever file it came from and whenever the periods begin and end.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.lib import format as npy

from btcbt.errors import StoreError
from btcbt.files import read_file, write_whole
from btcbt.metrics.returns import equity_returns
from btcbt.metrics.sharpe import sharpe_ratio
from btcbt.portfolio import Simulation
from btcbt.records import CLOSE, Candles, FloatArray, IntArray
from btcbt.storage.ledger import Trial

_WRITERS = 16
_SAME_CLOSE = 1e-6
_SAME_RETURN = 1e-9
_LARGEST_DIFFERENCE = 0.02
"""Share of the common hours in which one configuration's returns may differ between two periods, two hours at least:
a period begins without the position that a longer one holds by then."""
_HEADER_BYTES = 1024
"""Most bytes of the header of an ``.npy`` file of ours."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Hours:
    """Candles that trials traded on.

    Attributes
    ----------
    open_time : int64 (N,)
        ms UTC, increasing.
    close : float64 (N,)
        Quote units.
    """

    open_time: IntArray
    close: FloatArray

    def same_market(self, other: Hours) -> bool:
        """Whether most closes of the hours in common are equal: the same venue, symbol and interval."""
        _, mine, theirs = np.intersect1d(self.open_time, other.open_time, assume_unique=True, return_indices=True)
        if len(mine) == 0:
            return False
        equal = np.isclose(self.close[mine], other.close[theirs], rtol=_SAME_CLOSE, atol=0.0)
        return bool(np.mean(equal) >= 0.5)


def hours_between(candles: Candles, start: int, end: int) -> Hours:
    """The candles that open in [start, end) ms UTC."""
    rows = slice(*np.searchsorted(candles.open_time, (start, end)).tolist())
    return Hours(candles.open_time[rows], candles.values[rows, CLOSE])


def keep_returns(folder: Path, trials: Sequence[Trial], simulation: Simulation, candles: Candles) -> None:
    """Keep the net returns per candle of trials, accounts of a simulation by their name, and the hours they traded.

    Intact files stay; a damaged one is replaced.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for trial in {trial.stretch: trial for trial in trials}.values():
            if _read_hours(_hours_file(folder, trial), trial) is None:
                hours = hours_between(candles, trial.start, trial.end)
                _write(_hours_file(folder, trial), np.stack([hours.open_time.astype(np.float64), hours.close]))

        def keep(trial: Trial) -> None:
            if _read_returns(_returns_file(folder, trial), trial) is None:
                _write(_returns_file(folder, trial), account_returns(simulation, trial.name))

        with ThreadPoolExecutor(_WRITERS) as pool:  # each waits for the disk
            list(pool.map(keep, trials))
    except OSError as error:
        raise StoreError(f"{folder}: returns cannot be kept ({error.strerror}); make room and run again") from None


def kept_hours(folders: Sequence[Path], trial: Trial, candles: Candles) -> Hours | None:
    """The hours that a trial traded; None if unknown.

    Parameters
    ----------
    folders : sequence of Path
        Where returns are kept.
    trial : Trial
    candles : Candles
        Of a run; they tell the hours of a trial on the same file, if no folder does.
    """
    for folder in folders:
        found = _read_hours(_hours_file(folder, trial), trial)
        if found is not None:
            return found
    if trial.candles == candles.sha256:
        hours = hours_between(candles, trial.start, trial.end)
        if len(hours.open_time) == trial.n:
            return hours
    return None


def aligned_returns(
    folders: Sequence[Path], trials: Sequence[Trial], candles: Candles, start: int, end: int
) -> FloatArray:
    """Net returns (N, K) per candle of trials on the N candles that open in [start, end); NaN where one has none.

    A trial whose returns or hours are missing or damaged (its returns do not have the Sharpe ratio of the ledger) has
    NaN alone; a warning says how many there are.
    """
    times = hours_between(candles, start, end).open_time
    table = np.full((len(times), len(trials)), np.nan)
    for k, trial in enumerate(trials):
        hours, returns = kept_hours(folders, trial, candles), _kept_returns(folders, trial)
        if hours is not None and returns is not None:
            _, ours, theirs = np.intersect1d(times, hours.open_time, assume_unique=True, return_indices=True)
            table[ours, k] = returns[theirs]
    lost = int(np.count_nonzero(np.isnan(table).all(axis=0)))
    if lost:
        where = ", ".join(map(str, folders))
        log.warning("%s: the returns of %d of %d trials are missing or damaged; not tested", where, lost, len(trials))
    return table


def distinct_trials(trials: Sequence[Trial], returns: FloatArray, ours: Sequence[Trial]) -> list[int]:
    """Which trials are different configurations, as columns of `returns` (N, K), in their order.

    A configuration that was run again on other dates is one trial. Two trials are taken for one only if what they are
    made of is equal and so are their returns on the common hours (but for a few at the beginning, see
    `_LARGEST_DIFFERENCE`); where that is unknown they count as two. Those of the run itself are always kept, then
    those with the most hours.
    """
    own = {trial.id for trial in ours}
    hours = np.isfinite(returns).sum(axis=0)
    order = sorted(range(len(trials)), key=lambda k: (trials[k].id not in own, -hours[k], trials[k].id))
    kept: dict[str, list[int]] = {}
    found = []
    for k in order:
        alike = kept.setdefault(trials[k].configuration, [])
        known = bool(trials[k].configuration) and trials[k].id not in own
        if known and any(_agree(returns[:, k], returns[:, other]) for other in alike):
            continue
        alike.append(k)
        found.append(k)
    return sorted(found)


def account_returns(simulation: Simulation, name: str) -> FloatArray:
    """Net returns per candle of an account, (N,)."""
    return equity_returns(simulation.equity[:, simulation.names.index(name)], simulation.initial_cash)


def _agree(one: FloatArray, other: FloatArray) -> bool:
    common = np.isfinite(one) & np.isfinite(other)
    count = int(common.sum())
    differ = ~np.isclose(one[common], other[common], rtol=_SAME_RETURN, atol=1e-12)
    return count > 0 and int(differ.sum()) <= min(count - 1, max(2.0, _LARGEST_DIFFERENCE * count))


def _returns_file(folder: Path, trial: Trial) -> Path:
    return folder / f"{trial.id}.npy"


def _hours_file(folder: Path, trial: Trial) -> Path:
    return folder / f"hours-{trial.stretch}.npy"


def _write(file: Path, array: FloatArray) -> None:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_whole(file, content.getbuffer())


def _load(file: Path, shape: tuple[int, ...]) -> FloatArray | None:
    try:
        # The header is compared before memory is taken for what it claims.
        content = io.BytesIO(read_file(file, 8 * math.prod(shape) + _HEADER_BYTES))
        if npy.read_magic(content) != (1, 0) or npy.read_array_header_1_0(content) != (shape, False, np.dtype("<f8")):
            return None
        return np.frombuffer(content.read(), dtype="<f8").reshape(shape)
    # numpy reads a header as Python, and says what is wrong with it in all of these ways.
    except (OSError, ValueError, EOFError, SyntaxError, TokenError, TypeError, RecursionError, MemoryError):
        return None


def _kept_returns(folders: Sequence[Path], trial: Trial) -> FloatArray | None:
    found = (_read_returns(_returns_file(folder, trial), trial) for folder in folders)
    return next((one for one in found if one is not None), None)


def _read_returns(file: Path, trial: Trial) -> FloatArray | None:
    returns = _load(file, (trial.n,))
    if returns is None:
        return None
    same = np.isclose(sharpe_ratio(returns), trial.sharpe, rtol=1e-9, atol=0.0, equal_nan=True)
    return returns if same else None


def _read_hours(file: Path, trial: Trial) -> Hours | None:
    table = _load(file, (2, trial.n))
    if table is None or not np.isfinite(table).all():
        return None
    times = table[0].astype(np.int64)
    inside = trial.start <= times[0] and times[-1] < trial.end and bool((np.diff(times) > 0).all())
    return Hours(times, table[1]) if inside else None
