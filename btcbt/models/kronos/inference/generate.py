"""Sampling paths: encode and prefill each context once, then sample all of its paths together.

The work per origin is one pass over the context and S x H new tokens; the reference repeats the whole context for
each path and step. Up to rounding, the tokens are the reference's. `cached_paths` samples within the model's window,
`sliding_paths` beyond it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from btcbt.errors import ConfigError
from btcbt.models.kronos.inference.cached_paths import sample_cached
from btcbt.models.kronos.inference.engines import ModelEngine, PrefixLayout, TokenizerEngine
from btcbt.models.kronos.inference.sampling import Draw, Filter, KeyedDraw
from btcbt.models.kronos.inference.sliding_paths import sample_sliding
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.shapes import DEPENDENCY_HEADS

_log = logging.getLogger(__name__)

PATH_BYTES = 1 << 28
"""Memory for the paths being sampled, on a CPU; on a GPU it is half of what is free."""
MIN_PATHS = 64
"""Paths of an origin that are never split: splitting would only repeat the prefill."""


class PathGenerator:
    """Samples paths of scaled candles.

    Parameters
    ----------
    tokenizer, model
        The networks; moved to `device`.
    max_context : int
        Tokens that the model attends to.
    device : torch.device
    dtype : torch.dtype
        Of the model's weights and cache; the tokenizer stays float32, since bfloat16 changes 2.7 % of its tokens.
    packed : bool
        See `Linear`.
    """

    def __init__(
        self,
        tokenizer: KronosTokenizer,
        model: Kronos,
        *,
        max_context: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        packed: bool = True,
    ) -> None:
        self.max_context = max_context
        self.shapes = tokenizer.config, model.config
        self._networks = tokenizer, model, dtype, packed
        self._move(device)
        self._warned = False

    def _move(self, device: torch.device) -> None:
        tokenizer, model, dtype, packed = self._networks
        self.device = device
        with torch.inference_mode():
            self.tokens = TokenizerEngine(tokenizer, device, packed)
            self.model = ModelEngine(model, device, dtype, packed)

    @cached_property
    def price_orders(self) -> tuple[Tensor, Tensor]:
        """Orders of the tokens for `KeyedDraw`; only systematic sampling uses them."""
        with torch.inference_mode():
            return self.tokens.price_orders()

    @torch.inference_mode()
    def generate(
        self,
        scaled: Tensor,
        stamps: Tensor,
        *,
        horizon: int,
        n_paths: int,
        draw: Draw,
        keep: Filter,
        ends: Sequence[int] | None = None,
    ) -> Tensor:
        """Sample the H candles after each context.

        More paths than memory holds are sampled in parts, which changes them by rounding alone if their random
        numbers are keyed; a `MultinomialDraw` then draws in another order than the reference.

        Parameters
        ----------
        scaled : float32 (G, T, 6)
            Scaled and clipped contexts.
        stamps : int64 (G, T + H, 5)
            Calendar of the context and of the H candles after it.
        horizon, n_paths : int
        draw, keep : Draw, Filter
        ends : J ints, optional
            Anchored contexts: origin j of each group sees the first ``ends[j]`` candles. By default one origin
            sees all T.

        Returns
        -------
        float32 (G, J, S, H, 6)
            Scaled candles.

        Raises
        ------
        ConfigError
            If the horizon, or an anchored block, does not fit `max_context`.
        """
        sample = partial(self._generate, scaled, stamps, horizon, n_paths, draw, keep, ends)
        try:
            return sample()
        except NotImplementedError as error:  # torch's word for an operator that a device lacks
            if self.device.type != "mps":
                raise
            _log.warning("device 'mps' lacks an operator that Kronos needs; the CPU is used instead (%s)", error)
            self._move(torch.device("cpu"))
            return sample()

    def _generate(
        self,
        scaled: Tensor,
        stamps: Tensor,
        horizon: int,
        n_paths: int,
        draw: Draw,
        keep: Filter,
        ends: Sequence[int] | None,
    ) -> Tensor:
        length = scaled.shape[1]
        seen = torch.tensor(ends or [length], device=self.device)
        self._check(length, horizon, anchored=ends is not None)
        stamps = stamps.to(self.device)
        ids = self.tokens.encode(scaled.to(self.device, torch.float32))
        groups, paths = self._parts(len(scaled), n_paths, len(seen), length, horizon)
        whole = []
        for group in (slice(at, at + groups) for at in range(0, len(scaled), groups)):
            context = (ids[0][group], ids[1][group])
            parts = []
            for at in range(0, n_paths, paths):
                layout = PrefixLayout(seen, min(paths, n_paths - at))
                numbers = _draw_for(draw, group, slice(at, at + layout.n_paths), len(seen), n_paths)
                new = self._sample(context, stamps[group], horizon, layout, numbers, keep)
                parts.append(self._candles(context, new, layout))
            whole.append(torch.cat(parts, dim=2))
        return torch.cat(whole)

    @torch.inference_mode()
    def reconstruct(self, scaled: Tensor, *, horizon: int) -> Tensor:
        """Contexts encoded and decoded, as they are before the paths of `generate`.

        Parameters
        ----------
        scaled : float32 (G, T, 6)
            Scaled and clipped contexts.
        horizon : int
            Of the paths: where context and horizon exceed `max_context`, the oldest candles are not decoded.

        Returns
        -------
        float32 (G, T', 6)
            The newest T' scaled candles, T' = T but for that.
        """
        ids = self.tokens.encode(scaled.to(self.device, torch.float32))
        start = self._first_decoded(scaled.shape[1], horizon)
        return self.tokens.reconstruct((ids[0][:, start:], ids[1][:, start:]))

    def _first_decoded(self, length: int, horizon: int) -> int:
        """The oldest context token with which paths are decoded."""
        return max(0, length + horizon - self.max_context)

    def _parts(self, groups: int, n_paths: int, n_origins: int, length: int, horizon: int) -> tuple[int, int]:
        """How many contexts, and how many paths of each of their origins, to sample at once."""
        if n_paths <= MIN_PATHS:
            return groups, n_paths
        memory = PATH_BYTES
        if self.device.type == "cuda":
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            memory = (torch.cuda.mem_get_info(self.device)[0] + kept) // 2
        sampled, decoded = (memory // (n_origins * size) for size in self._bytes_per_path(length, horizon))
        # Decoding splits large contexts by itself.
        return min(groups, max(1, sampled // n_paths)), min(n_paths, max(MIN_PATHS, min(sampled, decoded)))

    def _bytes_per_path(self, length: int, horizon: int) -> tuple[int, int]:
        """Largest memory of the caches and buffers of one path, when it is sampled and when it is decoded."""
        coder, shape = self.shapes
        seen = min(length, self.max_context) + horizon
        queries = 1 if length + horizon - 1 <= self.max_context else horizon  # a sliding window is recomputed
        sampled = 2 * (shape.n_layers + 1) * horizon * shape.d_model
        sampled += queries * (2 * (shape.n_heads + DEPENDENCY_HEADS) * seen + 16 * shape.d_model + 4 * shape.ff_dim)
        sampled += 8 * 2 ** max(shape.s1_bits, shape.s2_bits)
        decoded = 2 * coder.n_heads * seen + (2 * coder.n_dec_layers + 16) * coder.d_model + 4 * coder.ff_dim
        return 4 * sampled, 4 * horizon * decoded

    def _candles(self, ids: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], layout: PrefixLayout) -> Tensor:
        """Candles (G, J, S, H, 6) of the ids (G, R, H) sampled after context ids (G, T)."""
        start = self._first_decoded(ids[0].shape[1], new[0].shape[2])
        window = layout.drop_oldest(start)
        paths = self.tokens.decode((ids[0][:, start:], ids[1][:, start:]), new, window)
        return paths.unflatten(1, (-1, layout.n_paths))

    def _check(self, length: int, horizon: int, anchored: bool) -> None:
        limit = self.max_context
        if horizon >= limit:
            raise ConfigError(f"horizon {horizon} does not fit max_context {limit}; give a horizon below it")
        if anchored and length + horizon > limit:
            raise ConfigError(
                f"an anchored block of {length} candles and horizon {horizon} need {length + horizon} tokens, "
                f"max_context is {limit}; shorten the context, the block or the horizon"
            )
        if length + horizon - 1 > limit and not self._warned:
            self._warned = True
            _log.warning(
                "context %d + horizon %d - 1 exceeds max_context %d: the oldest candles are dropped and the context "
                "is recomputed at every step, as the reference does; context <= %d avoids the cost",
                length, horizon, limit, limit - horizon + 1,
            )  # fmt: skip

    def _sample(
        self,
        ids: tuple[Tensor, Tensor],
        stamps: Tensor,
        horizon: int,
        layout: PrefixLayout,
        draw: Draw,
        keep: Filter,
    ) -> tuple[Tensor, Tensor]:
        """Sub-token ids (G, R, H) sampled after context ids (G, T)."""
        calendar = self.model.calendar_vectors(stamps)
        if ids[0].shape[1] + horizon - 1 <= self.max_context:
            return sample_cached(self.model, ids, calendar, layout, draw, keep, horizon=horizon, steps=horizon)
        return sample_sliding(
            self.model, ids, calendar, layout, draw, keep, horizon=horizon, max_context=self.max_context
        )


def _draw_for(draw: Draw, groups: slice, paths: slice, n_origins: int, n_paths: int) -> Draw:
    """The draw for some paths of each origin of some groups: their own numbers, if numbers are keyed."""
    if not isinstance(draw, KeyedDraw):
        return draw
    numbers = draw.uniforms[groups, : n_origins * n_paths].unflatten(1, (n_origins, n_paths))
    return KeyedDraw(numbers[:, :, paths].flatten(1, 2), draw.orders)
