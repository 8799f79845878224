"""Evidence on the hypotheses of a study, from the stored forecasts and the accounts; recomputed at every run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from btcbt.config import BUY_AND_HOLD, AccountHypothesis, ForecastHypothesis, RunConfig
from btcbt.metrics import ensembles
from btcbt.metrics.eprocess import crps_difference_bound, energy_difference_bound
from btcbt.metrics.hypotheses import HYPOTHESIS, account_evidence, forecast_evidence
from btcbt.metrics.score import ACCOUNT, POOLED, Row
from btcbt.metrics.table import dotted_key
from btcbt.portfolio import Simulation
from btcbt.records import CHANNELS, CLOSE, IN_BPS, Float32Array, FloatArray
from btcbt.storage.runs import score_table
from btcbt.walkforward.members import Member
from btcbt.walkforward.scoring import Scores
from btcbt.walkforward.trial_returns import account_returns
from btcbt.windows import Windows


def score_hypotheses(
    config: RunConfig,
    windows: Windows,
    members: Mapping[str, Member],
    simulation: Simulation | None,
    registered_ms: int | None,
) -> Scores:
    """Evidence on every hypothesis so far.

    A claim on forecasts counts the origins with a known outcome that are clean for both forecasters, or were made after
    the study was registered, when weights were frozen.

    Parameters
    ----------
    config : RunConfig
        The study.
    windows : Windows
        Its origins so far.
    members : mapping
        Its forecasters, with their forecasts stored; the first is the opponent unless another is named.
    simulation : Simulation or None
        Its accounts.
    registered_ms : int or None
        When this very study was registered, ms UTC; None if it was not.

    Returns
    -------
    Scores
        ``hypothesis.<name>.<score>``; see `btcbt.metrics.hypotheses`.
    """
    headline: dict[str, float] = {}
    tables = []
    for name, one in config.hypotheses.items():
        if isinstance(one, ForecastHypothesis):
            subject, channel, step = one.forecaster, CHANNELS[CLOSE], _step(one, windows)
            opponent = one.opponent or config.opponent or next(iter(members))
            numbers = _of_forecasts(config, one, windows, members[subject], members[opponent], registered_ms)
        else:
            subject, channel, step = one.account, ACCOUNT, POOLED
            numbers = _of_account(config, one, windows, simulation)
        rows = [Row(channel, step, f"{HYPOTHESIS}={name}", metric, value) for metric, value in numbers.items()]
        headline |= {dotted_key(subject, row): row.value for row in rows}
        tables.append(score_table(subject, windows.candles.source, rows))
    return Scores(headline, tuple(tables))


def _step(one: ForecastHypothesis, windows: Windows) -> int:
    return POOLED if one.metric == "energy_bps" else one.step or windows.horizon


def _of_forecasts(
    config: RunConfig,
    one: ForecastHypothesis,
    windows: Windows,
    ours: Member,
    theirs: Member,
    registered_ms: int | None,
) -> dict[str, float]:
    # After the registration the weights were frozen, so nothing can have been fitted on what followed.
    clean = (ours.labels == "clean") & (theirs.labels == "clean")
    after = np.zeros_like(clean) if registered_ms is None else windows.origins >= registered_ms
    counted = windows.scored & (clean | after)
    step, stride = _step(one, windows), config.windows.stride
    parts = list(_differences(windows, ours, theirs, counted, step))
    difference = np.concatenate([part[0] for part in parts]) if parts else np.empty(0)
    bound = np.concatenate([part[1] for part in parts]) if parts else np.empty(0)
    overlap, stretch = -(-(step or windows.horizon) // stride), -(-windows.horizon // stride)
    return forecast_evidence(difference, bound, overlap, stretch, one.threshold_bps, len(config.hypotheses))


def _differences(
    windows: Windows, ours: Member, theirs: Member, counted: NDArray[np.bool_], step: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Loss differences and their bounds, batch by batch: of the close at a step, or of its whole path at step 0.

    In float64 from the paths, as a difference may equal its bound, which scores rounded for the table may exceed.
    """
    start = 0
    for mine, other in zip(ours.batches(), theirs.batches(), strict=True):
        rows = np.arange(start, start + len(mine))
        start += len(mine)
        kept = counted[rows]
        if not kept.any():
            continue
        rows = rows[kept]
        last = windows.candles.values[windows.last[rows], CLOSE]
        a, b = (_log_returns(batch.paths[kept], last) for batch in (mine, other))
        y = IN_BPS * np.log(windows.outcomes(rows)[:, :, CLOSE] / last[:, None])
        kinds = (ours.forecaster.paths_are, theirs.forecaster.paths_are)
        if step == POOLED:
            losses = [ensembles.energy_score(x, y, kind) for x, kind in zip((a, b), kinds, strict=True)]
            bound = energy_difference_bound(a, b)
        else:
            a, b, y = a[:, :, step - 1], b[:, :, step - 1], y[:, step - 1]
            losses = [ensembles.crps(x, y, kind) for x, kind in zip((a, b), kinds, strict=True)]
            bound = crps_difference_bound(a, b)
        yield losses[0] - losses[1], bound


def _log_returns(paths: Float32Array, last: FloatArray) -> FloatArray:
    """Log returns of the close from the origin in bps, (B, S, H); NaN for a close that is not positive."""
    close = paths[..., CLOSE].astype(np.float64)
    return np.asarray(IN_BPS * np.log(np.where(close > 0.0, close, np.nan) / last[:, None, None]))


def _of_account(
    config: RunConfig, one: AccountHypothesis, windows: Windows, simulation: Simulation | None
) -> dict[str, float]:
    if simulation is None:
        return {}
    excess = account_returns(simulation, one.account)
    if one.benchmark == BUY_AND_HOLD:
        excess = excess - account_returns(simulation, BUY_AND_HOLD)
    return account_evidence(IN_BPS * excess, windows.horizon, one.threshold_bps, len(config.hypotheses))
