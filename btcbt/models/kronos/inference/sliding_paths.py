"""Sampling beyond the model's window: the oldest candles are dropped and the rest is recomputed at every step.

Positions restart at 0 whenever the window moves, as in the reference, so nothing that was cached stays valid.
"""

from __future__ import annotations

from torch import Tensor

from btcbt.models.kronos.inference.cached_paths import CachedPaths, path_calendar, sample_cached
from btcbt.models.kronos.inference.engines import ModelEngine, PrefixLayout
from btcbt.models.kronos.inference.sampling import Draw, Filter


def sample_sliding(
    engine: ModelEngine,
    ids: tuple[Tensor, Tensor],
    calendar: Tensor,
    layout: PrefixLayout,
    draw: Draw,
    keep: Filter,
    *,
    horizon: int,
    max_context: int,
) -> tuple[Tensor, Tensor]:
    """Sample H tokens after each context: from the cache while the window holds all, then with a moving window.

    Arguments and result as in `btcbt.models.kronos.inference.cached_paths.sample_cached`; `max_context` is the window's
    length in tokens, above `horizon`.
    """
    length = ids[0].shape[1]
    within = max(0, max_context - length + 1)
    new1, new2 = sample_cached(engine, ids, calendar, layout, draw, keep, horizon=horizon, steps=within)
    for i in range(within, horizon):
        start = length + i - max_context
        context = (ids[0][:, start:], ids[1][:, start:])
        paths = CachedPaths(engine, context, calendar[:, start:length], layout.drop_oldest(start), horizon)
        if i:
            so_far = slice(0, i)
            paths.extend(new1[:, :, so_far], new2[:, :, so_far], path_calendar(calendar, layout, so_far))
        new1[:, :, i], new2[:, :, i] = paths.sample(i, draw, keep)
    return new1, new2
