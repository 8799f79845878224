"""Sampling while context and path fit the model's window: one prefill, then one token at a time from the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from btcbt.models.kronos.inference.cache import AppendStep, SharedPrefixCache
from btcbt.models.kronos.inference.engines import PREFILL_TOKENS, ModelEngine, PrefixLayout
from btcbt.models.kronos.inference.sampling import Draw, Filter
from btcbt.models.kronos.inference.stack import rms


def sample_cached(
    engine: ModelEngine,
    ids: tuple[Tensor, Tensor],
    calendar: Tensor,
    layout: PrefixLayout,
    draw: Draw,
    keep: Filter,
    *,
    horizon: int,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Sample the first `steps` of H tokens after each context.

    Parameters
    ----------
    engine : ModelEngine
    ids : pair of int64 (G, T)
        Sub-token ids of the contexts.
    calendar : (G, T + H, D)
        Calendar vectors of contexts and paths.
    layout : PrefixLayout
    draw, keep : Draw, Filter
    horizon, steps : int
        H, and how many of them keep context and path within the model's window.

    Returns
    -------
    pair of int64 (G, R, H)
        Sub-token ids; those after the first `steps` are not set.
    """
    groups, length = ids[0].shape
    rows = len(layout.row_ends)
    device = ids[0].device
    new1, new2 = (torch.empty(groups, rows, horizon, dtype=torch.long, device=device) for _ in range(2))
    if steps == 0:
        return new1, new2
    paths = CachedPaths(engine, ids, calendar[:, :length], layout, horizon)
    for i in range(steps):
        if i:
            newest = slice(i - 1, i)
            paths.extend(new1[:, :, newest], new2[:, :, newest], path_calendar(calendar, layout, newest))
        new1[:, :, i], new2[:, :, i] = paths.sample(i, draw, keep)
    return new1, new2


def path_calendar(calendar: Tensor, layout: PrefixLayout, steps: slice) -> Tensor:
    """Calendar vectors (G, R, L, D) of some steps of the paths, from those of contexts and paths (G, T + H, D)."""
    offsets = torch.arange(steps.start, steps.stop, device=calendar.device)
    return calendar[:, layout.row_ends[:, None] + offsets]


class CachedPaths:
    """Caches of all rows after a shared prefix, extended token by token.

    Parameters
    ----------
    engine : ModelEngine
    ids : pair of int64 (G, T)
        Sub-token ids of the contexts.
    calendar : (G, T, D)
        Calendar vectors of the contexts.
    layout : PrefixLayout
    capacity : int
        Tokens that a row may append.
    """

    def __init__(
        self, engine: ModelEngine, ids: tuple[Tensor, Tensor], calendar: Tensor, layout: PrefixLayout, capacity: int
    ) -> None:
        self.engine, self.layout = engine, layout
        groups, length = ids[0].shape
        rows = len(layout.row_ends)
        self.shape = (groups, rows)
        mask = layout.hidden_keys(length)
        hidden, keys_values = self._prefill(ids, calendar)
        self.caches = [SharedPrefixCache(k, v, rows, capacity, mask) for k, v in keys_values[:-1]]
        self.dependency = SharedPrefixCache(*keys_values[-1], rows, capacity, mask)
        self.length, self.capacity = 0, capacity
        self.step: AppendStep | None = None
        self.last = hidden[:, layout.ends - 1].repeat_interleave(layout.n_paths, dim=1)

    def _prefill(self, ids: tuple[Tensor, Tensor], calendar: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Hidden states (G, T, D) of the context, and keys and values of each block and of the dependency layer."""
        engine, parts = self.engine, []
        for s1, s2, times in zip(*(x.split(max(1, PREFILL_TOKENS // ids[0].shape[1])) for x in (*ids, calendar)),
                                 strict=True):  # fmt: skip
            x, keys_values = engine.stack.prefill(engine.embed(s1, s2, times))
            hidden = engine.hidden(x)
            k, v = engine.dependency_keys_values(hidden)
            parts.append((hidden, [*keys_values, (k.transpose(1, 2), v.transpose(1, 2))]))
        hidden = torch.cat([part[0] for part in parts])
        layers = zip(*(part[1] for part in parts), strict=True)
        return hidden, [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]

    def extend(self, s1: Tensor, s2: Tensor, calendar: Tensor) -> None:
        """Append L tokens (G, R, L) with calendar vectors (G, R, L, D) to the rows."""
        engine, length = self.engine, s1.shape[-1]
        positions = self.layout.row_ends[:, None] + torch.arange(self.length, self.length + length, device=s1.device)
        step = AppendStep.new(self.length, length, self.capacity, self.last)
        x = engine.stack.extend(engine.embed(s1, s2, calendar), self.caches, positions, step)
        hidden = engine.hidden(x)
        self.dependency.append(*engine.dependency_keys_values(hidden), step)
        self.length += length
        # The next query of the dependency layer is a single token that attends to all of the path.
        self.step = AppendStep.new(self.length - 1, 1, self.capacity, self.last)
        self.last = hidden[:, :, -1]

    def coarse_logits(self) -> Tensor:
        """Logits (G, R, V1) of the next coarse id; rows of an origin are equal before the first token."""
        if self.length == 0:
            first = self.last[:, :: self.layout.n_paths]
            return self.engine.head_s1(first).repeat_interleave(self.layout.n_paths, dim=1)
        return self.engine.head_s1(self.last)

    def fine_logits(self, s1: Tensor) -> Tensor:
        """Logits (G, R, V2) of the next fine id given the coarse one (G, R)."""
        mixed = self.dependency.attend(self.engine.queries[s1].unsqueeze(2), self.step).squeeze(2)
        return self.engine.head_s2(rms(self.engine.dep_out(mixed, other=self.last)))

    def sample(self, step: int, draw: Draw, keep: Filter) -> tuple[Tensor, Tensor]:
        """Draw the next token's ids (G, R), the coarse one first."""
        s1 = draw(keep.probabilities(self.coarse_logits()), step, 0)
        return s1, draw(keep.probabilities(self.fine_logits(s1)), step, 1)
