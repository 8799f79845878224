"""Stored forecasts to scores, in the memory of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from btcbt.errors import StoreError
from btcbt.metrics import LossPanel, ScoreStream, against, confidence_sets, score_batch
from btcbt.metrics.panel import past_volatility
from btcbt.progress import Progress
from btcbt.records import CLOSE, FloatArray
from btcbt.walkforward.members import READ_BATCH, Member
from btcbt.windows import Windows


def score_forecasts(windows: Windows, members: Sequence[Member], scratch: Path, progress: Progress) -> dict[str, float]:
    """Score every member's forecasts where the outcome is known; the first is what the others are compared with.

    Parameters
    ----------
    windows : Windows
        The origins.
    members : sequence of Member
        Their forecasts are stored.
    scratch : Path
        Folder of scratch files, which are gone when this returns; see `btcbt.metrics.ScoreStream`.
    progress : Progress
        Who is told how far it is.

    Returns
    -------
    dict of str to float
        ``origins.*``, ``forecast.<name>.<score>`` (see `btcbt.metrics.summarise`),
        ``forecast.<name>.against.<other>.<score>`` (see `btcbt.metrics.against`) and, where there are several
        forecasters, ``confidence_set.<score>.<name>`` (see `btcbt.metrics.confidence_sets`).
    """
    numbers = {
        "origins.eligible": float(len(windows)),
        "origins.scored": float(np.count_nonzero(windows.scored)),
        "origins.skipped": float(sum(windows.skipped.values())),
    }
    if not windows.scored.any():
        progress.note("no origin has its outcome in the candles yet, so no forecast error is known")
        return numbers
    volatility = _volatility(windows)
    reference: ScoreStream | None = None
    losses: dict[str, dict[str, tuple[int, FloatArray]]] = {}
    with ExitStack() as stack, progress.stage("score", len(windows) * len(members)) as advance:
        for member in members:
            stream = stack.enter_context(
                ScoreStream(
                    windows.origins[windows.scored],
                    volatility,
                    member.labels[windows.scored],
                    horizon=windows.horizon,
                    n_paths=member.forecaster.n_paths,
                    interval_ms=windows.candles.interval_ms,
                    scratch=scratch,
                )
            )
            _fill(stream, windows, member, advance)
            numbers.update((f"forecast.{member.name}.{key}", value) for key, value in stream.items(reference))
            losses[member.name] = stream.losses()
            if reference is None:
                reference = stream
            else:
                stream.close()
    # What is refitted comes last, so that it is held against what is not.
    refitted = {member.name: member.column == f"refit.{member.name}" for member in members}
    ordered = {name: losses[name] for name in sorted(losses, key=lambda name: refitted[name])}
    numbers.update((f"forecast.{key}", value) for key, value in against(ordered).items())
    if len(losses) > 1:
        numbers.update((f"confidence_set.{key}", value) for key, value in confidence_sets(losses).items())
    return numbers


def panels(windows: Windows, member: Member, advance: Callable[[int], None]) -> Iterator[LossPanel]:
    """The scores of each batch of stored forecasts that has an origin whose outcome is known."""
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
            )
        advance(len(batch))


def _fill(stream: ScoreStream, windows: Windows, member: Member, advance: Callable[[int], None]) -> None:
    for panel in panels(windows, member, advance):
        try:
            stream.add(panel)
        except OSError as error:
            raise StoreError(
                f"the scratch file of scores cannot be written ({error.strerror}); the forecasts are kept, "
                "make room or choose another store.root, and run again"
            ) from None


def _volatility(windows: Windows) -> FloatArray:
    """Volatility of the context of each origin whose outcome is known, in bps."""
    rows = np.flatnonzero(windows.scored)
    parts = [rows[start : start + READ_BATCH] for start in range(0, len(rows), READ_BATCH)]
    return np.concatenate([past_volatility(windows.contexts(part)[:, :, CLOSE]) for part in parts])
