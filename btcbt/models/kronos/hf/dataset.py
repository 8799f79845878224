"""Candle windows as tokens, for transformers' `Trainer` or any loop over a torch `DataLoader`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from btcbt.config import time_ms
from btcbt.models.kronos.hf.auto import IGNORED
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.training.batches import WindowSampler, make_batch
from btcbt.models.kronos.training.recipe import Span
from btcbt.records import Candles

_EVER = Span(start=datetime(1970, 1, 1, tzinfo=UTC), end=datetime(9999, 1, 1, tzinfo=UTC))


class CandleDataset(Dataset[dict[str, Tensor]]):
    """Contiguous windows of context + horizon candles, scaled on their context alone.

    An item holds what `KronosForCausalLM.forward` takes: ``s1`` and ``s2`` int64 (W,), ``stamp`` int64 (W, 5), and
    ``labels`` int64 (W, 2), which are `IGNORED` over the context: the loss counts the candles after it. Neither
    the scaling nor the tokens of the context depend on the candles to be predicted.

    Parameters
    ----------
    candles : Candles or sequence of Candles
        One or several histories, as `btcbt.candles.read_candles` gives them.
    tokenizer : KronosTokenizer
        The tokenizer that the model was trained with.
    context, horizon : int
        T and H.
    start, end : datetime, optional
        Windows lie entirely in [start, end), UTC. Keep context + horizon candles between a training and an evaluation
        range, or their windows overlap.
    stride : int
        Every `stride`-th window.
    clip : float
        Bound on scaled values.

    Raises
    ------
    CandleError
        If the span holds no window.
    """

    def __init__(
        self,
        candles: Candles | Sequence[Candles],
        tokenizer: KronosTokenizer,
        *,
        context: int = 360,
        horizon: int = 48,
        start: datetime | None = None,
        end: datetime | None = None,
        stride: int = 1,
        clip: float = 5.0,
    ) -> None:
        if context < 2 or horizon < 1 or stride < 1:
            raise ValueError(f"context {context}, horizon {horizon}, stride {stride}: expected at least 2, 1 and 1")
        histories = [candles] if isinstance(candles, Candles) else list(candles)
        span = Span(start=start or _EVER.start, end=end or _EVER.end)
        self.windows = WindowSampler(histories, time_ms(span.start), time_ms(span.end), context + horizon)
        self.windows.starts = self.windows.starts[::stride]
        self.tokenizer = tokenizer.eval()
        self.context, self.clip = context, clip

    def __len__(self) -> int:
        return len(self.windows.starts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    @torch.no_grad()
    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Tokenise some windows at once; a `DataLoader` asks for whole batches by this."""
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"window {rows.min()} or {rows.max()} of {len(self)}")
        batch = make_batch(*self.windows.values(rows), self.context, self.clip)
        device = self.tokenizer.embed.weight.device
        s1, s2 = (ids.cpu() for ids in self.tokenizer.encode(batch.candles.to(device)))
        labels = torch.stack((s1, s2), dim=-1)
        labels[:, : self.context] = IGNORED
        names = ("s1", "s2", "stamp", "labels")
        return [dict(zip(names, item, strict=True)) for item in zip(s1, s2, batch.stamps, labels, strict=True)]
