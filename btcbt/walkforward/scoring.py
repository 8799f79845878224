"""Scores of stored forecasts, computed batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from btcbt.errors import StoreError
from btcbt.metrics import LossPanel, ScoreStream, against, confidence_sets, score_batch
from btcbt.metrics.panel import past_volatility
from btcbt.metrics.score import Row
from btcbt.metrics.table import dotted_key, is_headline
from btcbt.metrics.versus import Losses, versus
from btcbt.metrics.when import when
from btcbt.progress import Progress
from btcbt.records import CLOSE, FloatArray
from btcbt.storage.runs import score_table
from btcbt.walkforward.members import READ_BATCH, Member
from btcbt.windows import Windows


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Numbers of a scoring stage.

    Attributes
    ----------
    headline : mapping of str to float
        Headline numbers by dotted key; see `btcbt.metrics.table`.
    tables : tuple of pyarrow.Table
        All scores, for `btcbt.storage.runs.write_scores`.
    losses : mapping of str to float64 (B,)
        Losses by origin with a known outcome, the columns of `btcbt.storage.runs.Run.losses`.
    """

    headline: Mapping[str, float]
    tables: tuple[pa.Table, ...]
    losses: Mapping[str, FloatArray] = field(default_factory=dict)


def score_forecasts(
    windows: Windows, members: Sequence[Member], scratch: Path, progress: Progress, opponent: str | None = None
) -> Scores:
    """Score the forecasts of every member at origins with a known outcome; the first member is the benchmark.

    Parameters
    ----------
    windows : Windows
        The origins.
    members : sequence of Member
        Forecasters, with their forecasts stored.
    scratch : Path
        Folder for temporary files, deleted on return; see `btcbt.metrics.ScoreStream`.
    progress : Progress
        Receives the progress.
    opponent : str, optional
        The member that all are compared with in the table of `btcbt.metrics.versus`; the first if left out.

    Returns
    -------
    Scores
        Headline numbers ``origins.*``, ``forecast.*`` and, where there are several forecasters,
        ``confidence_set.*``; the tables are empty where no outcome is known.

    Raises
    ------
    StoreError
        If a stored forecast is missing, or the temporary file cannot be written.
    """
    headline = {
        "origins.eligible": float(len(windows)),
        "origins.scored": float(np.count_nonzero(windows.scored)),
        "origins.skipped": float(sum(windows.skipped.values())),
    }
    if not windows.scored.any():
        progress.note("no origin has a known outcome yet, so there are no forecast errors")
        return Scores(headline, ())
    volatility, symbol, first = _volatility(windows), windows.candles.source, members[0].name
    reference: ScoreStream | None = None
    losses: dict[str, dict[tuple[str, int], tuple[int, FloatArray]]] = {}
    compared: dict[str, dict[tuple[str, int], Losses]] = {}
    tables: list[pa.Table] = []
    with ExitStack() as stack, progress.stage("score", len(windows) * len(members)) as advance:
        for member in members:
            stream = stack.enter_context(_stream(windows, volatility, member, scratch))
            _fill(stream, windows, member, advance)
            rows = stream.rows() if reference is None else chain(stream.rows(), stream.comparison(reference, first))
            tables.append(score_table(member.name, symbol, _noted(rows, member.name, first, windows, headline)))
            losses[member.name], compared[member.name] = stream.losses(), stream.compared()
            overlap = stream.overlap
            if reference is None:
                reference = stream
            else:
                stream.close()
    tables += _pairs(windows, members, losses, headline)
    other, last, origins = opponent or first, windows.horizon, windows.origins[windows.scored]
    tests = when(compared, other, origins, volatility, overlap, last)
    tables += _versus(windows, chain(versus(compared, other, overlap(last)), tests), headline)
    columns = {
        f"{name}.{loss}" + (f".h{step}" if step else ""): one.loss
        for name, own in compared.items()
        for (loss, step), one in own.items()
    }
    return Scores(headline, tuple(tables), columns)


def _stream(windows: Windows, volatility: FloatArray, member: Member, scratch: Path) -> ScoreStream:
    return ScoreStream(
        windows.origins[windows.scored],
        volatility,
        member.labels[windows.scored],
        horizon=windows.horizon,
        n_paths=member.forecaster.n_paths,
        interval_ms=windows.candles.interval_ms,
        scratch=scratch,
        paths_are=member.forecaster.paths_are,
    )


def _noted(
    rows: Iterable[Row], name: str, reference: str | None, windows: Windows, headline: dict[str, float]
) -> Iterator[Row]:
    """Yield rows unchanged and collect the headline numbers; comparisons with `reference` get the key ``versus``."""
    for row in rows:
        if is_headline(row, windows.horizon):
            is_reference = reference is not None and row.group == f"against={reference}"
            headline[dotted_key(name, row, reference=is_reference)] = row.value
        yield row


def _pairs(
    windows: Windows,
    members: Sequence[Member],
    losses: Mapping[str, Mapping[tuple[str, int], tuple[int, FloatArray]]],
    headline: dict[str, float],
) -> Iterator[pa.Table]:
    """Comparisons of every forecaster with those before it, and the model confidence set."""
    # Refitted forecasters come last, so that they are compared with the frozen ones.
    refitted = {member.name: member.column == f"refit.{member.name}" for member in members}
    ordered = {name: losses[name] for name in sorted(losses, key=lambda name: refitted[name])}
    found: dict[str, list[Row]] = {name: [] for name in losses}
    for name, row in chain(against(ordered), confidence_sets(losses) if len(losses) > 1 else ()):
        found[name] += _noted([row], name, None, windows, headline)
    # Skill and test against the first member are among the rows of the stream already.
    first = f"against={members[0].name}"
    for name, rows in found.items():
        new = [row for row in rows if row.group != first or row.metric.endswith((".difference", ".low", ".high"))]
        yield score_table(name, windows.candles.source, new)


def _versus(windows: Windows, rows: Iterable[tuple[str, Row]], headline: dict[str, float]) -> Iterator[pa.Table]:
    """The table of all forecasters beside the opponent."""
    found: dict[str, list[Row]] = {}
    for name, row in rows:
        found.setdefault(name, []).extend(_noted([row], name, None, windows, headline))
    for name, own in found.items():
        yield score_table(name, windows.candles.source, own)


def panels(windows: Windows, member: Member, advance: Callable[[int], None]) -> Iterator[LossPanel]:
    """Scored panels of each batch of stored forecasts that has an origin with a known outcome."""
    start = 0
    for batch in member.batches():
        rows = np.arange(start, start + len(batch))
        start += len(batch)
        known = windows.scored[rows]
        if known.any():
            rows = rows[known]
            yield score_batch(
                windows.origins[rows],
                batch.paths[known],
                windows.outcomes(rows),
                windows.contexts(rows),
                interval_ms=windows.candles.interval_ms,
                labels=member.labels[rows],
                paths_are=member.forecaster.paths_are,
            )
        advance(len(batch))


def _fill(stream: ScoreStream, windows: Windows, member: Member, advance: Callable[[int], None]) -> None:
    for panel in panels(windows, member, advance):
        try:
            stream.add(panel)
        except OSError as error:
            raise StoreError(
                f"the temporary file of scores cannot be written ({error.strerror}); the forecasts are stored; "
                "make room or choose another store.root, and run again"
            ) from None


def _volatility(windows: Windows) -> FloatArray:
    """Volatility of the context of each origin with a known outcome, in bps."""
    rows = np.flatnonzero(windows.scored)
    parts = [rows[start : start + READ_BATCH] for start in range(0, len(rows), READ_BATCH)]
    return np.concatenate([past_volatility(windows.contexts(part)[:, :, CLOSE]) for part in parts])
