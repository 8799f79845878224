"""Sampling futures: encode and prefill each context once, then grow all of its paths together.

The arithmetic per origin is one pass over the context and S x H new tokens; the reference repeats the whole context
for each path and step. Beyond rounding, the tokens are the reference's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from btcbt.errors import ConfigError
from btcbt.models.kronos.inference.cache import CachedStack, Scratch, SharedMemory, Step, fold_norm, rms
from btcbt.models.kronos.inference.sampling import Draw, Filter, KeyedDraw
from btcbt.models.kronos.network.linear import Linear
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.shapes import DEPENDENCY_HEADS
from btcbt.records import CLOSE

_log = logging.getLogger(__name__)

PREFILL_TOKENS = 4096
"""Context tokens that go through the network at once; more only costs memory."""
DECODE_SCORES = 1 << 22
"""Attention scores held at once when paths are decoded, in numbers."""
PATH_BYTES = 1 << 28
"""Memory for the paths in the making, on a CPU; on a GPU it is half of what is free."""
LEAST_PATHS = 64
"""So many paths of an origin are never parted: it would only repeat its prefill."""


@dataclass(frozen=True)
class Layout:
    """How the rows of a generation share prefixes.

    Attributes
    ----------
    ends : int64 (J,)
        Context tokens that each origin of a group sees; J = 1 unless origins share an anchored context.
    n_paths : int
        S. A group has R = J * S rows, origin by origin.
    """

    ends: Tensor
    n_paths: int

    @property
    def row_ends(self) -> Tensor:
        """Context tokens that each row sees, (R,)."""
        return self.ends.repeat_interleave(self.n_paths)

    def hidden_keys(self, length: int) -> Tensor | None:
        """Mask (R, length) of the context tokens that a row must not see; None if it may see all."""
        if len(self.ends) == 1:
            return None
        return torch.arange(length, device=self.ends.device) >= self.row_ends[:, None]


class TokenizerEngine:
    """Encodes contexts, and decodes generated tokens behind a shared prefix. Always float32."""

    def __init__(self, tokenizer: KronosTokenizer, device: torch.device, packed: bool = True) -> None:
        self.tokenizer = tokenizer.to(device, torch.float32)
        self.encoder = CachedStack(tokenizer.encoder, torch.float32, device, packed)
        self.decoder = CachedStack(tokenizer.decoder, torch.float32, device, packed)

    def encode(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Sub-token ids (G, T) of scaled candles (G, T, 6)."""
        ids = []
        for part in scaled.split(max(1, PREFILL_TOKENS // scaled.shape[1])):
            z, _ = self.encoder.prefill(self.tokenizer.embed(part))
            ids.append(self.tokenizer.tokenizer.ids(self.tokenizer.quant_embed(z)))
        s1, s2 = zip(*ids, strict=True)
        return torch.cat(s1), torch.cat(s2)

    def decode(self, context: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        """Scaled candles (G, R, H, 6) of generated ids (G, R, H) behind context ids (G, T)."""
        rows, horizon = new[0].shape[1:]
        scores = rows * horizon * (context[0].shape[1] + horizon) * self.decoder.blocks[0].n_heads
        size = max(1, DECODE_SCORES // scores)
        parts = zip(*(ids.split(size) for ids in (*context, *new)), strict=True)
        return torch.cat([self._decode((c1, c2), (n1, n2), layout) for c1, c2, n1, n2 in parts])

    def _decode(self, context: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        length, (rows, horizon) = context[0].shape[1], new[0].shape[1:]
        _, kept = self.decoder.prefill(self._embed(*context))
        hidden = layout.hidden_keys(length)
        memories = [SharedMemory(k, v, rows, horizon, hidden) for k, v in kept]
        groups = context[0].shape[0] * self.decoder.blocks[0].n_heads
        scratch = Scratch.new(groups, rows * horizon, length + horizon, kept[0][0])
        positions = layout.row_ends[:, None] + torch.arange(horizon, device=new[0].device)
        step = Step.new(0, horizon, horizon, kept[0][0])
        return self.tokenizer.head(self.decoder.extend(self._embed(*new), memories, positions, scratch, step))

    def price_orders(self) -> tuple[Tensor, Tensor]:
        """Coarse and fine ids in the order of the close that they decode to, each as a sequence of one candle.

        The fine ids are decoded beside the coarse one in the middle; what they mean beside others is much alike.
        """
        config, device = self.tokenizer.config, self.tokenizer.head.weight.device
        every = [torch.arange(2**bits, device=device)[:, None] for bits in (config.s1_bits, config.s2_bits)]
        middle = torch.full_like(every[0], 2**config.s2_bits // 2)
        coarse = self.tokenizer.decode([every[0], middle])[:, 0, CLOSE].argsort(stable=True)
        beside = coarse[len(coarse) // 2].expand_as(every[1])
        return coarse, self.tokenizer.decode([beside, every[1]])[:, 0, CLOSE].argsort(stable=True)

    def _embed(self, s1: Tensor, s2: Tensor) -> Tensor:
        return self.tokenizer.post_quant_embed(self.tokenizer.tokenizer.codes(s1, s2))


class ModelEngine:
    """The decoder-only network as tables and fused products."""

    def __init__(self, model: Kronos, device: torch.device, dtype: torch.dtype, packed: bool = True) -> None:
        self.dtype = dtype
        self.d_model = d = model.config.d_model
        self.stack = CachedStack(model.transformer, dtype, device, packed)
        embedding, attention = model.embedding, model.dep_layer.cross_attn

        def place(x: Tensor) -> Tensor:
            return x.detach().to(device, dtype)

        def linear(weight: Tensor, bias: Tensor) -> Linear:
            return Linear(place(weight), place(bias), packed=packed)

        first, second = embedding.fusion_proj.weight.split(d, dim=1)
        self.table_s1 = place(embedding.emb_s1.weight * embedding.scale @ first.T)
        self.table_s2 = place(embedding.emb_s2.weight * embedding.scale @ second.T + embedding.fusion_proj.bias)
        self.calendar = [place(table) for table in model.time_emb.tables()]
        self.norm = place(model.norm.weight)
        self.head_s1 = linear(model.head.proj_s1.weight, model.head.proj_s1.bias)
        # The dependency layer asks with the raw embedding of the coarse id: a table of queries.
        self.head_dim = d // DEPENDENCY_HEADS
        queries = embedding.emb_s1.weight @ attention.q_proj.weight.T + attention.q_proj.bias
        self.queries = place(queries * self.head_dim**-0.5).unflatten(-1, (DEPENDENCY_HEADS, -1))
        self.dep_kv = linear(
            torch.cat((attention.k_proj.weight, attention.v_proj.weight)),
            torch.cat((attention.k_proj.bias, attention.v_proj.bias)),
        )
        self.dep_out = linear(attention.out_proj.weight, attention.out_proj.bias)
        self.head_s2 = linear(
            fold_norm(model.head.proj_s2.weight, model.dep_layer.norm.weight), model.head.proj_s2.bias
        )

    def embed(self, s1: Tensor, s2: Tensor, calendar: Tensor) -> Tensor:
        """Inputs (..., D) of ids (...) with their calendar vectors (..., D)."""
        return self.table_s1[s1] + self.table_s2[s2] + calendar

    def calendar_vectors(self, stamps: Tensor) -> Tensor:
        """Sum of the calendar embeddings (G, T, D) of stamps (G, T, 5)."""
        minute, hour, weekday, day, month = (table[stamps[..., i]] for i, table in enumerate(self.calendar))
        return hour + weekday + day + month + minute

    def hidden(self, x: Tensor) -> Tensor:
        """Last norm of the trunk."""
        return rms(x) * self.norm

    def dependency_memory(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., heads, head_dim) of hidden states (..., D)."""
        k, v = self.dep_kv(hidden).unflatten(-1, (2, DEPENDENCY_HEADS, -1)).unbind(-3)
        return k, v


class Growth:
    """Paths in the making: the caches of all rows behind one prefix."""

    def __init__(
        self, engine: ModelEngine, ids: tuple[Tensor, Tensor], calendar: Tensor, layout: Layout, capacity: int
    ) -> None:
        self.engine, self.layout = engine, layout
        groups, length = ids[0].shape
        rows = len(layout.row_ends)
        self.shape = (groups, rows)
        mask = layout.hidden_keys(length)
        hidden, kept = self._prefill(ids, calendar)
        self.memories = [SharedMemory(k, v, rows, capacity, mask) for k, v in kept[:-1]]
        self.dependency = SharedMemory(*kept[-1], rows, capacity, mask)
        heads = engine.stack.blocks[0].n_heads
        self.scratch = Scratch.new(groups * heads, rows, length + capacity, hidden)
        self.dep_scratch = Scratch.new(groups * DEPENDENCY_HEADS, rows, length + capacity, hidden)
        self.length, self.capacity = 0, capacity
        self.step: Step | None = None
        self.last = hidden[:, layout.ends - 1].repeat_interleave(layout.n_paths, dim=1)

    def _prefill(self, ids: tuple[Tensor, Tensor], calendar: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Hidden states (G, T, D) of the context, and keys and values of each block and of the dependency layer."""
        engine, parts = self.engine, []
        for s1, s2, times in zip(*(x.split(max(1, PREFILL_TOKENS // ids[0].shape[1])) for x in (*ids, calendar)),
                                 strict=True):  # fmt: skip
            x, kept = engine.stack.prefill(engine.embed(s1, s2, times))
            hidden = engine.hidden(x)
            k, v = engine.dependency_memory(hidden)
            parts.append((hidden, [*kept, (k.transpose(1, 2), v.transpose(1, 2))]))
        hidden = torch.cat([part[0] for part in parts])
        layers = zip(*(part[1] for part in parts), strict=True)
        return hidden, [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]

    def extend(self, s1: Tensor, s2: Tensor, calendar: Tensor) -> None:
        """Append L tokens (G, R, L) with calendar vectors (G, R, L, D) to the rows."""
        engine, length = self.engine, s1.shape[-1]
        positions = self.layout.row_ends[:, None] + torch.arange(self.length, self.length + length, device=s1.device)
        scratch = self.scratch
        if length > 1:
            scratch = Scratch.new(scratch.scores.shape[0], self.shape[1] * length, scratch.scores.shape[2], self.last)
        step = Step.new(self.length, length, self.capacity, self.last)
        x = engine.stack.extend(engine.embed(s1, s2, calendar), self.memories, positions, scratch, step)
        hidden = engine.hidden(x)
        k, v = engine.dependency_memory(hidden)
        self.dependency.append(k.permute(0, 3, 1, 2, 4), v.permute(0, 3, 1, 2, 4), step)
        self.length += length
        # The next question to the dependency layer comes from a single token that sees all of the path.
        self.step = Step.new(self.length - 1, 1, self.capacity, self.last)
        self.last = hidden[:, :, -1]

    def coarse_logits(self) -> Tensor:
        """Logits (G, R, V1) of the next coarse id; (G, J, V1) repeated while rows have not parted."""
        if self.length == 0:
            first = self.last[:, :: self.layout.n_paths]
            return self.engine.head_s1(first).repeat_interleave(self.layout.n_paths, dim=1)
        return self.engine.head_s1(self.last)

    def fine_logits(self, s1: Tensor) -> Tensor:
        """Logits (G, R, V2) of the next fine id given the coarse one (G, R)."""
        query = self.engine.queries[s1].unsqueeze(2).permute(0, 3, 1, 2, 4)
        mixed = self.dependency.attend(query, self.dep_scratch, self.step).squeeze(2)
        return self.engine.head_s2(rms(self.engine.dep_out(mixed, other=self.last)))


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
        Of the model's weights and cache; the tokenizer stays float32, for bfloat16 flips 2.7 % of its tokens.
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
        self.max_context, self.device = max_context, device
        self.shapes = tokenizer.config, model.config
        with torch.inference_mode():
            self.tokens = TokenizerEngine(tokenizer, device, packed)
            self.model = ModelEngine(model, device, dtype, packed)
        self._warned = False

    @cached_property
    def price_orders(self) -> tuple[Tensor, Tensor]:
        """Orders of the tokens for `KeyedDraw`; only systematic sampling asks for them."""
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

        More paths than memory holds are made part by part, which changes them by rounding alone if their random
        numbers are keyed; a `MultinomialDraw` goes on through the parts, in another order than the reference's.

        Parameters
        ----------
        scaled : float32 (G, T, 6)
            Scaled and clipped contexts.
        stamps : int64 (G, T + H, 5)
            Calendar of the context and of the candles to come.
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
                layout = Layout(seen, min(paths, n_paths - at))
                numbers = _part(draw, group, slice(at, at + layout.n_paths), len(seen), n_paths)
                new = self._grow(context, stamps[group], horizon, layout, numbers, keep)
                parts.append(self._candles(context, new, layout))
            whole.append(torch.cat(parts, dim=2))
        return torch.cat(whole)

    def _parts(self, groups: int, n_paths: int, n_origins: int, length: int, horizon: int) -> tuple[int, int]:
        """How many contexts, and how many paths of each of their origins, are sampled at once."""
        if n_paths <= LEAST_PATHS:
            return groups, n_paths
        memory = PATH_BYTES
        if self.device.type == "cuda":
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            memory = (torch.cuda.mem_get_info(self.device)[0] + kept) // 2
        grown, decoded = (memory // (n_origins * size) for size in self._bytes_per_path(length, horizon))
        # Decoding takes one context after the other by itself if they are large.
        return min(groups, max(1, grown // n_paths)), min(n_paths, max(LEAST_PATHS, min(grown, decoded)))

    def _bytes_per_path(self, length: int, horizon: int) -> tuple[int, int]:
        """Caches and scratch of one path at their largest, when it grows and when it is decoded."""
        coder, shape = self.shapes
        seen = min(length, self.max_context) + horizon
        queries = 1 if length + horizon - 1 <= self.max_context else horizon  # a window that moves is computed anew
        grown = 2 * (shape.n_layers + 1) * horizon * shape.d_model
        grown += queries * (2 * (shape.n_heads + DEPENDENCY_HEADS) * seen + 16 * shape.d_model + 4 * shape.ff_dim)
        grown += 8 * 2 ** max(shape.s1_bits, shape.s2_bits)
        decoded = 2 * coder.n_heads * seen + (2 * coder.n_dec_layers + 16) * coder.d_model + 4 * coder.ff_dim
        return 4 * grown, 4 * horizon * decoded

    def _candles(self, ids: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        """Candles (G, J, S, H, 6) of the ids (G, R, H) that were sampled behind context ids (G, T)."""
        start = max(0, ids[0].shape[1] + new[0].shape[2] - self.max_context)
        window = Layout(layout.ends - start, layout.n_paths)
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

    def _grow(
        self,
        ids: tuple[Tensor, Tensor],
        stamps: Tensor,
        horizon: int,
        layout: Layout,
        draw: Draw,
        keep: Filter,
    ) -> tuple[Tensor, Tensor]:
        """Sample ids (G, R, H), both sub-tokens."""
        groups, length = ids[0].shape
        rows = len(layout.row_ends)
        calendar = self.model.calendar_vectors(stamps)
        new1, new2 = (torch.empty(groups, rows, horizon, dtype=torch.long, device=self.device) for _ in range(2))
        steps = torch.arange(horizon, device=self.device)
        growth: Growth | None = None
        for i in range(horizon):
            start = max(0, length + i - self.max_context)
            fresh = growth is None or start > 0
            if fresh:  # the first step, or a window that moved: positions restart at 0, as in the reference
                window = Layout(layout.ends - start, layout.n_paths)
                context = (ids[0][:, start:], ids[1][:, start:])
                growth = Growth(self.model, context, calendar[:, start:length], window, horizon)
            assert growth is not None  # noqa: S101 - set above
            since = slice(0, i) if fresh else slice(i - 1, i)
            if i:
                times = calendar[:, layout.row_ends[:, None] + steps[since]]
                growth.extend(new1[:, :, since], new2[:, :, since], times)
            new1[:, :, i] = draw(keep.probabilities(growth.coarse_logits()), i, 0)
            new2[:, :, i] = draw(keep.probabilities(growth.fine_logits(new1[:, :, i])), i, 1)
        return new1, new2


def _part(draw: Draw, groups: slice, paths: slice, n_origins: int, n_paths: int) -> Draw:
    """What draws for some of the paths of each origin of some groups: their own numbers, where numbers have owners."""
    if not isinstance(draw, KeyedDraw):
        return draw
    numbers = draw.uniforms[groups, : n_origins * n_paths].unflatten(1, (n_origins, n_paths))
    return KeyedDraw(numbers[:, :, paths].flatten(1, 2), draw.orders)
