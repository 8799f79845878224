"""A run on disk: how its directory is written, whole or not at all, and how it is read again.

Layout of ``runs/<name>/<digest>/``::

    manifest.json      where every number came from
    metrics.json       headline numbers: dotted keys to numbers, null where a number is not defined
    scores.parquet     every score by channel, step and group (see `Run.scores`)
    losses.parquet     losses by origin (see `Run.losses`)
    candles.parquet    the candles from the first context to the last outcome
    origins.parquet    origin, scored, window.T (digest of the T candles before it), history.NAME (digest of
                       the whole walk up to it), label.NAME of each forecaster
    forecasts/<name>/  the shards of each forecaster: hard links into the store, or copies
    targets.parquet    decided weights by origin, one column per strategy
    equity.parquet     equity at each candle's close in quote units, one column per strategy
    trades.parquet     one row per position
    orders.parquet     one row per fill
    figures/*.png
    report.html        all of this to look at, in one page
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import secrets
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from btcbt.config import BUY_AND_HOLD, RunConfig, time_text
from btcbt.errors import StoreError
from btcbt.files import open_regular, read_file, sync_folder, temporary_name, write_whole
from btcbt.messages import did_you_mean, short
from btcbt.records import CHANNELS, Candles, Float32Array, ForecastBatch, IntArray
from btcbt.storage.forecasts import DIGEST_BYTES, Digests, ForecastStore, ShardPlan, column_values, fixed_binary
from btcbt.storage.verdicts import MAX_JSON_BYTES

if TYPE_CHECKING:
    import pandas as pd

LATEST = "latest"
MOST_LISTED = 12
"""Names that a message lists."""
MAX_POINTER_BYTES = 4096
log = logging.getLogger(__name__)
SCORE_COLUMNS = ("forecaster", "symbol", "channel", "step", "group", "metric", "value")


class StoredForecasts:
    """The forecasts of one forecaster of a run, read when asked for.

    Attributes
    ----------
    name : str
        The forecaster.
    origins : int64 (M,)
        Origins, ms UTC.
    shape : tuple of int
        Paths, steps and channels of one origin, (S, H, 6).
    """

    def __init__(self, name: str, store: ForecastStore, plan: ShardPlan, origins: IntArray) -> None:
        self.name = name
        self._store = store
        self._plan = plan
        self.origins = origins

    def __len__(self) -> int:
        return len(self.origins)

    def __repr__(self) -> str:
        paths, steps, _ = self.shape
        span = f", {time_text(self.origins[0])} .. {time_text(self.origins[-1])}" if len(self) else ""
        return f"<{type(self).__name__} of {self.name}: {len(self):,} origins, {paths} paths, {steps} steps{span}>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Paths, steps and channels of one origin."""
        return self._store.shape

    def batches(self, size: int = 256) -> Iterator[ForecastBatch]:
        """All of them in order of time, `size` origins at once."""
        return self._store.read(self._plan, self.origins, size)

    def paths(self, start: int = 0, stop: int | None = None) -> Float32Array:
        """Paths (B, S, H, 6) of the origins ``start .. stop``."""
        part = slice(start, stop)
        origins = self.origins[part]
        if not len(origins):
            return np.empty((0, *self._store.shape), dtype=np.float32)
        return next(self._store.read(self._plan.part(part), origins, len(origins))).paths


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A finished run, as it is stored; `btcbt.report.run.Run` adds what people make of it.

    Attributes
    ----------
    directory : Path
        Where it lies.
    config : RunConfig
        The experiment, defaults filled in.
    manifest : mapping
        Where the numbers came from.
    metrics : mapping of str to float
        Headline numbers under dotted keys; NaN where a number is not defined.
    """

    directory: Path
    config: RunConfig
    manifest: Mapping[str, Any]
    metrics: Mapping[str, float]

    def __repr__(self) -> str:
        traders = self.manifest.get("strategies")
        counts = {
            "origins": self.manifest.get("origins", {}).get("eligible", 0),
            "forecasters": len(self.manifest.get("forecasters", ())),
            "accounts": len({*traders, BUY_AND_HOLD}) if traders else 0,
        }
        what = ", ".join(f"{count:,} {noun}" for noun, count in counts.items())
        return f"<{type(self).__name__} {self.config.name}: {what}; {self.directory}>"

    def origins(self) -> pd.DataFrame:
        """One row per origin, indexed by its time (UTC): ``scored``, and ``label.NAME`` of each forecaster.

        ``scored`` says whether the outcome is known, a label what the forecaster has seen of these hours.
        """
        return self._origins(digests=False)

    def digests(self) -> pd.DataFrame:
        """Digests of what each forecast was made from, in hex, indexed by origin (UTC); for comparing runs."""
        table = self._origins(digests=True)
        return table.map(bytes.hex)

    def _origins(self, *, digests: bool) -> pd.DataFrame:
        table = self._read("origins")
        kept = [field.name for field in table.schema if pa.types.is_fixed_size_binary(field.type) == digests]
        frame: pd.DataFrame = table.select(list(dict.fromkeys(["origin", *kept]))).to_pandas()
        return frame.set_index("origin")

    def targets(self) -> pd.DataFrame:
        """Decided weights, indexed by origin (UTC), one column per strategy."""
        return self._table("targets", index="origin")

    def equity(self) -> pd.DataFrame:
        """Equity at each candle's close in quote units, indexed by open time (UTC), a column per strategy."""
        return self._table("equity", index="open_time")

    def trades(self) -> pd.DataFrame:
        """One row per position (see `btcbt.portfolio.Simulation`)."""
        return self._table("trades")

    def orders(self) -> pd.DataFrame:
        """One row per fill (see `btcbt.portfolio.Simulation`)."""
        return self._table("orders")

    def scores(self) -> pd.DataFrame:
        """Every score of every forecaster and account, one number a row.

        Returns
        -------
        DataFrame
            ``forecaster`` (or the account, ``strategy@forecaster``), ``symbol``, ``channel`` (``all`` of a score of
            none, ``account`` of an account's), ``step`` (1 .. H, 0: all steps together, or none), ``group`` (``all``,
            ``month=2019-06``, ``regime=high``, ``label=clean``, ``against=random_walk``, ``cost_bps=5``, ``delay=1``),
            ``metric``, ``value`` (NaN where it is not defined). What each metric means is in `btcbt.metrics.table`.

        Raises
        ------
        StoreError
            If the run was made by a version that did not write them, or the file is damaged.
        """
        if not (self.directory / "scores.parquet").is_file():
            raise StoreError(f"{self.directory}: no scores.parquet, the run is of an older version; run it again")
        return self._table("scores")

    def losses(self) -> pd.DataFrame:
        """Losses by origin, indexed by origin (UTC): columns ``NAME.crps_bps.h24`` of the close, ``NAME.energy_bps``.

        Raises
        ------
        StoreError
            If the run has no scored origin, was made by a version that did not write them, or the file is damaged.
        """
        if not (self.directory / "losses.parquet").is_file():
            raise StoreError(
                f"{self.directory}: no losses.parquet; the run has no scored origin or is of an older version"
            )
        return self._table("losses", index="origin")

    def candles(self) -> pd.DataFrame:
        """The candles from the first context to the last outcome, indexed by open time (UTC), a column per channel.

        `filled` marks those that fill a gap.

        Raises
        ------
        StoreError
            If the run was made by a version that did not write them, or the file is damaged.
        """
        if not (self.directory / "candles.parquet").is_file():
            raise StoreError(f"{self.directory}: no candles.parquet, the run is of an older version; run it again")
        return self._table("candles", index="open_time")

    def forecasts(self, name: str) -> StoredForecasts:
        """The stored forecasts of a forecaster, verified.

        Raises
        ------
        StoreError
            If the run has no such forecaster, or a file of it is missing or damaged.
        """
        known: Mapping[str, Any] = self.manifest["forecasters"]
        entry = known[require(name, known, "forecaster", self.directory)]
        window = str(entry["digests"])
        table = self._read("origins", ["origin", window])
        origins = column_values(table, "origin", np.dtype("<i8"))
        digests = column_values(table, window, np.dtype(f"V{DIGEST_BYTES}"))
        store = ForecastStore(
            self.directory / "forecasts" / name,
            entry["key"],
            n_paths=entry["n_paths"],
            horizon=self.config.windows.horizon,
        )
        plan = store.plan(origins, digests)
        if len(plan.missing):
            raise StoreError(
                f"{store.folder}: {len(plan.missing):,} of {len(origins):,} forecasts are missing or "
                "damaged; run the experiment again"
            )
        return StoredForecasts(name, store, plan, origins)

    def _table(self, name: str, index: str | None = None) -> pd.DataFrame:
        return read_frame(self.directory, name, index)

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        return _read_table(self.directory, name, columns)


def read_frame(directory: Path, name: str, index: str | None = None) -> pd.DataFrame:
    """A table of a run, indexed by one of its columns if that is named.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    table = _read_table(directory, name)
    try:
        frame: pd.DataFrame = table.to_pandas()
        return frame if index is None else frame.set_index(index)
    # pandas reads notes of its own in the file, which may be anything.
    except (pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _unreadable(directory, name, error) from None


def _read_table(directory: Path, name: str, columns: list[str] | None = None) -> pa.Table:
    try:
        with open_regular(directory / f"{name}.parquet") as content:
            return pq.read_table(content, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(directory, name, error) from None


def _unreadable(directory: Path, name: str, error: Exception) -> StoreError:
    problem = " ".join(str(error).split())[:200]
    return StoreError(f"{directory / name}.parquet: cannot be read ({problem}); run the experiment again")


def load_run(directory: str | Path, *, metrics: dict[str, Any] | None = None) -> Run:
    """Open a finished run.

    Parameters
    ----------
    directory : path
        ``runs/<name>/<digest>`` or ``runs/<name>``, which stands for its newest run.
    metrics : dict of str to float, optional
        Its headline numbers where they are at hand, so that they are not read again.

    Raises
    ------
    StoreError
        If there is no whole run.
    """
    folder = Path(directory)
    if not (folder / "manifest.json").is_file():
        folder = latest(folder) or folder
    try:
        manifest = json.loads(read_file(folder / "manifest.json", MAX_JSON_BYTES))
        if "symbols" in manifest:
            raise StoreError(
                f"{folder}: a run on several symbols; name the run of one of them, such as {_single(folder, manifest)}"
            )
        if metrics is None:
            read = json.loads(read_file(folder / "metrics.json", MAX_JSON_BYTES))
            metrics = {key: math.nan if value is None else float(value) for key, value in read.items()}
        config = RunConfig.model_validate_json(json.dumps(manifest["config"]))
    except OSError as error:
        raise StoreError(f"{directory}: not a run ({error.strerror}: {error.filename}); give runs/NAME") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
        problem = " ".join(str(error).split())[:200]
        raise StoreError(f"{folder}: the run is damaged or of another version ({problem}); run it again") from None
    return Run(folder, config, manifest, metrics)


def _single(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """The run of the first symbol of a run on several."""
    entry = next(iter(manifest["symbols"].values()))
    return folder.parent.parent / str(entry["name"]) / str(entry["digest"])


def require(name: str, known: Iterable[str], noun: str, where: object = "") -> str:
    """The name, if it is among those known.

    Raises
    ------
    StoreError
        If it is not; the message lists those that are.
    """
    names = [str(one) for one in known]
    if name in names:
        return name
    place = f"{where}: " if where else ""
    has = ", ".join(names[:MOST_LISTED]) + (" ..." if len(names) > MOST_LISTED else "")
    raise StoreError(f"{place}no {noun} {short(name)}{did_you_mean(str(name), names)}; it has {has or 'none'}")


def latest(folder: Path) -> Path | None:
    """The newest run in ``runs/<name>``, or None."""
    pointer = folder / LATEST
    if pointer.is_file():
        name = read_file(pointer, MAX_POINTER_BYTES).decode("utf-8", "replace").strip()
        return folder / Path(name).name
    return pointer.resolve() if pointer.is_dir() else None


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `target` when the block ends well, and vanishes if not.

    Raises
    ------
    StoreError
        If the disk refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(target)
        temporary.mkdir()
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror}); choose another store.root") from None
    try:
        yield temporary
        _replace_folder(temporary, target)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror}); make room and run again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def point_latest(target: Path) -> None:
    """Let ``latest`` beside `target` point to it: a link, or a file with its name.

    A folder of that name is what a copy with links resolved makes of the link; it is set aside.
    """
    pointer = target.with_name(LATEST)
    temporary = temporary_name(pointer)
    if pointer.is_dir() and not pointer.is_symlink():
        aside = pointer.with_name(f"{LATEST}-{secrets.token_hex(4)}")
        pointer.rename(aside)
        log.warning("%s was a folder, not a link; it is now %s, which may be deleted if it is a copy", pointer, aside)
    try:
        temporary.symlink_to(target.name, target_is_directory=True)
        temporary.replace(pointer)
    except OSError:
        temporary.unlink(missing_ok=True)
        write_whole(pointer, f"{target.name}\n".encode())


def write_json(file: Path, value: object) -> None:
    """JSON in the order given; numbers that are not finite become null."""
    file.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def score_table(name: str, symbol: str, rows: Iterable[tuple[str, int, str, str, float]]) -> pa.Table:
    """Scores of a forecaster or an account as a table, some 20 bytes a row; many months have tens of thousands.

    Parameters
    ----------
    name, symbol : str
        Of the forecaster or account, and of the candles.
    rows : iterable of (channel, step, group, metric, value)
        See `Run.scores`.
    """
    texts = (array("i"), array("i"), array("i"))
    known: tuple[dict[str, int], ...] = ({}, {}, {})
    steps, values = array("h"), array("d")
    for channel, step, group, metric, value in rows:
        for codes, words, text in zip(texts, known, (channel, group, metric), strict=True):
            codes.append(words.setdefault(text, len(words)))
        steps.append(step)
        values.append(value)
    channels, groups, metrics = (
        pa.DictionaryArray.from_arrays(pa.array(np.array(codes, dtype=np.int32)), pa.array(list(words), pa.string()))
        for codes, words in zip(texts, known, strict=True)
    )
    same = [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(values), dtype=np.int32)), pa.array([text]))
        for text in (name, symbol)
    ]
    columns = [*same, channels, pa.array(np.array(steps)), groups, metrics, pa.array(np.array(values))]
    return pa.table(dict(zip(SCORE_COLUMNS, columns, strict=True)))


def write_scores(file: Path, tables: Sequence[pa.Table]) -> None:
    """Write tables of scores (`score_table`) as one; its texts are read back as plain ones."""
    table = pa.concat_tables(tables or [score_table("", "", ())]).unify_dictionaries()
    pq.write_table(table, file, store_schema=False)


def write_candles(file: Path, candles: Candles, start: int, end: int) -> None:
    """Write the candles that open in [start, end), ms UTC: what figures and reports of a run show."""
    rows = slice(*np.searchsorted(candles.open_time, [start, end]))
    columns = dict(zip(CHANNELS, candles.values[rows].T, strict=True))
    filled = np.zeros(len(candles), dtype=np.bool_) if candles.filled is None else candles.filled
    write_columns(file, "open_time", candles.open_time[rows], {**columns, "filled": filled[rows]})


def write_columns(file: Path, index: str, times: IntArray, columns: Mapping[str, Any]) -> None:
    """A table of columns by time (ms UTC) in Parquet."""
    index_column = pa.array(np.asarray(times, dtype=np.int64)).cast(pa.timestamp("ms", tz="UTC"))
    pq.write_table(pa.table({index: index_column, **columns}), file)


def digest_column(digests: Digests) -> pa.Array:
    """Window digests as a column."""
    return fixed_binary(np.ascontiguousarray(digests), len(digests))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace_folder(temporary: Path, target: Path) -> None:
    """Put a folder in the place of another: a rename cannot replace a full one, so that one steps aside."""
    for file in temporary.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    for _ in range(100):  # another process may put its own there in between
        aside = temporary_name(target)
        if target.exists():
            target.rename(aside)
        try:
            temporary.rename(target)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    sync_folder(target.parent)
